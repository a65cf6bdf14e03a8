"""Random draws: named, repeatable anywhere, independent of each other."""

import random
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.records.draws import Draw

draws = st.builds(Draw, st.integers(), st.text(max_size=5), st.text(max_size=5), st.integers(0, 9))


@given(draws)
def test_the_same_name_gives_the_same_numbers(draw: Draw) -> None:
    again = Draw(draw.seed, draw.purpose, draw.sample_id, draw.visit)
    assert np.array_equal(draw.generator().random(4), again.generator().random(4))


@given(draws, draws)
def test_two_names_never_share_a_key(a: Draw, b: Draw) -> None:
    assert (a == b) == (a.key() == b.key())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Draw(1, "ab", "c"), Draw(1, "a", "bc")),
        (Draw(1, "x", "1", 11), Draw(1, "x", "11", 1)),
        (Draw(1, "x", "1:y", 0), Draw(1, "x:1", "y", 0)),
        (Draw(1, "noise", "a", 0), Draw(1, "noise", "a", 1)),
        (Draw(1, "noise", "a"), Draw(2, "noise", "a")),
        (Draw(1, "noise", "a"), Draw(1, "timestep", "a")),
    ],
)
def test_names_that_look_alike_when_joined(a: Draw, b: Draw) -> None:
    assert a.key() != b.key()
    assert a.uniform() != b.uniform()


def test_nothing_drawn_before_matters() -> None:
    names = [Draw(3, "noise", f"image-{i}", i % 2) for i in range(20)]
    forward = {d: d.generator().standard_normal(3).tolist() for d in names}
    np.random.default_rng(0).random(100)
    shuffled = random.Random(0).sample(names, len(names))
    assert {d: d.generator().standard_normal(3).tolist() for d in shuffled} == forward


def test_the_global_generators_are_left_alone() -> None:
    legacy, python = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    Draw(1, "noise", "a").generator().random(10)
    assert np.random.get_state()[1].tolist() == legacy  # noqa: NPY002
    assert random.getstate() == python


def test_the_key_is_the_documented_hash() -> None:
    digest = blake2b(b"2:425:noise3:abc1:7", digest_size=16).digest()
    assert Draw(42, "noise", "abc", 7).key() == int.from_bytes(digest, "little")


def test_numbers_stay_the_same_for_ever() -> None:
    """Frozen: a change here changes every run that somebody wants to repeat."""
    draw = Draw(42, "noise", "abc", 7)
    assert draw.key() == 323_599_124_838_281_812_490_490_570_630_588_935_469
    assert draw.uniform() == 0.17223219468873407
    assert draw.integer(1000) == 506


def test_uniform_is_uniform() -> None:
    from scipy.stats import kstest

    values = [Draw(0, "dropout", str(i)).uniform() for i in range(2000)]
    assert 0.0 <= min(values) < max(values) < 1.0
    assert kstest(values, "uniform").pvalue > 0.01


def test_visits_and_purposes_are_uncorrelated() -> None:
    table = np.array(
        [
            [Draw(0, p, str(i), v).uniform() for p in ("noise", "crop") for v in (0, 1)]
            for i in range(2000)
        ]
    )
    correlations = np.corrcoef(table.T) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(2000)


def test_integer_is_uniform_and_within_its_range() -> None:
    from scipy.stats import chisquare

    values = [Draw(0, "timestep", str(i)).integer(10) for i in range(2000)]
    counts = np.bincount(values, minlength=10)
    assert len(counts) == 10
    assert chisquare(counts).pvalue > 0.01
    assert Draw(0, "timestep", "a").integer(1) == 0
