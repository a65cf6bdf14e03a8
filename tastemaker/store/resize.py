"""Resize and crop to a bucket. Axes: pixels are uint8 `[H, W, 3]`."""

import numpy as np
from PIL import Image

from tastemaker.records.size import ImageSizes, Size, covering_size

CENTRE = (0.5, 0.5)
"""The place of a centre crop."""


def crop_sizes(original: Size, target: Size, crop_at: tuple[float, float] = CENTRE) -> ImageSizes:
    """What `resize_and_crop` will tell of a picture of this size, without its pixels.

    Raises:
        ValueError: a fraction is outside 0..1, or a size is not positive.
    """
    if not all(0 <= fraction <= 1 for fraction in crop_at):
        raise ValueError(f"crop_at {crop_at}: each fraction must be within 0..1")
    covering = covering_size(original, target)
    top = round(crop_at[0] * (covering.h - target.h))
    left = round(crop_at[1] * (covering.w - target.w))
    return ImageSizes(original, top, left, target)


def cut_out(pixels: np.ndarray, sizes: ImageSizes) -> np.ndarray:
    """The crop that `sizes` describes: uint8 `[target.h, target.w, 3]`, scaled with Lanczos.

    Raises:
        ValueError: the picture has another size than `sizes` says.
    """
    original = Size(*pixels.shape[:2])
    if original != sizes.original:
        raise ValueError(f"a picture of {original}, where {sizes.original} was expected")
    target, covering = sizes.target, covering_size(original, sizes.target)
    if covering != original:
        image = Image.fromarray(pixels).resize((covering.w, covering.h), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
    top, left = sizes.crop_top, sizes.crop_left
    # A copy of its own: Pillow's memory is read-only, which torch does not take.
    return pixels[top : top + target.h, left : left + target.w].copy()


def resize_and_crop(
    pixels: np.ndarray, target: Size, crop_at: tuple[float, float] = CENTRE
) -> tuple[np.ndarray, ImageSizes]:
    """Scale with Lanczos until the picture just covers `target`, then cut `target` out of it.

    Args:
        pixels: uint8 `[H, W, 3]`.
        target: size of the result.
        crop_at: where to cut, as fractions of the spare height and width: (0, 0) keeps the top
            left, (0.5, 0.5) the centre, (1, 1) the bottom right.

    Returns:
        uint8 `[target.h, target.w, 3]`, and the sizes for SDXL's conditioning, with the crop in
        pixels of the resized picture.

    Raises:
        ValueError: a fraction is outside 0..1, or a size is not positive.
    """
    sizes = crop_sizes(Size(*pixels.shape[:2]), target, crop_at)
    return cut_out(pixels, sizes), sizes
