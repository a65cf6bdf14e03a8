"""Did the same prompts come out better? Paired comparison of two models; the unit is the prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.stats.bootstrap import bootstrap
from tastemaker.stats.interval import Interval, check_level
from tastemaker.stats.winrate import WinRate, win_rate


@dataclass(frozen=True)
class PairedDifference:
    """How much the second side is above the first, over prompts that both answered.

    Attributes:
        differences: prompt id -> mean difference of its pictures, in the score's own unit.
        t: mean difference with Student's interval.
        bootstrap: mean difference with the BCa interval over prompts.
        win_rate: in how many prompts the second side is higher.
        sign_p: two-sided p value of the exact sign test.
    """

    differences: Mapping[str, float]
    t: Interval
    bootstrap: Interval
    win_rate: WinRate
    sign_p: float


def paired_difference(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare the scores of two models, prompt by prompt.

    Pictures of one prompt (same seeds on both sides) are first averaged, so that they count once.

    Args:
        before: prompt id -> scores of its pictures.
        after: the same prompts with as many pictures each.
        level: two-sided confidence of every interval.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: prompts or numbers of pictures differ, fewer than two prompts, or a score
            that is not finite. Nothing is left out silently.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"{len(odd)} prompts are on one side only, first {odd[:3]}")
    uneven = sorted(p for p in before if not len(before[p]) == len(after[p]) > 0)
    if uneven:
        raise ValueError(f"{len(uneven)} prompts are not paired picture by picture: {uneven[:3]}")
    differences = {
        p: float(np.mean(np.asarray(after[p], float) - np.asarray(before[p], float)))
        for p in sorted(before)
    }
    d = np.array(list(differences.values()))
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    return PairedDifference(
        differences=differences,
        t=mean_interval(d, level),
        bootstrap=bootstrap(list(d), level=level, resamples=resamples, seed=seed),
        win_rate=win_rate(wins, losses, len(d) - wins - losses, level),
        sign_p=sign_test(wins, losses),
    )


def mean_interval(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> Interval:
    """Mean with Student's interval: mean -+ t(n - 1) * sd / sqrt(n).

    Student 1908, "The probable error of a mean". Give it one value a prompt: a difference, or the
    share of the prompt's votes that one side got.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    from scipy.stats import t

    check_level(level)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("a mean with an interval needs at least two finite values, one a prompt")
    mean = float(x.mean())
    half = float(t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, level, len(x))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p value of `wins` against Binomial(wins + losses, 1/2); ties are left out.

    Dixon and Mood 1946, "The statistical sign test". 1.0 where every prompt is a tie.
    """
    from scipy.stats import binomtest

    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5).pvalue)
