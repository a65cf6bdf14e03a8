"""Counts of nouns against a plain count, and what must hold of any set and any selection."""

from collections import Counter
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.concept_density import compare, concept_density, rank_frequency

PICTURES = [["dog", "ball"]] * 11 + [["dog", "cat"]] * 4 + [[]] * 5 + [["ball", "ball"]]
"""dog 15, ball 13, cat 4 in 21 pictures."""

nouns = st.lists(st.sampled_from(["dog", "cat", "ball", "sky", "sea", "ox"]), max_size=4)
sets = st.lists(nouns, max_size=40)


def test_the_figures_of_the_table() -> None:
    found = concept_density(PICTURES)
    assert (found.distinct, found.valid, found.total) == (3, 2, 32)
    assert found.pictures == 21
    assert found.per_picture == pytest.approx(32 / 21)
    assert found.valid_share == pytest.approx(2 / 3)
    assert found.top == (("dog", 15), ("ball", 13), ("cat", 4))


def test_valid_is_more_than_the_limit_and_not_the_limit_itself() -> None:
    assert concept_density([["dog"]] * 10).valid == 0
    assert concept_density([["dog"]] * 11).valid == 1
    assert concept_density([["dog"]] * 10, more_than=9).valid == 1


def test_nothing_is_no_division_by_zero() -> None:
    empty = concept_density([])
    assert (empty.distinct, empty.valid, empty.total, empty.per_picture) == (0, 0, 0, 0.0)
    assert empty.valid_share == 0.0
    assert concept_density([[], []]).pictures == 2
    shifts = compare(empty, empty)
    assert (shifts.kept, shifts.over, shifts.under, shifts.lost) == (0.0, (), (), ())
    assert rank_frequency(empty) == ()


def test_equal_counts_are_ordered_by_name() -> None:
    assert concept_density([["b", "c", "a"]], show=2).top == (("a", 1), ("b", 1))


@given(sets, st.integers(0, 12))
def test_a_plain_count_finds_the_same(pictures: list[list[str]], more_than: int) -> None:
    plain: dict[str, int] = {}
    for picture in pictures:
        for noun in picture:
            plain[noun] = plain.get(noun, 0) + 1
    found = concept_density(pictures, more_than)
    assert dict(found.counts) == plain
    assert found.total == sum(map(len, pictures))
    assert found.valid == len([noun for noun in plain if plain[noun] > more_than])


@given(sets, st.randoms(use_true_random=False))
def test_the_order_of_pictures_and_of_their_nouns_does_not_matter(pictures, random) -> None:
    mixed = [random.sample(picture, len(picture)) for picture in pictures]
    random.shuffle(mixed)
    assert concept_density(mixed) == concept_density(pictures)
    assert list(concept_density(mixed).counts) == list(concept_density(pictures).counts)


@given(sets, sets)
def test_two_sets_together_have_the_sum_of_counts(one, two) -> None:
    a, b, both = concept_density(one), concept_density(two), concept_density(one + two)
    assert Counter(a.counts) + Counter(b.counts) == Counter(both.counts)
    assert both.valid >= max(a.valid, b.valid)


@given(sets, st.data())
def test_a_selection_never_raises_a_count(pictures, data) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(pictures), max_size=len(pictures)))
    kept = [picture for picture, yes in zip(pictures, chosen, strict=True) if yes]
    before, after = concept_density(pictures, 2), concept_density(kept, 2)
    assert all(count <= before.counts[noun] for noun, count in after.counts.items())
    shifts = compare(before, after, show=99)
    for shift in (*shifts.over, *shifts.under):
        assert 0 <= shift.kept <= 1
        assert shift.after == after.counts.get(shift.noun, 0)
        assert (shift.ratio > 1) == (shift.deviations > 0)
    assert {noun for noun, _ in shifts.lost} <= {shift.noun for shift in shifts.under} | set(
        before.counts if not kept else ()
    )


@given(sets)
def test_a_selection_of_all_prefers_nothing(pictures) -> None:
    found = concept_density(pictures, 0)
    shifts = compare(found, found)
    assert (shifts.over, shifts.under, shifts.lost, shifts.no_longer_valid) == ((), (), (), 0)


def test_what_a_selection_prefers_in_numbers() -> None:
    """100 pictures, a quarter kept: all 20 dogs, no cat, of the sky 20 out of 80."""
    pictures = [["dog"]] * 20 + [["sky"]] * 60 + [["sky", "cat"]] * 20
    before = concept_density(pictures)
    after = concept_density([["dog"]] * 5 + [["sky"]] * 20)
    shifts = compare(before, after)
    assert shifts.kept == 0.25
    assert shifts.over == ()  # 5 of 20 dogs and 20 of 80 skies are just the quarter
    (cat,) = shifts.under
    assert (cat.noun, cat.before, cat.after, cat.kept, cat.ratio) == ("cat", 20, 0, 0.0, 0.0)
    assert cat.deviations == pytest.approx(-20 * 0.25 / sqrt(20 * 0.25 * 0.75))
    assert shifts.lost == (("cat", 20),)
    assert shifts.no_longer_valid == 2
    (dog,) = compare(before, concept_density([["dog"]] * 20 + [["sky"]] * 5)).over
    assert (dog.noun, dog.kept, dog.ratio) == ("dog", 1.0, 4.0)
    assert dog.deviations == pytest.approx(15 / sqrt(20 * 0.25 * 0.75))


def test_the_surest_comes_first_and_not_the_greatest_ratio() -> None:
    pictures = [["rare"]] * 11 + [["common"]] * 400 + [["sky"]] * 1000
    after = concept_density([["rare"]] * 11 + [["common"]] * 300 + [["sky"]] * 100)
    shifts = compare(concept_density(pictures), after)
    assert [shift.noun for shift in shifts.over] == ["common", "rare"]
    assert shifts.over[0].ratio < shifts.over[1].ratio
    assert [shift.noun for shift in shifts.under] == ["sky"]


def test_rare_nouns_are_not_compared() -> None:
    pictures = [["rare"]] * 10 + [["sky"]] * 90
    shifts = compare(concept_density(pictures), concept_density([["rare"]] * 10))
    assert [shift.noun for shift in (*shifts.over, *shifts.under)] == ["sky"]


def test_what_is_no_selection_is_refused() -> None:
    some = concept_density([["dog"], ["cat"]])
    with pytest.raises(ValueError, match="3 pictures are no selection of 2"):
        compare(some, concept_density([[], [], []]))
    with pytest.raises(ValueError, match="'dog': 2 after a selection, but 1 before"):
        compare(some, concept_density([["dog"], ["dog"]]))
    with pytest.raises(ValueError, match="limits"):
        concept_density([], -1)


def test_the_line_of_a_plot_falls_and_has_both_ends() -> None:
    counts = np.random.default_rng(0).zipf(1.5, 3000).clip(max=500)
    pictures = [[f"n{number}"] * int(count) for number, count in enumerate(counts)]
    density = concept_density(pictures)
    line = rank_frequency(density, 50)
    assert line[0] == (1, max(counts))
    assert line[-1] == (3000, min(counts))
    assert len(line) <= 50
    ranks, found = zip(*line, strict=True)
    assert list(ranks) == sorted(set(ranks))
    assert list(found) == sorted(found, reverse=True)
    ordered = sorted(counts.tolist(), reverse=True)
    assert [ordered[rank - 1] for rank in ranks] == list(found)
    assert sum(count for _, count in rank_frequency(density, 5000)) == density.total
    with pytest.raises(ValueError, match="2 points"):
        rank_frequency(density, 1)
