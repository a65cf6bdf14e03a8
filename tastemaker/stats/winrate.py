"""Win rates. The unit is the prompt: one win, loss or tie, however many votes it got."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from tastemaker.stats.interval import Interval, check_level


@dataclass(frozen=True)
class WinRate:
    """How often the first side won.

    Attributes:
        wins: prompts that the first side won.
        losses: prompts that the second side won.
        ties: prompts without a winner; each counts as half a win.
        rate: (wins + ties / 2) / prompts, with its Wilson interval.
    """

    wins: int
    losses: int
    ties: int
    rate: Interval


def win_rate(wins: int, losses: int, ties: int = 0, level: float = 0.95) -> WinRate:
    """The win rate over prompts, ties half, with Wilson's interval.

    With ties the variance of a prompt is below rate * (1 - rate), so the interval is wider than it
    need be, never narrower.

    Raises:
        ValueError: a negative count, or no prompt at all.
    """
    if min(wins, losses, ties) < 0:
        raise ValueError(f"counts must not be negative: {wins} wins, {losses} losses, {ties} ties")
    rate = wilson(wins + ties / 2, wins + losses + ties, level)
    return WinRate(wins, losses, ties, rate)


def wilson(wins: int | float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion p = wins / n.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),   z the normal quantile

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        wins: successes; half ones are allowed for ties.
        n: trials, at least 1.
        level: two-sided confidence.
    """
    _check(wins, n, level)
    p, z = wins / n, NormalDist().inv_cdf((1 + level) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the exact value is 0 or 1; rounding must not leave a trace beyond it.
    low = 0.0 if wins == 0 else max(0.0, centre - half)
    high = 1.0 if wins == n else min(1.0, centre + half)
    return Interval(p, low, high, level, n)


def clopper_pearson(wins: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval: it covers at least as often as it says, at the price of width.

        low = Beta^-1(a/2; wins, n - wins + 1),   high = Beta^-1(1 - a/2; wins + 1, n - wins)

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of
    the binomial".
    """
    from scipy.stats import beta

    _check(wins, n, level)
    tail = (1 - level) / 2
    low = 0.0 if wins == 0 else float(beta.ppf(tail, wins, n - wins + 1))
    high = 1.0 if wins == n else float(beta.ppf(1 - tail, wins + 1, n - wins))
    return Interval(wins / n, low, high, level, n)


def _check(wins: int | float, n: int, level: float) -> None:
    check_level(level)
    if not (n >= 1 and 0 <= wins <= n):
        raise ValueError(f"a win rate needs 0 <= wins <= n and n >= 1, got {wins} of {n}")
