"""The common bucket of two pictures that may differ in shape: the one that loses least of both.

Axes: sizes are `[N, 2]`, height then width, in pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from tastemaker.curation.buckets import NO_BUCKET, Assignment, largest_first
from tastemaker.records.size import Size


def assign_pairs(
    first: Integer[np.ndarray, "N 2"],
    second: Integer[np.ndarray, "N 2"],
    buckets: Sequence[Size],
    rule: Assignment = "cover",
    most_upscale: int | float = 1.0,
) -> Int[np.ndarray, " N"]:
    """The bucket of every pair.

    A picture of ratio r = h / w keeps the share k = min(r / rb, rb / r) of its area in a bucket of
    ratio rb (`curation.buckets.assign`). The pair's bucket has the largest min(k_first, k_second);
    of equal ones the largest k_first + k_second, then the largest bucket. So no side is sacrificed
    for the other one, and it does not matter which is which.

    Args:
        first: sizes of one side; 0 where unknown.
        second: sizes of the other side.
        buckets: the sizes to choose from.
        rule: `cover` takes only buckets for which neither picture is enlarged by more than
            `most_upscale`; `nearest` takes any.
        most_upscale: how much `cover` may enlarge; 1 is not at all.

    Returns:
        Index of the bucket, or -1 where none is allowed.

    Raises:
        ValueError: there are no buckets.
    """
    order, table = largest_first(buckets)
    # Few shapes make up most pairs.
    shapes, which = np.unique(np.concatenate([first, second], axis=1), axis=0, return_inverse=True)
    best = [_best(shape.reshape(2, 2).astype(np.float64), table, rule, most_upscale)
            for shape in shapes]  # fmt: skip
    chosen = np.array([order[n] if n != NO_BUCKET else n for n in best], np.int64)
    return chosen[which.reshape(-1)] if len(first) else np.empty(0, np.int64)


def _best(
    sides: Float[np.ndarray, "2 2"],
    table: Float[np.ndarray, "K 2"],
    rule: Assignment,
    most_upscale: int | float,
) -> int:
    """Row of the table for one pair of sizes."""
    if not (sides > 0).all():
        return NO_BUCKET
    kept = _kept(sides, table)
    allowed = np.ones(len(table), bool)
    if rule == "cover":
        allowed = (table[None] <= sides[:, None] * most_upscale).all(axis=(0, 2))
    if not allowed.any():
        return NO_BUCKET
    worst = np.where(allowed, kept.min(axis=0), -1.0)
    # Equal shares may differ in their last bits, by the order of the divisions.
    best = np.flatnonzero(worst >= worst.max() - 1e-12)
    both = kept.sum(axis=0)[best]
    return int(best[np.flatnonzero(both >= both.max() - 1e-12)[0]])


def _kept(
    sides: Float[np.ndarray, "2 2"], table: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, "2 K"]:
    """Share of each picture's area that each bucket leaves."""
    relative = (sides[:, 0] / sides[:, 1])[:, None] / (table[:, 0] / table[:, 1])[None]
    return np.minimum(relative, 1 / relative)
