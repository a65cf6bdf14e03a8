"""Which real pictures the judges look at, and which of them they are fitted on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from tastemaker.records.image import ImageRecord

_LEAST_FREE = 10
"""Concepts that a style judge needs besides those that are evaluated; ours."""


@dataclass(frozen=True)
class Drawing:
    """A real picture with a name for what it shows, and perhaps for its style."""

    record: ImageRecord
    concept: str
    style: str | None


def choose_drawings(
    records: Iterable[ImageRecord],
    evaluated: set[str],
    *,
    concept_attribute: str,
    style_attribute: str,
    others: int,
) -> list[Drawing]:
    """Drawings of the evaluated concepts and of at most `others` further ones, chosen by hash."""
    drawings = [
        Drawing(record, concept, record.attribute(style_attribute))
        for record in records
        if record.status == "ok" and (concept := record.attribute(concept_attribute))
    ]
    free = sorted({d.concept for d in drawings} - evaluated, key=_digest)
    wanted = evaluated | set(free[:others])
    return sorted(
        (d for d in drawings if d.concept in wanted), key=lambda d: (d.concept, d.record.id)
    )


def free_of(concepts: Sequence[str], evaluated: set[str]) -> np.ndarray:
    """Which drawings a style judge may be fitted on: bool `[N]`; the others test it.

    Those of concepts that are not evaluated; where fewer than 10 are left, four fifths of all
    concepts, chosen by hash.
    """
    free = {name for name in concepts if name not in evaluated}
    if len(free) < _LEAST_FREE:
        ordered = sorted(set(concepts), key=_digest)
        free = set(ordered[: max(1, len(ordered) * 4 // 5)])
    return np.array([name in free for name in concepts], bool)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
