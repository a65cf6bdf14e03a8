"""Clusters of near duplicates, each around the best picture of it.

Axes: colours are uint8 `[N, H, W, 3]`, the mean colours of a grid laid over each picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from tastemaker.curation.near_pairs import NearPairs


@dataclass(frozen=True)
class Clusters:
    """Which picture stands for which, and why.

    Attributes:
        measure: what `value` is: `bits` that differ, or the `cosine`.
        representative: int64 `[N]`, the kept picture that stands for each; itself when it is kept.
        value: float64 `[N]`, how near they are.
        levels: float64 `[N]`, mean absolute difference of their colours, 0..255; NaN when colours
            were not compared.
        mirrored: bool `[N]`, whether one is the mirror image of the other.
    """

    measure: Literal["bits", "cosine"]
    representative: np.ndarray
    value: np.ndarray
    levels: np.ndarray
    mirrored: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Which pictures stand for themselves, bool `[N]`."""
        return self.representative == np.arange(len(self.representative))

    def reason(self, picture: int, name: str) -> str:
        """Why a picture was dropped: `3 bits and 1.2 levels from NAME (mirrored)`.

        Args:
            picture: its index.
            name: how to call its representative.
        """
        value, levels = self.value[picture], self.levels[picture]
        near = f"{value:.0f} bits" if self.measure == "bits" else f"cosine {value:.3f}"
        colours = "" if np.isnan(levels) else f" and {levels:.1f} levels"
        return f"{near}{colours} from {name}{' (mirrored)' if self.mirrored[picture] else ''}"


def clusters(
    order: Int64[np.ndarray, " N"],
    near: NearPairs,
    colours: UInt8[np.ndarray, "N H W 3"] | None = None,
    most_levels: float = 255.0,
) -> Clusters:
    """Keep the best picture of each cluster.

    The pictures are gone through best first. One that is near a picture that was kept joins the
    nearest such (by bits or cosine, then as it is before mirrored, then by colours, then the better
    one); any other is kept. So no picture joins one that is not near it: a chain of small changes
    does not drop its far end.

    Args:
        order: the pictures, best first.
        near: which looks are near.
        colours: a second condition, when given: of a mirrored pair, one grid is mirrored, too.
        most_levels: the most by which colours may differ on average, 0..255.

    Raises:
        ValueError: `order` does not name each picture once.
    """
    if not np.array_equal(np.sort(order), np.arange(len(near.look_of))):
        raise ValueError(f"order must name each of {len(near.look_of)} pictures once")
    count = len(order)
    found = Clusters(
        near.measure,
        representative=np.arange(count),
        value=np.full(count, near.same),
        levels=np.full(count, np.nan if colours is None else 0.0),
        mirrored=np.zeros(count, bool),
    )
    graph, kept = _Neighbours(near), _Kept(order, colours, most_levels)
    lonely = graph.lonely()[near.look_of]
    for picture in order[~lonely[order]].tolist():
        look = int(near.look_of[picture])
        for value, mirrored, others in graph.around(look):
            best = kept.nearest(picture, others, mirrored=mirrored)
            if best is not None:
                found.representative[picture], found.levels[picture] = best
                found.value[picture], found.mirrored[picture] = value, mirrored
                break
        else:
            kept.add(picture, look)
    return found


class _Neighbours:
    """Near looks of each look, nearest first."""

    def __init__(self, near: NearPairs) -> None:
        self._same = near.same
        self._pictures = np.bincount(near.look_of)
        other_way = near.left != near.right
        source = np.concatenate([near.left, near.right[other_way]])
        target = np.concatenate([near.right, near.left[other_way]])
        distance, mirrored, value = (
            np.concatenate([column, column[other_way]])
            for column in (near.distance, near.mirrored, near.value)
        )
        order = np.lexsort([target, mirrored, distance, source])
        self._target, self._mirrored = target[order], mirrored[order]
        self._value = value[order]
        self._starts = np.searchsorted(source[order], np.arange(len(self._pictures) + 1))

    def lonely(self) -> np.ndarray:
        """Looks of one picture with nothing near, bool `[K]`."""
        return (self._pictures == 1) & (np.diff(self._starts) == 0)

    def around(self, look: int) -> Iterator[tuple[float, bool, list[int]]]:
        """(value, mirrored, looks) that are equally near, nearest first; itself to begin with."""
        start, stop = self._starts[look], self._starts[look + 1]
        values, mirrored = self._value[start:stop].tolist(), self._mirrored[start:stop].tolist()
        targets = self._target[start:stop].tolist()
        level: tuple[float, bool, list[int]] = (self._same, False, [look])
        for value, flipped, target in zip(values, mirrored, targets, strict=True):
            if (value, flipped) == level[:2]:
                level[2].append(target)
            else:
                yield level
                level = (value, flipped, [target])
        yield level


class _Kept:
    """The kept pictures of every look."""

    def __init__(self, order: np.ndarray, colours: np.ndarray | None, most_levels: float) -> None:
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))
        self._most = most_levels
        self._of: dict[int, list[int]] = {}
        self._grids = colours
        if colours is not None:
            self._cells = int(np.prod(colours.shape[1:]))
            self._sums = colours.sum(axis=(1, 2), dtype=np.int64)

    def add(self, picture: int, look: int) -> None:
        """Keep a picture."""
        self._of.setdefault(look, []).append(picture)

    def nearest(
        self, picture: int, looks: list[int], *, mirrored: bool
    ) -> tuple[int, float] | None:
        """(picture, levels) of the kept one of some looks that is nearest in colour, if any is."""
        others = [other for look in looks for other in self._of.get(look, ())]
        if not others:
            return None
        if self._grids is None:
            return min(others, key=self._rank.__getitem__), np.nan
        candidates = np.array(others)
        # No grid differs by less than its sums do, mirrored or not: this leaves few to compare.
        least = np.abs(self._sums[candidates] - self._sums[picture]).sum(axis=1)
        candidates = candidates[least <= self._most * self._cells]
        grid = self._grids[picture].astype(np.int16)
        if mirrored:
            grid = grid[:, ::-1]
        levels = np.abs(self._grids[candidates] - grid).sum(axis=(1, 2, 3)) / self._cells
        near = levels <= self._most
        if not near.any():
            return None
        candidates, levels = candidates[near], levels[near]
        best = np.lexsort([self._rank[candidates], levels])[0]
        return int(candidates[best]), float(levels[best])
