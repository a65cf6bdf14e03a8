"""A picture as a captioning model is shown it.

Axes: pixels are uint8 `[H, W, 3]`, RGB.
"""

import base64
import io

import numpy as np
from PIL import Image


def reduced(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A picture whose longest side is at most `side_px`; small ones stay as they are."""
    image = Image.fromarray(pixels)
    scale = side_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def picture_address(pixels: np.ndarray, side_px: int, jpeg_quality: int | None) -> str:
    """A picture as a `data:` URL.

    Args:
        pixels: uint8 `[H, W, 3]`.
        side_px: longest side; larger pictures are reduced.
        jpeg_quality: 1..100; None means PNG.
    """
    image, file = reduced(pixels, side_px), io.BytesIO()
    if jpeg_quality is None:
        image.save(file, "PNG", compress_level=1)
    else:
        # Colours at full resolution: small coloured letters matter to a reader.
        image.save(file, "JPEG", quality=jpeg_quality, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{'png' if jpeg_quality is None else 'jpeg'};base64,{data}"
