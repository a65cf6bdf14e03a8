"""Pictures of one prompt side by side, small enough to send by mail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import PictureError
from tastemaker.report.comparison import Comparison, PictureRow
from tastemaker.report.grids import RowOfPictures
from tastemaker.report.pictures import embedded, spread
from tastemaker.store.images import load_image

MOST_SIDES = 5
"""So many pictures fit beside each other on a page (ours); the table of scores has all sides."""


@dataclass(frozen=True)
class Shown:
    """One picture: whose it is, its address, and whether it is in the taught style."""

    side: str
    address: str | None
    mark: bool | None


@dataclass(frozen=True)
class Card:
    """The pictures of one prompt."""

    text: str
    pictures: tuple[Shown, ...]


def shown_sides(comparison: Comparison) -> list[str]:
    """The sides whose pictures are shown: the reference, the one in focus, some between."""
    ends = [comparison.reference] if comparison.reference else []
    ends += [comparison.focus] if comparison.focus != comparison.reference else []
    between = [side for side in comparison.sides if side not in ends]
    kept = {*ends, *spread(between, MOST_SIDES - len(ends))}
    return [side for side in comparison.sides if side in kept]


def cards(comparison: Comparison, rows: Sequence[PictureRow], side_px: int) -> list[Card]:
    """Rows as they are shown.

    Args:
        comparison: whose they are.
        rows: some of its rows.
        side_px: longer side of a picture, at most; beside others they are smaller.
    """
    sides = shown_sides(comparison)
    small = side_px if len(sides) <= 2 else max(160, 2 * side_px // len(sides))
    styled = comparison.judged_by == "style"
    return [
        Card(
            row.text,
            tuple(
                Shown(
                    side,
                    embedded(row.pictures.get(side), small),
                    row.scores[side] > 0 if styled and side in row.scores else None,
                )
                for side in sides
            ),
        )
        for row in rows
    ]


def sheet_rows(comparison: Comparison, count: int) -> tuple[list[str], list[RowOfPictures]]:
    """Sides and rows of the contact sheet, chosen by lot and in the order of the prompts."""
    sides = shown_sides(comparison)
    chosen = sorted(comparison.by_lot(count), key=lambda row: row.prompt_id)
    return sides, [
        RowOfPictures(row.text, [_pixels(row.pictures, side) for side in sides]) for row in chosen
    ]


def _pixels(pictures: Mapping[str, Path], side: str) -> Any:
    try:
        return load_image(pictures[side]).pixels
    except (KeyError, PictureError):
        return None
