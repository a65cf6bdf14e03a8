"""How many prompts a study needs, and what a study of a given size can show.

All numbers count prompts. Several votes a prompt make its majority clearer; they do not replace
prompts.
"""

from dataclasses import dataclass
from math import ceil, comb, sqrt
from statistics import NormalDist

from tastemaker.stats.interval import check_level
from tastemaker.stats.winrate import wilson


def majority_rate(share: float, votes: int) -> float:
    """Win rate of the majority of `votes` independent votes that each choose a with P = `share`.

        sum over k of C(v, k) s^k (1 - s)^(v - k), k > v / 2, half of k = v / 2

    0.60 becomes 0.683 with 5 votes: a majority rate is no vote share, and neither is better than
    the other. Holds where all prompts are alike; where they differ, it is nearer to 1/2.

    Raises:
        ValueError: a share outside 0..1, or no vote.
    """
    if not 0 <= share <= 1 or votes < 1:
        raise ValueError(f"got share {share} and {votes} votes, expected 0..1 and at least 1")
    each = [comb(votes, k) * share**k * (1 - share) ** (votes - k) for k in range(votes + 1)]
    return sum(p if 2 * k > votes else p / 2 for k, p in enumerate(each) if 2 * k >= votes)


def prompts_needed(rate: float, power: float = 0.8, level: float = 0.95) -> int:
    """Prompts for a two-sided test of 1/2 to find a true majority win rate with this power.

        n = ((z_level * sqrt(1/4) + z_power * sqrt(p (1 - p))) / (p - 1/2))^2

    The normal approximation of the one-sample test of a proportion (Fleiss et al. 2003,
    "Statistical methods for rates and proportions", equation 2.18 without continuity correction).

    Args:
        rate: true win rate, not 1/2.
        power: chance to find it.
        level: confidence, 0.95 for a 5 % test.

    Raises:
        ValueError: a rate of exactly 1/2 or outside 0..1, or a power outside 0..1.
    """
    check_level(level)
    if not 0 < rate < 1 or rate == 0.5 or not 0 < power < 1:
        raise ValueError(f"got rate {rate} and power {power}, expected 0..1 and a rate not 0.5")
    normal = NormalDist()
    z = normal.inv_cdf((1 + level) / 2) / 2 + normal.inv_cdf(power) * sqrt(rate * (1 - rate))
    return ceil((z / (rate - 0.5)) ** 2)


def power_of(prompts: int, rate: float, level: float = 0.95) -> float:
    """Exact power of the two-sided sign test over `prompts` at a true win rate.

    The sum of Binomial(prompts, rate) over all results whose p value is at most 1 - level. It is a
    little below the normal approximation, and it rises in small steps back and forth.

    Raises:
        ValueError: no prompt, or a rate outside 0..1.
    """
    from scipy.stats import binom, binomtest

    check_level(level)
    if prompts < 1 or not 0 <= rate <= 1:
        raise ValueError(f"got {prompts} prompts and rate {rate}, expected 1 and more, and 0..1")
    # Rejected are the two tails; the tail's end is found by halving, since p falls towards it.
    low, high = 0, prompts // 2 + 1
    while low < high:
        middle = (low + high) // 2
        if binomtest(middle, prompts, 0.5).pvalue <= 1 - level:
            low = middle + 1
        else:
            high = middle
    rejected = low - 1
    if rejected < 0:
        return 0.0
    tails = binom.cdf(rejected, prompts, rate) + binom.sf(prompts - rejected - 1, prompts, rate)
    return float(min(1.0, tails))


def half_width(prompts: int, rate: float = 0.5, level: float = 0.95) -> float:
    """Half the width of Wilson's interval that a study of this size will show."""
    found = wilson(rate * prompts, prompts, level)
    return (found.high - found.low) / 2


@dataclass(frozen=True)
class StudyPlan:
    """What a study of a given size can show.

    Attributes:
        prompts: how many.
        votes: per prompt.
        half_width: of the headline interval at a win rate of 1/2.
        smallest_rate: the least true majority win rate that is found with `power`; None where even
            a model that always wins is not.
        power: the chance asked for.
        minutes: all votes together, at `seconds_per_vote`.
    """

    prompts: int
    votes: int
    half_width: float
    smallest_rate: float | None
    power: float
    minutes: float


def plan_study(
    prompts: int,
    votes: int = 5,
    power: float = 0.8,
    level: float = 0.95,
    seconds_per_vote: float = 6.0,
) -> StudyPlan:
    """The plan of a study of two models, to be shown before anybody votes.

    `smallest_rate` is exact for the sign test, to 0.001. The six seconds are ours.

    Raises:
        ValueError: no prompt or no vote.
    """
    if prompts < 1 or votes < 1:
        raise ValueError(f"got {prompts} prompts and {votes} votes, expected at least 1 of each")
    can = power_of(prompts, 1.0, level) >= power
    low, high = 500, 1000
    while low < high:
        middle = (low + high) // 2
        if power_of(prompts, middle / 1000, level) >= power:
            high = middle
        else:
            low = middle + 1
    return StudyPlan(
        prompts=prompts,
        votes=votes,
        half_width=half_width(prompts, level=level),
        smallest_rate=low / 1000 if can else None,
        power=power,
        minutes=prompts * votes * seconds_per_vote / 60,
    )
