"""How a number, or a word, is spread over the pictures that are kept and that are dropped."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

_TAIL = 0.005
_FACTOR = 100
_SAME = 1e-9
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Histogram:
    """Counts of a number in bins.

    Attributes:
        edges: ascending, `[B + 1]`; no bins when nothing is known of any picture. A bin holds its
            lower edge, the last bin both.
        kept: pictures that are kept, `[B]`.
        dropped: pictures that are dropped, `[B]`.
        below: (kept, dropped) pictures with less than the first edge.
        above: (kept, dropped) pictures with more than the last edge.
        unknown: (kept, dropped) pictures without the number.
        scale: whether the edges are evenly spaced as they are or in their logarithms.
    """

    edges: Float[np.ndarray, " E"]
    kept: Int[np.ndarray, " B"]
    dropped: Int[np.ndarray, " B"]
    below: tuple[int, int]
    above: tuple[int, int]
    unknown: tuple[int, int]
    scale: Literal["linear", "log"]


@dataclass(frozen=True)
class Tally:
    """How often a text or an entry of a list occurs.

    Attributes:
        name: the text; None for pictures without any.
        kept: pictures that are kept.
        dropped: pictures that are dropped.
    """

    name: str | None
    kept: int
    dropped: int


def histogram(
    values: Shaped[np.ndarray, " N"],
    kept: Bool[np.ndarray, " N"],
    *,
    limits: Sequence[int | float] = (),
    bins: int = 40,
) -> Histogram:
    """Count in about `bins` bins with round edges.

    The bins hold the middle 99 % of the values and all `limits`: a few outliers do not press all
    others into one bin, they are counted below and above. Values that span more than a factor of
    100 get a logarithmic scale.

    Args:
        values: numbers; nan or infinite is unknown.
        kept: which pictures are kept.
        limits: thresholds to be shown.
        bins: roughly how many.
    """
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    unknown = (int((~known & kept).sum()), int((~known & ~kept).sum()))
    numbers, kept = numbers[known], kept[known]
    if not len(numbers):
        none = np.zeros(0, np.int64)
        return Histogram(np.zeros(0), none, none, (0, 0), (0, 0), unknown, "linear")
    edges, scale = _edges(numbers, [limit for limit in limits if math.isfinite(limit)], bins)
    sides = (numbers[kept], numbers[~kept])
    inside = [np.histogram(side, edges)[0].astype(np.int64) for side in sides]
    below = [int((side < edges[0]).sum()) for side in sides]
    above = [int((side > edges[-1]).sum()) for side in sides]
    return Histogram(
        edges, inside[0], inside[1], (below[0], below[1]), (above[0], above[1]), unknown, scale
    )


def tally(
    values: Shaped[np.ndarray, " N"], kept: Bool[np.ndarray, " N"], most: int | None = None
) -> tuple[Tally, ...]:
    """Texts, or entries of lists, by how many pictures have them; most frequent first.

    Args:
        values: str, tuples of str, or None. An entry that a list repeats counts once.
        kept: which pictures are kept.
        most: how many to give; None: all.
    """
    counts = [Counter(_names(values[side])) for side in (kept, ~kept)]
    total = counts[0] + counts[1]
    ordered = sorted(total, key=lambda name: (-total[name], name is None, name or ""))
    return tuple(Tally(name, counts[0][name], counts[1][name]) for name in ordered[:most])


def _names(values: Shaped[np.ndarray, " N"]) -> chain[str | None]:
    return chain.from_iterable(
        (value or None,) if value is None or isinstance(value, str) else set(value) or (None,)
        for value in values
    )


def _edges(
    numbers: np.ndarray, limits: Sequence[int | float], bins: int
) -> tuple[np.ndarray, Literal["linear", "log"]]:
    low, high = (float(q) for q in np.quantile(numbers, (_TAIL, 1 - _TAIL), method="nearest"))
    levels = np.unique(numbers)
    whole = len(levels) <= bins // 2 and (levels == np.round(levels)).all()
    if whole and levels[-1] - levels[0] <= bins:
        # Counts: a bin for each, with the count in its middle.
        near = [x for x in limits if levels[0] - bins / 2 <= x <= levels[-1] + bins / 2]
        first, last = min([levels[0], *near]), max([levels[-1], *near])
        return np.arange(math.floor(first), math.ceil(last) + 2) - 0.5, "linear"
    logarithmic = low > 0 and high / low > _FACTOR
    # A limit far from all values would press them into one bin, too.
    near = [
        x for x in limits if 2 * low - high <= x <= 2 * high - low and (x > 0 or not logarithmic)
    ]
    low, high = min([low, *near]), max([high, *near])
    if high - low <= _SAME * max(abs(low), abs(high), 1e-200):
        width = max(abs(low), abs(high)) or 1.0
        return np.array([low - width / 2, high + width / 2]), "linear"
    if logarithmic:
        return np.geomspace(low, high, bins + 1), "log"
    step, digits = _round_step((high - low) / bins)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.round(np.arange(first, last + 1) * step, digits), "linear"


def _round_step(step: float) -> tuple[float, int]:
    """The next larger one of 1, 2, 2.5, 5 times a power of ten; and the digits it is written in."""
    power = math.floor(math.log10(step))
    rounded = next(s * 10.0**power for s in _STEPS if s * 10.0**power >= step * (1 - 1e-9))
    return rounded, 1 - power
