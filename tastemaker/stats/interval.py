"""A figure that never travels without its uncertainty."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval.

    Attributes:
        estimate: the figure itself.
        low: lower end.
        high: upper end.
        level: confidence, for example 0.95.
        units: how many independent units (prompts) it rests on.
    """

    estimate: float
    low: float
    high: float
    level: float
    units: int

    def __str__(self) -> str:
        """Write as `0.612 [0.541, 0.678]`."""
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def check_level(level: float) -> None:
    """Raise ValueError for a confidence that is not between 0 and 1, such as 95."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, for example 0.95; got {level}")
