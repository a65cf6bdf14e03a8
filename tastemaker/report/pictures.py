"""Pictures inside a page: small WebP files as data addresses, nothing to load from elsewhere."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tastemaker.errors import PictureError
from tastemaker.store.images import load_image

SIDE_PX = 320
"""Longer side of an embedded picture, at most; ours: sharp at twice the width of a card."""

_LOSSLESS_UP_TO = 128 * 128


def data_address(pixels: np.ndarray, side_px: int = SIDE_PX) -> str:
    """A `data:image/webp;base64,...`; large pictures are reduced, small ones kept exactly.

    Args:
        pixels: uint8 `[H, W, 3]`.
        side_px: longer side, at most.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    longer = max(image.size)
    if longer > side_px:
        size = (max(1, image.width * side_px // longer), max(1, image.height * side_px // longer))
        # With a gap, blocks are averaged first: ten times as fast for a photograph (measured).
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    lossless = image.width * image.height <= _LOSSLESS_UP_TO
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=90, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def embedded(path: Path | None, side_px: int = SIDE_PX) -> str | None:
    """The data address of a file, or None when it is gone or cannot be read."""
    if path is None:
        return None
    try:
        return data_address(load_image(path).pixels, side_px)
    except PictureError:
        return None


def spread(items: Sequence, count: int) -> list:
    """At most `count` items, evenly from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
