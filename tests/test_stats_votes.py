"""Votes to verdicts, agreement, raters and planning, against published and independent figures."""

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.records.vote import Choice, Vote
from tastemaker.stats.agreement import choices_table, fleiss_kappa, krippendorff_alpha
from tastemaker.stats.paired import mean_interval
from tastemaker.stats.planning import (
    half_width,
    majority_rate,
    plan_study,
    power_of,
    prompts_needed,
)
from tastemaker.stats.raters import dawid_skene
from tastemaker.stats.sides import side_bias
from tastemaker.stats.votes import ballots, clustered_mean, majority, verdict

CHOICES = st.sampled_from(["a", "b", "tie", "both_bad", "skip"])
SWAPPED = {"a": "b", "b": "a"}


def vote(
    n: int, choice: Choice, prompt: str = "p", left: Literal["a", "b"] = "a", **more: str
) -> Vote:
    sides = {"a": "x", "b": "y"} | more
    return Vote(f"v{n}", prompt, sides["a"], sides["b"], left, more.get("rater", "r"), choice)


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        (["a"], "a"),
        (["a", "a", "b", "b", "a"], "a"),
        (["b", "skip", "skip"], "b"),
        (["a", "b"], "tie"),
        (["a", "tie"], "tie"),
        (["a", "tie", "tie", "tie", "tie"], "tie"),
        (["a", "a", "b", "tie", "both_bad"], "tie"),
        (["a", "a", "a", "tie", "both_bad"], "a"),
        (["both_bad", "both_bad", "a"], "both_bad"),
        (["both_bad", "a"], "tie"),
    ],
)
def test_majority(choices: list[Choice], wanted: str) -> None:
    assert majority(choices) == wanted


@given(st.lists(CHOICES, min_size=1, max_size=7).filter(lambda c: set(c) != {"skip"}))
def test_swapping_the_sides_flips_the_majority(choices: list[Choice]) -> None:
    swapped: Any = [SWAPPED.get(c, c) for c in choices]
    found = majority(choices)
    assert majority(swapped) == SWAPPED.get(found, found)
    assert majority(choices[::-1]) == found


def test_only_skipped_votes_are_no_votes() -> None:
    with pytest.raises(ValueError, match="at least one vote"):
        majority(["skip"])


def test_ballots_turn_comparisons_that_were_stored_the_other_way_round() -> None:
    votes = [
        vote(1, "a", "p1"),
        vote(2, "a", "p1", a="y", b="x"),
        vote(3, "tie", "p2", a="y", b="x"),
        vote(4, "skip", "p2"),
        vote(5, "a", "p3", a="x", b="z"),
    ]
    assert ballots(votes, "x", "y") == {"p1": ["a", "b"], "p2": ["tie"]}


def test_verdict_by_hand() -> None:
    """Three prompts: won 2 to 1, lost 0 to 3, and a tie of one vote each."""
    found = verdict({"p1": ["a", "a", "b"], "p2": ["b", "b", "b"], "p3": ["a", "b"]})
    assert (found.majority.wins, found.majority.losses, found.majority.ties) == (1, 1, 1)
    assert found.majority.rate.estimate == 0.5
    assert found.exact is not None
    assert found.exact.units == 2
    assert found.share.estimate == pytest.approx(3 / 8)
    assert found.votes == 8
    assert found.share.units == 3
    # By hand: sums minus n * mean are 2 - 9/8, 0 - 9/8, 1 - 6/8.
    error = np.sqrt(3 / 2 * (0.875**2 + 1.125**2 + 0.25**2)) / 8
    assert found.share.high - found.share.estimate == pytest.approx(4.302652729911275 * error)


def test_a_clustered_mean_of_even_clusters_is_students_of_their_means() -> None:
    values = np.random.default_rng(0).random((12, 5))
    one, other = clustered_mean(values.tolist()), mean_interval(values.mean(1))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-12)


@given(st.lists(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5), min_size=2))
def test_copies_of_votes_add_no_certainty(prompts: list[list[Choice]]) -> None:
    """Voters who all say the same thing twice: the interval over prompts stays as it was."""
    once: Any = {f"p{n}": votes for n, votes in enumerate(prompts)}
    twice: Any = {prompt: [*votes, *votes] for prompt, votes in once.items()}
    one, two = verdict(once, resamples=50), verdict(twice, resamples=50)
    assert two.outcomes == one.outcomes
    assert (two.share.low, two.share.high) == pytest.approx((one.share.low, one.share.high))
    assert two.majority == one.majority


def test_side_bias_is_seen_and_taken_apart() -> None:
    left_lover = [vote(n, "a" if n % 2 else "b", left="a" if n % 2 else "b") for n in range(40)]
    found = side_bias(left_lover)
    assert found.left.estimate == 1.0
    assert (found.if_left, found.if_right, found.shown_left) == (1.0, 0.0, 0.5)
    fair = side_bias([vote(n, "a", left="a" if n % 2 else "b") for n in range(40)])
    assert fair.left.low < 0.5 < fair.left.high
    with pytest.raises(ValueError, match="chose a side"):
        side_bias([vote(0, "tie")])


def krippendorffs_example() -> np.ndarray:
    """15 units, 3 observers, with gaps: the example of the `krippendorff` package."""
    rows = (
        "* * * * * 3 4 1 2 1 1 3 3 * 3",
        "1 * 2 1 3 3 4 3 * * * * * * *",
        "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
    )
    return np.array([[np.nan if c == "*" else float(c) for c in row.split()] for row in rows])


@pytest.mark.parametrize(
    ("level", "wanted"),
    [("nominal", 0.691358), ("ordinal", 0.806721), ("interval", 0.810845), ("ratio", 0.808944)],
)
def test_krippendorffs_example(level: Any, wanted: float) -> None:
    assert krippendorff_alpha(krippendorffs_example(), level) == pytest.approx(wanted, abs=1e-6)


def test_krippendorffs_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 2, 1], [1, 2, 1]]) == 1.0
    assert krippendorff_alpha([[1, 1], [1, 1]]) == 1.0
    assert krippendorff_alpha([[1, 2], [2, 1]]) < 0
    random = np.random.default_rng(0).integers(0, 2, (5, 4000))
    assert abs(krippendorff_alpha(random)) < 0.02
    with pytest.raises(ValueError, match="two ratings"):
        krippendorff_alpha([[1, np.nan], [np.nan, 2]])


def test_fleiss_example() -> None:
    """10 subjects, 14 raters (statsmodels' test table): 0.20993."""
    table = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/
    6 5 2 1 0/0 2 2 3 7"""
    counts = np.array([row.split() for row in table.split("/")], int)
    assert fleiss_kappa(counts) == pytest.approx(0.20993, abs=5e-6)
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss_kappa([[2, 0], [1, 0]])


def test_choices_become_a_table_with_ties_between_the_sides() -> None:
    rows = [("u", "r1", "a"), ("u", "r2", "tie"), ("w", "r1", "b"), ("w", "r2", "skip")]
    np.testing.assert_equal(choices_table(rows), [[1, 0], [0.5, np.nan]])


ANSWERS = "rrlrlllrlrlrlllrllrrrrrlrrrlrrrlllrrlrlrllrrllll"
"""Of 12 comparisons, 4 raters each."""


def test_dawid_and_skene_as_crowd_kit_has_it() -> None:
    """crowd-kit 1.4.2, DawidSkene(n_iter=10, tol=-1), on the same answers."""
    rows = [(f"u{n // 4}", f"r{n % 4}", answer) for n, answer in enumerate(ANSWERS)]
    found = dawid_skene(rows, rounds=10, tolerance=-1.0)
    left, right = (found.classes.index(side) for side in "lr")
    chances = dict(zip(found.units, found.probability[:, right], strict=True))
    wanted = {"u0": 0.999435166635, "u1": 0, "u2": 7.8972e-8, "u5": 0.999994629932}
    assert {unit: chances[unit] for unit in wanted} == pytest.approx(wanted, abs=1e-9)
    assert found.prior[right] == pytest.approx(0.33328493453133357, abs=1e-9)
    assert found.confusion[found.raters.index("r3"), left, right] == pytest.approx(
        0.875007060487, abs=1e-9
    )


def test_dawid_and_skene_sees_who_guesses_and_who_lies() -> None:
    rng = np.random.default_rng(1)
    truth, rows = rng.integers(0, 2, 400), []
    accuracy = {"good": 0.9, "fair": 0.75, "fine": 0.8, "coin": 0.5, "liar": 0.2}
    for (unit, true), (rater, share) in product(enumerate(truth), accuracy.items()):
        rows.append((unit, rater, int(true if rng.random() < share else 1 - true)))
    found = dawid_skene(rows)
    assert found.accuracy() == pytest.approx(accuracy, abs=0.07)
    majorities = np.array([sum(r[2] for r in rows[5 * u : 5 * u + 5]) > 2 for u in range(400)])
    labels = np.array([found.labels()[u] for u in range(400)])
    assert (labels == truth).mean() > (majorities == truth).mean() + 0.05
    assert (np.diff(found.log_likelihood) > -1e-9).all()


def test_majorities_of_votes() -> None:
    """Exact binomial figures: 0.60 -> 0.68256, 0.55 -> 0.593, 0.591 -> 0.667 with five votes."""
    assert majority_rate(0.6, 5) == pytest.approx(0.68256)
    assert majority_rate(0.55, 5) == pytest.approx(0.593, abs=5e-4)
    assert majority_rate(0.591, 5) == pytest.approx(0.667, abs=1e-3)
    assert majority_rate(0.6, 4) == pytest.approx(0.648)
    assert majority_rate(0.5, 4) == 0.5


@pytest.mark.parametrize(
    ("rate", "prompts"),
    [(0.52, 4904), (0.53, 2178), (0.54, 1225), (0.55, 783), (0.58, 305), (0.6, 194), (0.65, 85)],
)
def test_prompts_needed(rate: float, prompts: int) -> None:
    assert prompts_needed(rate) == prompts


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_power_is_that_of_all_results_counted(prompts: int, rate: float) -> None:
    from scipy.stats import binom, binomtest

    every = sum(
        binom.pmf(k, prompts, rate)
        for k in range(prompts + 1)
        if binomtest(k, prompts, 0.5).pvalue <= 0.05
    )
    assert power_of(prompts, rate) == pytest.approx(every, abs=1e-9)


def test_a_plan_says_what_a_study_can_show() -> None:
    assert half_width(1632) == pytest.approx(0.024, abs=5e-4)
    plan = plan_study(783, votes=5, seconds_per_vote=6.0)
    assert plan.smallest_rate is not None
    assert plan.smallest_rate == pytest.approx(0.55, abs=0.003)
    assert power_of(783, plan.smallest_rate) >= 0.8 > power_of(783, plan.smallest_rate - 0.001)
    assert plan.minutes == 391.5
    # Five wins of five may be luck: p = 1/16.
    assert plan_study(5).smallest_rate is None
    assert plan_study(6).smallest_rate is not None
