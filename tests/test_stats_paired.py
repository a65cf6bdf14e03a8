"""Paired comparisons against published examples and exact arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.stats.paired import mean_interval, paired_difference, sign_test

# Student 1908: hours of sleep gained by ten patients with two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def sides(before: list[float], after: list[float]) -> tuple[dict[str, list[float]], ...]:
    return tuple({f"p{i}": [v] for i, v in enumerate(side)} for side in (before, after))


def test_students_own_example() -> None:
    """R: t.test(extra ~ group, sleep, paired = TRUE): 1.58 [0.7001142, 2.4598858]."""
    found = paired_difference(*sides(DRUG_1, DRUG_2))
    assert (found.t.estimate, found.t.low, found.t.high) == pytest.approx(
        (1.58, 0.7001142, 2.4598858), abs=1e-7
    )
    assert found.t.units == 10
    assert (found.win_rate.wins, found.win_rate.losses, found.win_rate.ties) == (9, 0, 1)
    assert found.win_rate.rate.estimate == 0.95
    assert found.sign_p == pytest.approx(2 / 2**9, rel=1e-12)
    assert found.bootstrap.estimate == pytest.approx(1.58)
    assert 0.5 < found.bootstrap.low < 1.2 < 2.0 < found.bootstrap.high < 2.8


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (8, 2, 0.109375),
        (9, 1, 0.021484375),
        (2, 8, 0.109375),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (10, 0, 2 / 1024),
    ],
)
def test_sign_test_tables(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12))
def test_swapping_the_sides_flips_every_sign(scores: list[tuple[int, int]]) -> None:
    before, after = sides([float(b) for b, _ in scores], [float(a) for _, a in scores])
    one, other = (
        paired_difference(*pair, resamples=99) for pair in ((before, after), (after, before))
    )
    assert (other.t.estimate, other.t.low, other.t.high) == (
        -one.t.estimate,
        -one.t.high,
        -one.t.low,
    )
    assert (other.win_rate.wins, other.win_rate.losses) == (one.win_rate.losses, one.win_rate.wins)
    assert other.sign_p == one.sign_p
    assert {p: -d for p, d in other.differences.items()} == dict(one.differences)


def test_more_pictures_of_a_prompt_are_no_more_prompts() -> None:
    """Four copies of each picture tell nothing new: same differences, same intervals."""
    before, after = sides(DRUG_1, DRUG_2)
    often = [{p: v * 4 for p, v in side.items()} for side in (before, after)]
    once, repeated = paired_difference(before, after), paired_difference(*often)
    assert repeated.t.low == pytest.approx(once.t.low, rel=1e-12)
    assert repeated.bootstrap.high == pytest.approx(once.bootstrap.high, rel=1e-12)
    assert repeated.t.units == 10


def test_pictures_are_averaged_within_their_prompt() -> None:
    found = paired_difference({"a": [1.0, 3.0], "b": [0.0]}, {"a": [2.0, 2.0], "b": [0.5]})
    assert dict(found.differences) == {"a": 0.0, "b": 0.5}
    assert (found.win_rate.wins, found.win_rate.ties) == (1, 1)


def test_the_order_of_prompts_does_not_matter() -> None:
    before, after = sides(DRUG_1, DRUG_2)
    turned = dict(reversed(list(after.items())))
    assert paired_difference(before, turned) == paired_difference(before, after)


def test_equal_models() -> None:
    same, _ = sides(DRUG_1, DRUG_2)
    found = paired_difference(same, dict(same))
    assert (found.t.low, found.t.high, found.bootstrap.low, found.bootstrap.high) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert (found.win_rate.ties, found.win_rate.rate.estimate, found.sign_p) == (10, 0.5, 1.0)


def test_t_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [mean_interval(rng.normal(0.3, 2.0, 12)) for _ in range(2000)]
    coverage = np.mean([i.low <= 0.3 <= i.high for i in found])
    assert abs(coverage - 0.95) < 0.0147  # 3 sigma


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": [1.0], "b": [1.0]}, {"a": [1.0]}, "1 prompts are on one side only, first \\['b'\\]"),
        ({"a": [1.0, 2.0], "b": [1.0]}, {"a": [1.0], "b": [1.0]}, "picture by picture: \\['a'\\]"),
        ({"a": [], "b": [1.0]}, {"a": [], "b": [1.0]}, "picture by picture"),
        ({"a": [1.0]}, {"a": [2.0]}, "at least two"),
        ({"a": [1.0], "b": [float("nan")]}, {"a": [1.0], "b": [1.0]}, "finite"),
    ],
)
def test_what_is_not_paired_is_refused(before: dict, after: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(before, after)
