"""Resize and crop to a bucket. Axes: pixels are uint8 `[H, W, 3]`."""

import numpy as np
from PIL import Image

from tastemaker.records.size import ImageSizes, Size


def resize_and_crop(
    pixels: np.ndarray, target: Size, crop_at: tuple[float, float] = (0.5, 0.5)
) -> tuple[np.ndarray, ImageSizes]:
    """Scale with Lanczos until the picture just covers `target`, then cut `target` out of it.

    Args:
        pixels: uint8 `[H, W, 3]`.
        target: size of the result.
        crop_at: where to cut, as fractions of the spare height and width: (0, 0) keeps the top
        left,
            (0.5, 0.5) the centre, (1, 1) the bottom right.

    Returns:
        uint8 `[target.h, target.w, 3]`, and the sizes for SDXL's conditioning, with the crop in
        pixels of the resized picture.

    Raises:
        ValueError: a fraction is outside 0..1, or a size is not positive.
    """
    top_fraction, left_fraction = crop_at
    if not (0 <= top_fraction <= 1 and 0 <= left_fraction <= 1):
        raise ValueError(f"crop_at {crop_at}: each fraction must be within 0..1")
    original = Size(*pixels.shape[:2])
    if min(*original, *target) < 1:
        raise ValueError(f"cannot resize {original} to {target}")
    scale = max(target.h / original.h, target.w / original.w)
    covering = Size(
        max(target.h, round(original.h * scale)), max(target.w, round(original.w * scale))
    )
    if covering != original:
        image = Image.fromarray(pixels).resize((covering.w, covering.h), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
    top = round(top_fraction * (covering.h - target.h))
    left = round(left_fraction * (covering.w - target.w))
    # A copy of its own: Pillow's memory is read-only, which torch does not take.
    cut = pixels[top : top + target.h, left : left + target.w].copy()
    return cut, ImageSizes(original, top, left, target)
