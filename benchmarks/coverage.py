"""How often intervals that say 95 % hold the truth, when prompts differ and when they do not.

Run: `python benchmarks/coverage.py [REPEATS]`. Votes are drawn from a logistic model: the chance
that a voter prefers the first model is sigmoid(strength + prompt effect), prompt effects are normal
with the stated standard deviation. The truth of a vote share is its mean over prompts, the truth of
a majority rate the mean of each prompt's majority. Writes a table for `benchmarks/README.md`.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binom

from tastemaker.stats.bootstrap import bootstrap
from tastemaker.stats.bradley_terry import Comparison, bradley_terry
from tastemaker.stats.interval import Interval
from tastemaker.stats.votes import clustered_mean
from tastemaker.stats.winrate import clopper_pearson, wilson

PROMPTS, VOTES = 200, 5
Wins = NDArray[np.int64]


def _wilson_over_votes(wins: Wins) -> Interval:
    return wilson(int(wins.sum()), wins.size * VOTES)


def _values(wins: Wins) -> list[list[float]]:
    return [[1.0] * w + [0.0] * (VOTES - w) for w in wins.tolist()]


SHARE: dict[str, Callable[[Wins], Interval]] = {
    "Wilson over votes": _wilson_over_votes,
    "clustered sandwich (ours)": lambda wins: clustered_mean(_values(wins)),
    "bootstrap over prompts (ours)": lambda wins: bootstrap(_values(wins), resamples=400),
}
MAJORITY: dict[str, Callable[[Wins], Interval]] = {
    "Wilson over majorities (ours)": lambda wins: wilson(int((2 * wins > VOTES).sum()), wins.size),
    "Clopper-Pearson over majorities (ours)": lambda wins: clopper_pearson(
        int((2 * wins > VOTES).sum()), wins.size
    ),
}


def _truths(strength: float, sd: float) -> tuple[float, float]:
    """Vote share and majority rate over all prompts there could be, by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    p = expit(strength + sd * nodes)
    weights = weights / weights.sum()
    return float(weights @ p), float(weights @ binom.sf(VOTES // 2, VOTES, p))


def win_rates(repeats: int) -> list[str]:
    """Rows of the first table."""
    lines = []
    cells: dict[str, list[str]] = {name: [] for name in [*SHARE, *MAJORITY]}
    for sd in (0.0, 1.0, 2.0):
        strength = float(logit(0.55))
        share, majority = _truths(strength, sd)
        rng = np.random.default_rng([int(sd), 1])
        held = dict.fromkeys(cells, 0)
        for _ in range(repeats):
            wins = rng.binomial(VOTES, expit(strength + sd * rng.normal(size=PROMPTS)))
            for table, truth in ((SHARE, share), (MAJORITY, majority)):
                for name, interval in table.items():
                    found = interval(wins)
                    held[name] += found.low <= truth <= found.high
        for name, count in held.items():
            cells[name].append(f"{100 * count / repeats:.1f}")
    for name, row in cells.items():
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def ratings(repeats: int) -> list[str]:
    """Rows of the second table: the difference of the best and the worst of six models."""
    models, prompts = np.linspace(-0.75, 0.75, 6), 120
    cells: dict[str, list[str]] = {"Laplace, answers independent": [], "clustered (ours)": []}
    for sd in (0.0, 1.0):
        rng = np.random.default_rng([int(sd), 2])
        held, truth = dict.fromkeys(cells, 0), []
        fitted = []
        for _ in range(repeats):
            rows = []
            for prompt in range(prompts):
                a, b = rng.choice(6, 2, replace=False).tolist()
                p = expit(models[a] - models[b] + sd * rng.normal())
                rows += [Comparison(a, b, float(rng.random() < p), prompt) for _ in range(VOTES)]
            fit = bradley_terry(rows, l2=0.01)
            fitted.append(fit)
            truth.append(fit.difference(5, 0, clustered=False).estimate)
        # Under prompt effects the utilities that the model converges to are smaller than the
        # drawn ones: the truth is their mean over many studies.
        for fit in fitted:
            for name, clustered in zip(cells, (False, True), strict=True):
                found = fit.difference(5, 0, clustered=clustered)
                held[name] += found.low <= np.mean(truth) <= found.high
        for name, count in held.items():
            cells[name].append(f"{100 * count / repeats:.1f}")
    return [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]


def main() -> None:
    """Print both tables."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{PROMPTS} prompts x {VOTES} votes, {repeats} studies; coverage in %, nominal 95.")
    print("| interval | prompts alike | prompt effects sd 1 | sd 2 |\n|---|---|---|---|")
    print("\n".join(win_rates(repeats)))
    few = max(50, repeats // 4)
    print(f"\nSix models, 120 prompts x {VOTES} votes, {few} studies; best minus worst.")
    print("| interval | prompts alike | prompt effects sd 1 |\n|---|---|---|")
    print("\n".join(ratings(few)))


if __name__ == "__main__":
    main()
