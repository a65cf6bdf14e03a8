"""Which pictures are near each other: the answer of every search for duplicates."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tastemaker.errors import InputError

MOST_PAIRS = 20_000_000
"""More pairs than this are refused: half a gigabyte, and no sensible limit gives so many (ours)."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of looks that are near each other.

    Pictures that the measure cannot tell apart (same group and same hashes, or the same vector)
    have one look: a hundred thousand blank pictures are one look and not 5e9 pairs.

    Attributes:
        measure: what `value` is: `bits` that differ, or the `cosine`.
        look_of: int64 `[N]`, the look of every picture, 0..K-1.
        left: int64 `[M]`, a look; at most `right`.
        right: int64 `[M]`, another look, or the same one where it is near its own mirror image and
            more than one picture has it.
        value: float64 `[M]`.
        mirrored: bool `[M]`, whether one of them is mirrored left to right. Two looks may be near
            both as they are and mirrored: these are two pairs.
    """

    measure: Literal["bits", "cosine"]
    look_of: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    mirrored: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """What is smaller the nearer they are, float64 `[M]`: the bits, or 1 - cosine."""
        return self.value if self.measure == "bits" else 1 - self.value

    @property
    def same(self) -> float:
        """The value of two pictures with one look."""
        return 0.0 if self.measure == "bits" else 1.0


def check_count(count: int, most: int, limit: str) -> None:
    """Refuse more pairs than fit into memory.

    Raises:
        InputError: `count` is above `most`.
    """
    if count > most:
        raise InputError(
            "near duplicates",
            f"more than {most:,} near pairs at {limit}",
            "few pictures that look alike",
            "Use a stricter limit, compare within smaller groups, or drop blank pictures first.",
        )
