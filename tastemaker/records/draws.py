"""Counter-based random draws: the same key gives the same numbers, whatever was drawn before.

A run that is resumed, split over processes or over micro-batches draws the same noise, timesteps,
crops and prompts, because nothing here has a state that could be lost.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True)
class Draw:
    """The name of one random decision.

    Attributes:
        seed: the run's seed.
        purpose: what is drawn: `noise`, `timestep`, `crop`, `prompt`, `dropout`, ...
        sample_id: which sample it is for.
        visit: how often the run has seen the sample before.
    """

    seed: int
    purpose: str
    sample_id: str
    visit: int = 0

    def key(self) -> int:
        """128-bit key: blake2b of the length-prefixed fields, so no names collide by joining."""
        fields = (str(self.seed), self.purpose, self.sample_id, str(self.visit))
        text = "".join(f"{len(field)}:{field}" for field in fields)
        return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")

    def generator(self) -> np.random.Generator:
        """A fresh Philox generator.

        Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
        """
        return np.random.Generator(np.random.Philox(key=self.key()))

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return float(self.generator().random())

    def integer(self, below: int) -> int:
        """One whole number in [0, below)."""
        return int(self.generator().integers(below))
