"""A beta that follows the size of the margins, for references that move.

A reference that follows the policy keeps the margins small, so a beta that suits a frozen one is
hundreds of times too weak. Here beta is set such that a margin of average size has a given logit:

    beta = logit(1 - g) / mean |u|

with the margin u in the unit of the convention (`objectives.pairs`), and g the share of the largest
possible gradient that a pair of average margin keeps: sigmoid(-beta u) = g. SimpleTuner's
`auto_beta` is this with u = m / 2 and g = 0.2; its average restarts when a run is resumed. g is
the logistic link's; with the hinge a pair of average margin, whose logit is 1.39, keeps none.

Not for IPO, which pulls every margin to 1 / (2 beta): that is then 0.36 of the average one (with
g = 0.2), always less than there is, and all margins shrink to 0.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Number = Float[Tensor, ""]

NO_IPO = "it pulls margins to a share of their own average, and so to 0"


@dataclass(frozen=True)
class MarginAverage:
    """Moving average of |u| over steps, float32 on the device, so that no step waits for it.

    Attributes:
        total: decayed sum of the batches' means.
        weight: decayed count of them; total / weight is the average, without a bias at the start.
    """

    total: Number
    weight: Number

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "MarginAverage":
        """No step yet."""
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))

    def state(self) -> dict[str, float]:
        """For a checkpoint; reads the device. JSON keeps a float32 exactly."""
        return {"total": float(self.total), "weight": float(self.weight)}

    @classmethod
    def restored(
        cls, state: dict[str, float], device: torch.device | str = "cpu"
    ) -> "MarginAverage":
        """What `state` gave, bit for bit."""
        total, weight = (torch.tensor(state[name], device=device) for name in ("total", "weight"))
        return cls(total, weight)


@dataclass(frozen=True)
class AutoBeta:
    """How beta follows; all values are ours but `gradient`, which is SimpleTuner's.

    Attributes:
        gradient: g, the share of the largest gradient that a pair of average margin keeps.
        decay: of the average, per step.
        least: beta is never below this.
        most: beta is never above this; it also bounds the first steps, when margins are nearly 0.
    """

    gradient: float = 0.2
    decay: float = 0.99
    least: float = 1.0
    most: float = 1e6

    def __post_init__(self) -> None:
        """Refuse what has no beta."""
        if not 0.0 < self.gradient < 0.5:
            raise ValueError(f"gradient must lie in (0, 0.5), got {self.gradient}")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")
        if not 0.0 < self.least <= self.most:
            raise ValueError(f"betas from {self.least} to {self.most}")

    def updated(self, average: MarginAverage, total: Number, count: Number) -> MarginAverage:
        """The average after one more step.

        A step whose margins are all 0 (the first one, where policy and reference are the same)
        says nothing of their size, and leaves it as it is.

        Args:
            average: before the step.
            total: sum of |u| over the pairs of the whole batch, in all processes.
            count: number of these pairs.
        """
        mean = (total / count).to(average.total.dtype)
        seen = mean > 0
        rest = 1.0 - self.decay
        after = self.decay * average.total + rest * mean
        weight = self.decay * average.weight + rest
        return MarginAverage(
            torch.where(seen, after, average.total), torch.where(seen, weight, average.weight)
        )

    def beta(self, average: MarginAverage, first: float) -> Number:
        """Beta [] of the next step; `first` as long as no margin was seen."""
        # Where nothing was seen this is logit / inf = 0, and not used.
        mean = average.total / average.weight
        logit = math.log((1.0 - self.gradient) / self.gradient)
        beta = (logit / mean).clamp(self.least, self.most)
        return torch.where(average.weight > 0, beta, torch.full_like(beta, first))
