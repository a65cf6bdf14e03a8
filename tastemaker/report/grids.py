"""A contact sheet of pairs as one PNG: before and after, the prompt below."""

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
class PairOfPictures:
    """What two models made of a prompt; uint8 `[H, W, 3]`, None where one is missing."""

    text: str
    before: np.ndarray | None
    after: np.ndarray | None


def write_pair_sheet(path: Path, pairs: Sequence[PairOfPictures], *, columns: int = 4) -> None:
    """Write the sheet atomically.

    Args:
        path: the PNG.
        pairs: at least one.
        columns: pairs in a row.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not pairs:
        raise ValueError("a sheet needs at least one pair")
    columns = min(columns, len(pairs))
    pair_w, caption_h = 2 * _TILE_PX + _SEAM_PX, _FONT_PX + 14
    cell_w, cell_h = pair_w + _GAP_PX, _TILE_PX + caption_h + _GAP_PX
    head_h = _HEAD_PX + 18
    width = 2 * _MARGIN_PX + columns * cell_w - _GAP_PX
    height = 2 * _MARGIN_PX + head_h + ceil(len(pairs) / columns) * cell_h - _GAP_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    head = ImageFont.load_default(_HEAD_PX)
    _draw_head(draw, head, (_MARGIN_PX, _MARGIN_PX))
    font = ImageFont.load_default(_FONT_PX)
    for number, pair in enumerate(pairs):
        left = _MARGIN_PX + number % columns * cell_w
        top = _MARGIN_PX + head_h + number // columns * cell_h
        for side, pixels in enumerate((pair.before, pair.after)):
            at = (left + side * (_TILE_PX + _SEAM_PX), top)
            sheet.paste(_tile(pixels), at)
        text = _shortened(pair.text, pair_w, font)
        draw.text((left, top + _TILE_PX + 7), text, fill=_INK, font=font)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _draw_head(draw: Any, font: Any, at: tuple[int, int]) -> None:
    x, y = at
    for text, colour in (("before", _SOFT), (" / ", _SOFT), ("after", _ACCENT)):
        draw.text((x, y), text, fill=colour, font=font)
        x += round(font.getlength(text))
    draw.text((x, y), "   the same prompt and the same noise", fill=_SOFT, font=font)


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
