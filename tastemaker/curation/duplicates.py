"""Pictures that look the same: near in a perceptual hash and in colour."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tastemaker.records.image import Drop

HASH_BITS = 64


@dataclass(frozen=True)
class Look:
    """How one picture looks.

    Attributes:
        id: the picture.
        name: how to call it in verdicts.
        group: only pictures of one group are compared.
        phash: 64-bit perceptual hash.
        colours: mean colours of a grid, 0..255.
    """

    id: str
    name: str
    group: str
    phash: int
    colours: tuple[int, ...]


def near_duplicates(looks: Sequence[Look], most_bits: int, most_colour: float) -> dict[str, Drop]:
    """Verdicts for the pictures that look like one before them; put the best pictures first.

    Two pictures look the same when their hashes differ in at most `most_bits` bits and their
    colours by at most `most_colour` on average. A picture is compared with the kept ones only, so
    that a chain of small changes does not drop its far end.

    The search is exact: hashes that differ in at most k bits agree in one of k + 1 bands.

    Args:
        looks: the pictures, best first.
        most_bits: 0..63; below 0 nothing is compared.
        most_colour: mean absolute difference, 0..255.
    """
    drops: dict[str, Drop] = {}
    if most_bits < 0:
        return drops
    bands = _bands(most_bits + 1)
    kept: dict[tuple[str, int, int], list[Look]] = {}
    for look in looks:
        places = [
            (look.group, index, (look.phash >> shift) & mask)
            for index, (shift, mask) in enumerate(bands)
        ]
        others = {other.id: other for place in places for other in kept.get(place, ())}
        near = _nearest(look, others.values(), most_bits, most_colour)
        if near is not None:
            bits, colour, other = near
            got = f"{bits} bits and {colour:.1f} levels from {other.name}"
            limit = f"more than {most_bits} bits or {most_colour:g} levels"
            drops[look.id] = Drop("near duplicate", got=got, limit=limit)
            continue
        for place in places:
            kept.setdefault(place, []).append(look)
    return drops


def _nearest(
    look: Look, others: Iterable[Look], most_bits: int, most_colour: float
) -> tuple[int, float, Look] | None:
    """(bits, colour, other) of the most similar one within both limits."""
    found = []
    for other in others:
        bits = (look.phash ^ other.phash).bit_count()
        if bits <= most_bits:
            colour = float(np.abs(np.subtract(look.colours, other.colours)).mean())
            if colour <= most_colour:
                found.append((bits, colour, other))
    return min(found, key=lambda near: (*near[:2], near[2].id), default=None)


def _bands(count: int) -> list[tuple[int, int]]:
    """(shift, mask) of `count` bands that cover the 64 bits."""
    edges = [round(index * HASH_BITS / count) for index in range(count + 1)]
    return [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]
