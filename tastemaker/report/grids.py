"""A contact sheet of rows as one PNG: the pictures of all sides, the prompt below."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.store.atomic import atomic_file

_TILE_PX = 128
_SEAM_PX, _GAP_PX, _MARGIN_PX = 2, 22, 34
_FONT_PX, _HEAD_PX = 15, 17
_PAPER, _INK, _SOFT, _ACCENT = (246, 246, 246), (23, 23, 23), (110, 110, 110), (216, 35, 47)


@dataclass(frozen=True)
class RowOfPictures:
    """What several models made of a prompt; uint8 `[H, W, 3]`, None where one is missing."""

    text: str
    pictures: Sequence[np.ndarray | None]


def write_sheet(
    path: Path, sides: Sequence[str], rows: Sequence[RowOfPictures], *, tiles: int = 8
) -> None:
    """Write the sheet atomically.

    Args:
        path: the PNG.
        sides: names of the pictures of a row, left to right.
        rows: at least one.
        tiles: about so many pictures across.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise ValueError("a sheet needs at least one row")
    columns = min(max(1, tiles // len(sides)), len(rows))
    row_w = len(sides) * _TILE_PX + (len(sides) - 1) * _SEAM_PX
    caption_h = _FONT_PX + 14
    cell_w, cell_h = row_w + _GAP_PX, _TILE_PX + caption_h + _GAP_PX
    head, font = ImageFont.load_default(_HEAD_PX), ImageFont.load_default(_FONT_PX)
    head_h = _HEAD_PX + 18
    wide = columns * cell_w - _GAP_PX
    words_w = round(sum(head.getlength(text) for text, _ in _head(sides))) + 1
    width = 2 * _MARGIN_PX + max(wide, words_w)
    height = 2 * _MARGIN_PX + head_h + ceil(len(rows) / columns) * cell_h - _GAP_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = _MARGIN_PX
    for text, colour in _head(sides):
        draw.text((x, _MARGIN_PX), text, fill=colour, font=head)
        x += round(head.getlength(text))
    for number, row in enumerate(rows):
        left = _MARGIN_PX + number % columns * cell_w
        top = _MARGIN_PX + head_h + number // columns * cell_h
        for side, pixels in enumerate(row.pictures):
            sheet.paste(_tile(pixels), (left + side * (_TILE_PX + _SEAM_PX), top))
        text = _shortened(row.text, row_w, font)
        draw.text((left, top + _TILE_PX + 7), text, fill=_INK, font=font)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _head(sides: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """The names of the sides, the last one in colour."""
    parts = [(f"{side} / ", _SOFT) for side in sides[:-1]]
    return [*parts, (sides[-1], _ACCENT), ("   the same prompt and the same noise", _SOFT)]


def _tile(pixels: np.ndarray | None) -> Any:
    """A square; the whole picture in it, on white."""
    from PIL import Image

    tile = Image.new(
        "RGB", (_TILE_PX, _TILE_PX), "white" if pixels is not None else (222, 222, 222)
    )
    if pixels is None:
        return tile
    image = Image.fromarray(pixels)
    scale = _TILE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    tile.paste(image, ((_TILE_PX - image.width) // 2, (_TILE_PX - image.height) // 2))
    return tile


def _shortened(text: str, width: int, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1].rstrip()
    return f"{text}…"
