"""Histograms of numbers and tallies of words: nothing is lost, outliers do not hide the rest."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.facts import objects
from tastemaker.curation.histograms import Tally, histogram, tally

NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf])


@given(st.lists(st.tuples(NUMBERS, st.booleans()), max_size=60), st.lists(NUMBERS, max_size=2))
def test_every_picture_is_counted_once(pictures, limits):
    values = np.array([value for value, _ in pictures], np.float64)
    kept = np.array([keep for _, keep in pictures], bool)
    found = histogram(values, kept, limits=limits)
    for side, counts, where in ((kept, found.kept, 0), (~kept, found.dropped, 1)):
        known = values[side & np.isfinite(values)]
        outside = found.below[where] + found.above[where]
        assert counts.sum() + outside == len(known)
        assert found.unknown[where] == side.sum() - len(known)
        for low, high, count in zip(found.edges[:-1], found.edges[1:], counts, strict=True):
            last = high == found.edges[-1]
            assert count == ((known >= low) & ((known < high) | (last & (known == high)))).sum()
    assert (np.diff(found.edges) > 0).all()
    assert len(found.kept) <= 60


def test_outliers_do_not_press_the_rest_into_one_bin():
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(6, 1, 10_000), [1e6, 1e7, -1e9]])
    found = histogram(values, values > 6, limits=[5.5])
    assert found.scale == "linear"
    assert found.edges[0] > 2
    assert found.edges[-1] < 10
    assert (found.above, found.below) != ((0, 0), (0, 0))
    assert len(found.kept) >= 20
    assert (np.round(found.edges, 1) == found.edges).all()
    assert histogram(values, values > 6, limits=[1e12]).edges.tolist() == (
        histogram(values, values > 6).edges.tolist()
    )


def test_a_limit_beside_the_values_is_shown():
    values = np.linspace(10, 20, 500)
    found = histogram(values, values > 25, limits=[25.0])
    assert found.edges[-1] >= 25
    assert found.dropped.sum() == 500


def test_wide_spans_are_logarithmic_and_few_counts_have_a_bin_each():
    values = np.geomspace(1, 1e5, 1000)
    found = histogram(values, values > 10, limits=[0.0])
    assert found.scale == "log"
    np.testing.assert_allclose(
        np.diff(np.log(found.edges)), np.log(found.edges[1] / found.edges[0])
    )
    frames = np.array([1, 1, 1, 2, 4])
    counted = histogram(frames, frames == 1)
    assert counted.edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert (counted.kept.tolist(), counted.dropped.tolist()) == ([3, 0, 0, 0], [0, 1, 0, 1])


def test_one_value_and_none():
    found = histogram(np.full(5, 0.3), np.ones(5, bool))
    assert found.kept.tolist() == [5]
    nothing = histogram(np.full(3, math.nan), np.array([True, False, False]))
    assert (len(nothing.edges), nothing.unknown) == (0, (1, 2))


def test_tally_of_texts_and_lists():
    kept = np.array([True, True, False, False])
    assert tally(objects(["PNG", "JPEG", "PNG", None]), kept) == (
        Tally("PNG", 1, 1), Tally("JPEG", 1, 0), Tally(None, 0, 1),
    )  # fmt: skip
    lists = objects([("cat", "cat", "dog"), ("cat",), (), ("dog", "fox")])
    assert tally(lists, kept, most=2) == (Tally("cat", 2, 0), Tally("dog", 1, 1))
