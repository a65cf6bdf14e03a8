"""What tests of distributions share."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt

from jaxtyping import config

VISITS = 100_000
SOME = 20_000
"""Draws where the issue is not a figure that a source states."""


def within_three_sigma(found: int, p: float, of: int = VISITS) -> bool:
    """Whether a binomial count is within three standard deviations of its mean."""
    return abs(found - of * p) <= 3 * sqrt(of * p * (1 - p))


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of argument types, which take ten times as long as the draws."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
