"""Intervals of a proportion against exact arithmetic and published tables."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.stats.winrate import clopper_pearson, wilson, win_rate

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def tail(p: float, n: int, wins: range) -> float:
    """P(X in wins) of X ~ Binomial(n, p), in exact fractions."""
    q = Fraction(p)
    return float(sum(comb(n, k) * q**k * (1 - q) ** (n - k) for k in wins))


def test_wilson_19_of_38_as_in_r_and_statsmodels() -> None:
    found = wilson(19, 38)
    assert (found.low, found.high) == pytest.approx(
        (0.348499283643951, 0.651500716356049), rel=1e-12
    )


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (1, 20, 0.0013, 0.2487)],
)
def test_clopper_pearson_tables(wins: int, n: int, low: float, high: float) -> None:
    found = clopper_pearson(wins, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("wins", "n"), [(1, 7), (19, 38), (60, 80)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_clopper_pearson_ends_have_the_tail_they_say(wins: int, n: int, level: float) -> None:
    found = clopper_pearson(wins, n, level)
    assert tail(found.low, n, range(wins, n + 1)) == pytest.approx((1 - level) / 2, rel=1e-9)
    assert tail(found.high, n, range(wins + 1)) == pytest.approx((1 - level) / 2, rel=1e-9)


@given(
    counts,
    st.sampled_from(
        [(0.8, 1.2815515655446004), (0.95, 1.959963984540054), (0.99, 2.5758293035489004)]
    ),
)
def test_wilson_ends_are_z_standard_errors_away(
    case: tuple[int, int], level: tuple[float, float]
) -> None:
    """The definition: at an end p the observed rate is z sqrt(p(1-p)/n) off."""
    (wins, n), (confidence, z) = case, level
    found = wilson(wins, n, confidence)
    for end in (found.low, found.high):
        distance = (wins / n - end) ** 2
        assert distance == pytest.approx(z * z * end * (1 - end) / n, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@given(counts)
def test_shape(interval, case: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    wins, n = case
    found, mirrored, surer = interval(wins, n), interval(n - wins, n), interval(wins, n, 0.99)
    assert 0.0 <= found.low <= found.estimate <= found.high <= 1.0
    assert found.estimate == wins / n
    assert found.units == n
    assert (mirrored.low, mirrored.high) == pytest.approx(
        (1 - found.high, 1 - found.low), abs=1e-12
    )
    assert surer.low <= found.low
    assert surer.high >= found.high


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.62])
def test_exact_coverage(p: float) -> None:
    """Summed over all outcomes of 60 prompts: Clopper-Pearson never below 95 %, Wilson near it."""
    n = 60
    covered = {"wilson": 0.0, "exact": 0.0}
    for wins in range(n + 1):
        chance = tail(p, n, range(wins, wins + 1))
        for name, found in (("wilson", wilson(wins, n)), ("exact", clopper_pearson(wins, n))):
            covered[name] += chance * (found.low <= p <= found.high)
    assert covered["exact"] >= 0.95
    assert 0.93 <= covered["wilson"] <= 0.98


def test_ties_count_half_and_stay_in_n() -> None:
    found = win_rate(30, 20, 10)
    assert found.rate == wilson(35, 60)
    assert (found.wins, found.losses, found.ties) == (30, 20, 10)
    assert str(win_rate(1, 1).rate).startswith("0.500 [")
    other_side = win_rate(20, 30, 10).rate
    assert (other_side.low, other_side.high) == pytest.approx(
        (1 - found.rate.high, 1 - found.rate.low)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(1, 0), "n >= 1"),
        (lambda: clopper_pearson(5, 4), "wins <= n"),
        (lambda: wilson(-1, 4), "0 <= wins"),
        (lambda: wilson(1, 4, 95.0), "0.95"),
        (lambda: win_rate(5, -1), "negative"),
        (lambda: win_rate(0, 0), "n >= 1"),
    ],
)
def test_nonsense_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
