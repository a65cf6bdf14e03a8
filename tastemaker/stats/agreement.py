"""Do raters agree, beyond what chance would give?

Agreement well below 0.67 is normal where people judge pictures: it describes a study and is no
gate.
Axes: U units (comparisons), R raters, K categories.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Level = Literal["nominal", "ordinal", "interval", "ratio"]
"""What differences between values mean: none, order, distance, distance from zero."""


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float:
    """Krippendorff's alpha: 1 - observed / expected disagreement; 1 is perfect, 0 is chance.

        o_ck = sum over units of (pairs of values c, k in the unit) / (m_u - 1)
        alpha = 1 - (n - 1) * sum o_ck d_ck / sum n_c n_k d_ck

    d is the squared difference of the level: 0 or 1; (n_c/2 + ... + n_k/2)^2 over the ranks
    between; (c - k)^2; ((c - k) / (c + k))^2. Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability".

    Args:
        ratings: [R, U] numbers; NaN where a rater did not see a unit. Units with one value say
            nothing and are left out.
        level: how values compare.

    Returns:
        Alpha; 1.0 where all values are the same, since then there is nothing to disagree about.

    Raises:
        ValueError: no unit with two values, or a negative value at level `ratio`.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"ratings: got {table.ndim} axes, expected raters and units")
    units = [column[~np.isnan(column)] for column in table.T]
    units = [unit for unit in units if len(unit) >= 2]
    if not units:
        raise ValueError("an agreement needs at least one unit with two ratings")
    values = np.unique(np.concatenate(units))
    if level == "ratio" and values[0] < 0:
        raise ValueError(f"level ratio: got {values[0]:g}, expected values of 0 and more")
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        counts = (unit[:, None] == values).sum(0).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(0)
    distance = _DISTANCES[level](values, totals)
    expected = (np.outer(totals, totals) * distance).sum()
    if expected == 0:
        return 1.0
    return float(1 - (totals.sum() - 1) * (coincidences * distance).sum() / expected)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa of raters who all saw every unit.

        kappa = (P - P_e) / (1 - P_e),  P = mean over units of agreeing pairs,  P_e = sum p_k^2

    Fleiss 1971, "Measuring nominal scale agreement among many raters".

    Args:
        counts: [U, K] how many raters put the unit into the category; the same total in each row.

    Raises:
        ValueError: rows with different totals, or fewer than two raters.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError("counts: expected units and categories")
    raters = table.sum(1)
    if not (raters == raters[0]).all() or raters[0] < 2:
        raise ValueError(
            "Fleiss' kappa needs the same number of raters, at least 2, for every unit; "
            "Krippendorff's alpha takes any"
        )
    m = raters[0]
    agreement = ((table**2).sum(1) - m) / (m * (m - 1))
    chance = float(((table.sum(0) / table.sum()) ** 2).sum())
    if chance == 1.0:
        return 1.0
    return float((agreement.mean() - chance) / (1 - chance))


def choices_table(choices: Sequence[tuple[str, str, str]]) -> NDArray[np.float64]:
    """Rows (unit, rater, choice) as [R, U] for `krippendorff_alpha`; a b -> 1, 0; neither -> 0.5.

    So `interval` and `ordinal` take a tie as lying between the sides, and `nominal` as a third
    answer. Skipped ones are gaps; of several answers of a rater to a unit the last counts.
    """
    value = {"a": 1.0, "tie": 0.5, "both_bad": 0.5, "b": 0.0}
    kept = [row for row in choices if row[2] in value]
    units = {unit: i for i, unit in enumerate(dict.fromkeys(row[0] for row in kept))}
    raters = {rater: i for i, rater in enumerate(dict.fromkeys(row[1] for row in kept))}
    table = np.full((len(raters), len(units)), np.nan)
    for unit, rater, choice in kept:
        table[raters[rater], units[unit]] = value[choice]
    return table


_Distance = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def _nominal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    del totals
    return (values[:, None] != values).astype(np.float64)


def _ordinal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    del values
    # From the middle of one value's ranks to the middle of the other's.
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle) ** 2


def _interval(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    del totals
    return (values[:, None] - values) ** 2


def _ratio(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    del totals
    sums = values[:, None] + values
    return (np.divide(values[:, None] - values, sums, out=np.zeros_like(sums), where=sums > 0)) ** 2


_DISTANCES: dict[Level, _Distance] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
    "ratio": _ratio,
}
