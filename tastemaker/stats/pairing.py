"""Which pairs of pictures to show next, so that few answers give a good order.

Axes: I items. Items are numbers from 0; a pair is two of them.
"""

from collections.abc import Collection, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tastemaker.stats.bradley_terry import Comparison, bradley_terry

Pair = tuple[int, int]

EXACT_ITEMS = 500
"""Above this many items errors are taken from the curvature's diagonal (ours): 500 items take 34 ms
exactly, 2,000 take 1.2 to 2.7 s."""

SPREAD = 0.5
"""Share of the error that is drawn (ours). Spearman with the truth after 8 and 16 comparisons of
each of 500 pictures, 4 seeds, 5 % lapses: 0.813 and 0.908 without draws, 0.813 and 0.906 with half,
0.808 and 0.906 with the whole error, 0.809 and 0.898 with random pairs; sd of the means 0.004."""

WINDOW = 12
"""How far down the order a partner is looked for (ours)."""


def first_pass(items: int, random: np.random.Generator) -> list[Pair]:
    """Pairs that connect all items, `items - 1` of them.

    The first half shows every item once, against a random partner; the second half joins these
    pairs into one chain, in random order. So that a rater who stops early has seen most pictures.
    """
    order = random.permutation(items).tolist()
    chain = list(zip(order, order[1:], strict=False))
    matched, links = chain[::2], chain[1::2]
    return [*matched, *(links[n] for n in random.permutation(len(links)).tolist())]


def utilities(
    comparisons: Sequence[Comparison], items: Sequence[Hashable], *, l2: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bradley-Terry utility [I] of every item and its standard error [I].

    An item without an answer has utility 0 and the error of the prior. Ties are left out: they
    move no order.

    Args:
        comparisons: answers among the items.
        items: all of them.
        l2: of the prior, as in `bradley_terry`.
    """
    utility = np.zeros(len(items))
    error = np.full(len(items), l2**-0.5)
    place = {item: number for number, item in enumerate(items)}
    decided = [row for row in comparisons if row.score != 0.5]
    if not decided:
        return utility, error
    ratings = bradley_terry(decided, l2=l2, ties="drop")
    rated = np.array([place[item] for item in ratings.items])
    utility[rated] = ratings.utility
    if len(rated) <= EXACT_ITEMS:
        error[rated] = np.minimum(ratings.standard_errors(), error[rated])
        return utility, error
    first = np.array([place[row.first] for row in decided])
    second = np.array([place[row.second] for row in decided])
    chance = 1 / (1 + np.exp(utility[second] - utility[first]))
    curvature = np.full(len(items), l2)
    for side in (first, second):
        np.add.at(curvature, side, chance * (1 - chance))
    return utility, curvature**-0.5


def active_pairs(
    utility: NDArray[np.float64],
    error: NDArray[np.float64],
    compared: Collection[Pair],
    random: np.random.Generator,
    clusters: NDArray[np.int64] | None = None,
    across: float = 0.0,
    spread: float = SPREAD,
) -> list[Pair]:
    """About I / 2 pairs of likely neighbours that were not compared yet, in random order.

    Thompson's rule: items are sorted by `utility + spread * error * normal`, and neighbours are
    paired; so pairs are close where the order is known, and far where it is not. Thompson 1933, "On
    the likelihood that one unknown probability exceeds another in view of the evidence of two
    samples".

    Args:
        utility: [I].
        error: [I], in the same unit.
        compared: pairs that are not to be shown again, in either order.
        random: for the draws.
        clusters: [I] number of each item's group of content.
        across: share of pairs that must cross groups, as far as a partner is near; without it a
            group that is better as a whole is compared with itself only.
        spread: share of the error that is drawn; 0 pairs by the estimate alone, 1 is Thompson's.
    """
    order = np.argsort(-(utility + spread * error * random.standard_normal(len(utility)))).tolist()
    seen = {frozenset(pair) for pair in compared}
    found: list[Pair] = []
    while len(order) > 1:
        one = order.pop(0)
        near = [other for other in order[:WINDOW] if frozenset((one, other)) not in seen]
        crossing = clusters is not None and random.random() < across
        if crossing and clusters is not None:
            near.sort(key=lambda other: bool(clusters[other] == clusters[one]))
        if near:
            order.remove(near[0])
            found.append((one, near[0]))
    return [found[n] for n in random.permutation(len(found)).tolist()]


def random_pairs(
    items: int, compared: Collection[Pair], count: int, random: np.random.Generator
) -> list[Pair]:
    """Pairs drawn blindly from those that were not compared yet; fewer where few are left.

    Only answers to these may be used to say how often a model is right: actively chosen pairs are
    the hard ones.
    """
    seen = {frozenset(pair) for pair in compared}
    found: list[Pair] = []
    for _ in range(20 * count if items > 1 else 0):
        if len(found) == count:
            break
        one, other = random.choice(items, 2, replace=False).tolist()
        if frozenset((one, other)) not in seen:
            seen.add(frozenset((one, other)))
            found.append((one, other))
    return found
