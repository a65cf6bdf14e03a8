"""The bootstrap over prompts: exact enumeration, invariants, coverage."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.stats.bootstrap import bootstrap

VALUES = [1.0, 1.5, 2.5, 4.0, 8.0, 9.5]


def enumerated(clusters: list[list[float]]) -> np.ndarray:
    """The pooled mean of every possible draw of whole clusters, sorted: n^n of them."""
    size = range(len(clusters))
    draws = product(size, repeat=len(clusters))
    return np.sort([np.mean([v for i in draw for v in clusters[i]]) for draw in draws])


def test_percentile_interval_is_that_of_all_possible_draws() -> None:
    every = enumerated([[v] for v in VALUES])
    found = bootstrap(VALUES, level=0.9, resamples=20_000, method="percentile")
    assert found.estimate == pytest.approx(np.mean(VALUES))
    assert (found.low, found.high) == pytest.approx(np.quantile(every, [0.05, 0.95]), abs=0.06)


def test_bca_interval_is_efrons() -> None:
    """z0 and a as in Efron 1987, on all possible draws instead of random ones."""
    every, normal = enumerated([[v] for v in VALUES]), NormalDist()
    mean = np.mean(VALUES)
    below = np.mean(every < mean) + np.mean(every == mean) / 2
    left_out = np.array([np.mean(np.delete(VALUES, i)) for i in range(len(VALUES))])
    d = left_out.mean() - left_out
    z0, a = normal.inv_cdf(below), (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    ends = []
    for z in (normal.inv_cdf(0.05), normal.inv_cdf(0.95)):
        ends.append(np.quantile(every, normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    found = bootstrap(VALUES, level=0.9, resamples=20_000)
    assert (found.low, found.high) == pytest.approx(ends, abs=0.08)
    plain = bootstrap(VALUES, level=0.9, resamples=20_000, method="percentile")
    assert found.high > plain.high + 0.1  # skewed to the right


def test_whole_clusters_are_drawn() -> None:
    clusters = [[1.0, 2.0, 0.0], [5.0], [7.0, 7.5], [2.0, 2.0], [9.0]]
    every = enumerated(clusters)
    found = bootstrap(clusters, level=0.9, resamples=20_000, method="percentile")
    assert found.estimate == pytest.approx(np.mean(np.concatenate(clusters)))
    assert (found.low, found.high) == pytest.approx(np.quantile(every, [0.05, 0.95]), abs=0.1)
    assert found.units == 5


def test_even_and_ragged_clusters_take_the_same_draws() -> None:
    """The table for equal clusters is only a faster way to the same interval."""
    even = [[v, v] for v in VALUES]
    ragged = [[v, v] for v in VALUES[:-1]] + [[VALUES[-1]] * 4]
    # The highest value is the same however often a cluster repeats it.
    a, b = (bootstrap(c, np.max, seed=3, method="percentile") for c in (even, ragged))
    assert (a.low, a.high) == (b.low, b.high)
    assert bootstrap(ragged, seed=3).high > bootstrap(even, seed=3).high


@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.1, 10))
def test_seeded_and_equivariant(seed: int, shift: float, scale: float) -> None:
    plain, again = (bootstrap(VALUES, resamples=50, seed=seed) for _ in range(2))
    assert plain == again
    moved = bootstrap(
        [scale * v + shift for v in VALUES], resamples=50, seed=seed, method="percentile"
    )
    still = bootstrap(VALUES, resamples=50, seed=seed, method="percentile")
    assert (moved.low, moved.high) == pytest.approx(
        (scale * still.low + shift, scale * still.high + shift)
    )


def test_another_seed_gives_another_interval() -> None:
    assert bootstrap(VALUES, resamples=50, seed=1) != bootstrap(VALUES, resamples=50, seed=2)


def test_without_spread_the_interval_is_a_point() -> None:
    found = bootstrap([2.0] * 5)
    assert (found.low, found.estimate, found.high) == (2.0, 2.0, 2.0)


def test_intervals_over_prompts_cover_and_intervals_over_votes_do_not() -> None:
    """30 prompts x 5 votes, each prompt with its own win rate; the truth is 1/2."""
    rng = np.random.default_rng(1)
    covered = {"prompts": 0, "votes": 0}
    for _ in range(150):
        share = rng.choice([0.1, 0.9], 30)
        votes = (rng.random((30, 5)) < share[:, None]).astype(float)
        for name, units in (("prompts", list(votes)), ("votes", list(votes.ravel()))):
            found = bootstrap(units, resamples=200, method="percentile")
            covered[name] += found.low <= 0.5 <= found.high
    assert covered["prompts"] >= 0.88 * 150
    assert covered["votes"] <= 0.80 * 150


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ([[1.0, 2.0]], "two clusters"),
        ([[1.0], []], "at least one value"),
        ([[1.0], [float("inf")]], "finite"),
    ],
)
def test_nonsense_is_refused(clusters: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(clusters)
