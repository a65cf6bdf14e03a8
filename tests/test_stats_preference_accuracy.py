"""Agreement with people's choices, beside the published evaluation of PickScore."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.stats.preference_accuracy import (
    THRESHOLDS,
    agreement_points,
    best_threshold,
    pair_probability,
    preference_accuracy,
)


def published(p0: float, p1: float, label_0: float, threshold: float) -> float:
    """Case by case, as its authors' script has it."""
    label = "tie" if label_0 == 0.5 else "0" if label_0 == 1 else "1"
    pred = "tie" if abs(p1 - p0) <= threshold else "0" if p0 > p1 else "1"
    return 1.0 if label == pred else 0.5 if "tie" in (label, pred) else 0.0


@given(
    st.lists(
        st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(THRESHOLDS),
)
def test_points_are_the_published_ones(
    pairs: list[tuple[float, float, float]], threshold: float
) -> None:
    first, second, labels = (np.array(column) for column in zip(*pairs, strict=True))
    probability = pair_probability(first, second)
    high = np.exp(np.maximum(first, second))
    np.testing.assert_allclose(
        probability,
        np.exp(first - np.log(high))
        / (np.exp(first - np.log(high)) + np.exp(second - np.log(high))),
        rtol=1e-9,
    )
    margins = probability - (1 - probability)
    points = agreement_points(margins, labels, threshold=threshold)
    expected = [
        published(p, p - m, label, threshold)
        for p, m, label in zip(probability, margins, labels, strict=True)
        if abs(abs(m) - threshold) > 1e-9 or threshold == 0
    ]
    kept = (np.abs(np.abs(margins) - threshold) > 1e-9) | (threshold == 0)
    assert points[kept].tolist() == expected
    # Swapping the sides of every pair changes nothing.
    flipped = agreement_points(-margins, 1 - labels, threshold=threshold)
    assert flipped.tolist() == points.tolist()


def test_a_constant_scorer_has_half_of_what_people_told_apart() -> None:
    for label in (0.0, 1.0):
        assert agreement_points(np.zeros(4), [label] * 4).tolist() == [0.5] * 4
    assert agreement_points(np.zeros(2), [0.5] * 2).tolist() == [1.0] * 2


def test_intervals_are_over_prompts() -> None:
    rng = np.random.default_rng(0)
    margins, labels = rng.normal(size=80), (rng.random(80) < 0.5).astype(float)
    one = preference_accuracy(margins, labels, resamples=300)
    prompts = [f"p{n // 10}" for n in range(80)]
    grouped = preference_accuracy(margins, labels, groups=prompts, resamples=300)
    assert one.estimate == grouped.estimate == agreement_points(margins, labels).mean()
    assert (one.units, grouped.units) == (80, 8)
    same = np.repeat(labels[:8], 10)
    clear = preference_accuracy(np.repeat(margins[:8], 10), same, groups=prompts, resamples=300)
    alone = preference_accuracy(np.repeat(margins[:8], 10), same, resamples=300)
    assert clear.high - clear.low > 2 * (alone.high - alone.low)


def test_the_threshold_is_the_best_and_least_one() -> None:
    margins, labels = [0.05, -0.05, 0.9, -0.9], [0.5, 0.5, 1.0, 0.0]
    assert best_threshold(margins, labels) == 0.1
    assert best_threshold([0.9], [1.0]) == 0.0


@pytest.mark.parametrize(
    ("margins", "labels", "threshold"),
    [([1.0], [1.0, 0.0], 0.0), ([1.0], [0.7], 0.0), ([np.nan], [1.0], 0.0), ([1.0], [1.0], -0.1)],
)
def test_what_has_no_answer_is_refused(margins: list, labels: list, threshold: float) -> None:
    with pytest.raises(ValueError, match="margins|label"):
        agreement_points(margins, labels, threshold=threshold)
