"""From votes to one result a prompt: the majority, and the share of the votes.

A vote is a `Choice` seen from side a; `skip` is no vote. The prompt is the unit of everything that
follows, because the votes of a prompt are not independent: intervals over votes that say 95 % cover
76 to 88 % when prompts differ (`benchmarks/README.md`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tastemaker.records.vote import Choice, Vote
from tastemaker.stats.bootstrap import bootstrap
from tastemaker.stats.interval import Interval, check_level
from tastemaker.stats.paired import sign_test
from tastemaker.stats.winrate import WinRate, clopper_pearson, win_rate

Ballots = Mapping[str, Sequence[Choice]]
"""Prompt id -> the choices made for it, in any order."""

Outcome = Literal["a", "b", "tie", "both_bad"]

_VALUE: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


def ballots(votes: Iterable[Vote], a: str, b: str) -> dict[str, list[Choice]]:
    """The votes between two sides by prompt, all seen from `a`; skipped ones are left out.

    A comparison that was stored the other way round is turned. Votes between other sides are not
    counted.
    """
    turned: dict[Choice, Choice] = {"a": "b", "b": "a"}
    found: dict[str, list[Choice]] = {}
    for vote in votes:
        if vote.choice == "skip" or {vote.a, vote.b} != {a, b}:
            continue
        choice = vote.choice if vote.a == a else turned.get(vote.choice, vote.choice)
        found.setdefault(vote.prompt, []).append(choice)
    return found


def majority(choices: Sequence[Choice]) -> Outcome:
    """The result of one prompt: the side that more voters chose than chose anything else.

    Ties and both-bad are pooled as votes for no side. Where a side is not alone at the top, the
    prompt is a tie; it is `both_bad` where more than half of all its voters said so. With an odd
    number of forced choices this is the plain majority of the Diffusion-DPO study (Wallace et al.
    2023, section 5).

    Raises:
        ValueError: no vote.
    """
    counts = Counter(choice for choice in choices if choice != "skip")
    if not counts:
        raise ValueError("a majority needs at least one vote")
    if 2 * counts["both_bad"] > counts.total():
        return "both_bad"
    neither = counts["tie"] + counts["both_bad"]
    if counts["a"] > max(counts["b"], neither):
        return "a"
    if counts["b"] > max(counts["a"], neither):
        return "b"
    return "tie"


@dataclass(frozen=True)
class Verdict:
    """Which of two sides people prefer.

    Attributes:
        outcomes: prompt id -> its majority.
        majority: win rate over prompts, ties and both-bad half, with Wilson's interval: the
            headline.
        exact: win rate over the prompts that have a winner, with Clopper and Pearson's interval;
            None where no prompt has one.
        share: share of the votes, ties half, with the interval clustered by prompt.
        share_bootstrap: the same share with the BCa interval over prompts.
        sign_p: two-sided p value of the exact sign test over prompts with a winner.
        both_bad: prompts where most voters found neither acceptable.
        votes: how many votes it rests on.
    """

    outcomes: Mapping[str, Outcome]
    majority: WinRate
    exact: Interval | None
    share: Interval
    share_bootstrap: Interval
    sign_p: float
    both_bad: int
    votes: int


def verdict(
    by_prompt: Ballots, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Verdict:
    """Everything that votes between two sides say about the first.

    Args:
        by_prompt: prompt id -> choices, as from `ballots`; every prompt has a vote.
        level: two-sided confidence of all intervals.
        resamples: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two prompts, or a prompt without a vote.
    """
    outcomes: dict[str, Outcome] = {p: majority(by_prompt[p]) for p in sorted(by_prompt)}
    counts = Counter(outcomes.values())
    wins, losses = counts["a"], counts["b"]
    values = [[_VALUE[c] for c in by_prompt[p] if c != "skip"] for p in outcomes]
    return Verdict(
        outcomes=outcomes,
        majority=win_rate(wins, losses, counts["tie"] + counts["both_bad"], level),
        exact=clopper_pearson(wins, wins + losses, level) if wins + losses else None,
        share=clustered_mean(values, level),
        share_bootstrap=bootstrap(values, level=level, resamples=resamples, seed=seed),
        sign_p=sign_test(wins, losses),
        both_bad=counts["both_bad"],
        votes=sum(map(len, values)),
    )


def clustered_mean(clusters: Sequence[Sequence[float]], level: float = 0.95) -> Interval:
    """Mean over all values with an interval from the sandwich estimator clustered by prompt.

        variance = G / (G - 1) * sum over prompts of (sum of its values - n_g * mean)^2 / n^2

    with Student's quantile of G - 1 degrees of freedom, G the number of prompts. Liang and Zeger
    1986, "Longitudinal data analysis using generalized linear models"; the factor for few clusters
    is that of Cameron and Miller 2015, "A practitioner's guide to cluster-robust inference",
    equation 12. With as many values in each prompt it is `mean_interval` of the prompts' means.

    Raises:
        ValueError: fewer than two prompts, an empty one, or a value that is not finite.
    """
    from scipy.stats import t

    check_level(level)
    values = [np.asarray(c, dtype=np.float64) for c in clusters]
    if len(values) < 2 or any(v.size == 0 for v in values):
        raise ValueError("a clustered mean needs at least two prompts, each with a value")
    n = sum(v.size for v in values)
    mean = float(sum(v.sum() for v in values) / n)
    if not np.isfinite(mean):
        raise ValueError("a clustered mean needs finite values")
    scores = np.array([v.sum() - v.size * mean for v in values])
    groups = len(values)
    error = float(np.sqrt(groups / (groups - 1) * (scores**2).sum())) / n
    half = float(t.ppf((1 + level) / 2, groups - 1)) * error
    return Interval(mean, mean - half, mean + half, level, groups)
