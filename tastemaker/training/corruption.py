"""Worse copies of pictures: pairs whose answer is known, as training data of quality models.

Source: bigASP; half of the copies are blurred (Gaussian, radius 3 to 16 px), the others compressed
as JPEG of quality 20 to 70. The source's pictures have about 1024 px; here the radius shrinks with
the picture.
"""

import io

import numpy as np
from PIL import Image, ImageFilter

from tastemaker.store.images import load_image

_SIDE_PX = 1024


def corrupted(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A worse copy, uint8 `[H, W, 3]`.

    Args:
        pixels: uint8 `[H, W, 3]`.
        random: which corruption, and how much.
    """
    image = Image.fromarray(pixels)
    if random.random() < 0.5:
        scale = min(1.0, max(image.size) / _SIDE_PX)
        radius = float(random.uniform(3, 16)) * scale
        return np.asarray(image.filter(ImageFilter.GaussianBlur(max(0.7, radius))))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.integers(20, 71)))
    return load_image(buffer.getvalue(), name="a worse copy").pixels
