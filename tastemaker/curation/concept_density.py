"""How many things a set of captions names, how often, and what a selection does to them.

The figures of PixArt-alpha's table of data sets (arXiv:2310.00426, Table 1): distinct nouns, valid
distinct nouns (those that appear more than 10 times in the data set), all nouns, nouns per picture.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class ConceptDensity:
    """What a set of pictures names.

    Attributes:
        pictures: how many pictures, also those that name nothing.
        distinct: different nouns (DN).
        valid: different nouns that appear more than `more_than` times (VN).
        total: all nouns.
        per_picture: `total` by `pictures`; 0 without pictures.
        more_than: what makes a noun valid.
        top: the most frequent nouns with their counts, most frequent first, then by name.
        counts: noun -> how often, of all of them, in the order of `top`.
    """

    pictures: int
    distinct: int
    valid: int
    total: int
    per_picture: float
    more_than: int
    top: tuple[tuple[str, int], ...]
    counts: Mapping[str, int]

    @property
    def valid_share(self) -> float:
        """`valid` by `distinct` (VN/DN), 0..1; 0 without nouns."""
        return self.valid / self.distinct if self.distinct else 0.0


@dataclass(frozen=True)
class ConceptShift:
    """How a selection treats the pictures of one noun.

    Attributes:
        noun: the noun.
        before: how often in the whole set.
        after: how often in the selection.
        kept: `after` by `before`, 0..1.
        ratio: `kept` by the share of pictures that were kept; above 1 the selection prefers it.
        deviations: distance of `after` from its expectation under a selection by chance, in
            standard deviations of a binomial draw; its sign is that of `ratio - 1`.
    """

    noun: str
    before: int
    after: int
    kept: float
    ratio: float
    deviations: float


@dataclass(frozen=True)
class ConceptShifts:
    """What a selection prefers and avoids.

    Attributes:
        kept: share of the pictures that were kept, 0..1.
        over: nouns that it prefers, the surest first.
        under: nouns that it avoids, the surest first.
        lost: valid nouns of the whole set that the selection does not name at all, by count.
        no_longer_valid: how many valid nouns of the whole set are not valid in the selection.
    """

    kept: float
    over: tuple[ConceptShift, ...]
    under: tuple[ConceptShift, ...]
    lost: tuple[tuple[str, int], ...]
    no_longer_valid: int


def concept_density(
    nouns_per_picture: Sequence[Sequence[str]], more_than: int = 10, *, show: int = 50
) -> ConceptDensity:
    """Count the nouns of a set of pictures.

    A noun counts as often as it is given: with each noun once a picture, a count is a number of
    pictures, which is what makes a noun learnable; with all mentions it is their number.

    Args:
        nouns_per_picture: nouns of each picture; an empty sequence for one that names nothing.
        more_than: a noun that appears more often than this is valid; 10 in PixArt-alpha.
        show: length of `top`.

    Raises:
        ValueError: a limit is negative.
    """
    if more_than < 0 or show < 0:
        raise ValueError(f"limits must be 0 or more, got more_than {more_than}, show {show}")
    counter: Counter[str] = Counter()
    for nouns in nouns_per_picture:
        counter.update(nouns)
    counts = dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))
    pictures, total = len(nouns_per_picture), sum(counts.values())
    return ConceptDensity(
        pictures=pictures,
        distinct=len(counts),
        valid=sum(count > more_than for count in counts.values()),
        total=total,
        per_picture=total / pictures if pictures else 0.0,
        more_than=more_than,
        top=tuple(counts.items())[:show],
        counts=counts,
    )


def compare(before: ConceptDensity, after: ConceptDensity, *, show: int = 20) -> ConceptShifts:
    """What a selection of pictures does to the nouns of the whole set.

    Only valid nouns of the whole set are compared: of rare ones chance decides. They are ordered by
    how surely they are preferred or avoided, not by the ratio, which is greatest for the rarest.
    The standard deviations hold for nouns that are given once a picture.

    Args:
        before: of all pictures.
        after: of the selected ones.
        show: most nouns in `over`, `under` and `lost`.

    Raises:
        ValueError: `after` is no selection of `before`: it has more pictures, or more of a noun.
    """
    if after.pictures > before.pictures:
        raise ValueError(f"{after.pictures} pictures are no selection of {before.pictures}")
    for noun, count in after.counts.items():
        if count > before.counts.get(noun, 0):
            was = before.counts.get(noun, 0)
            raise ValueError(f"{noun!r}: {count} after a selection, but {was} before")
    share = after.pictures / before.pictures if before.pictures else 0.0
    valid = {noun: count for noun, count in before.counts.items() if count > before.more_than}
    shifts = [
        _shift(noun, count, after.counts.get(noun, 0), share) for noun, count in valid.items()
    ]
    surest = sorted(shifts, key=lambda shift: (-abs(shift.deviations), shift.noun))
    still = sum(after.counts.get(noun, 0) > before.more_than for noun in valid)
    lost = [(noun, count) for noun, count in valid.items() if noun not in after.counts]
    return ConceptShifts(
        kept=share,
        over=tuple(shift for shift in surest if shift.deviations > 0)[:show],
        under=tuple(shift for shift in surest if shift.deviations < 0)[:show],
        lost=tuple(lost[:show]),
        no_longer_valid=len(valid) - still,
    )


def rank_frequency(density: ConceptDensity, points: int = 200) -> tuple[tuple[int, int], ...]:
    """(rank, count) for a plot on two logarithmic axes; rank 1 is the most frequent noun.

    Args:
        density: of a set of pictures.
        points: most of them; where there are more nouns, ranks are evenly spaced in their
            logarithm, and the first and the last are always there.

    Raises:
        ValueError: fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a line needs 2 points or more, got {points}")
    counts = list(density.counts.values())
    ranks = range(1, len(counts) + 1)
    if len(counts) > points:
        ranks = np.unique(np.geomspace(1, len(counts), points).round().astype(int)).tolist()
    return tuple((rank, counts[rank - 1]) for rank in ranks)


def _shift(noun: str, before: int, after: int, share: float) -> ConceptShift:
    spread = sqrt(before * share * (1 - share))
    return ConceptShift(
        noun=noun,
        before=before,
        after=after,
        kept=after / before,
        ratio=after / before / share if share else 0.0,
        deviations=(after - before * share) / spread if spread else 0.0,
    )
