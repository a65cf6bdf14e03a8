"""What can be measured of a picture without any model: hash, colours, sharpness, how much is in it.

Axes: pixels are uint8 `[H, W, 3]`, RGB.
"""

from typing import Any

import numpy as np
from PIL import Image

NAME, VERSION = "pixels", 1
"""Name and version of the column; the version changes when the same picture gives other values."""

_SHARPNESS_PX = 512
_COLOUR_GRID = 8


def measure(pixels: np.ndarray) -> dict[str, Any]:
    """The measurements of one picture.

    Returns:
        `phash`: 64-bit perceptual hash of the luminance as 16 hex digits (DCT hash of imagehash).
        `colours`: 192 numbers 0..255, the mean colours of an 8x8 grid, row by row.
        `sharpness`: variance of the Laplacian of the luminance (Pech-Pacheco et al. 2000), with the
            longest side reduced to 512 px, so that large pictures are not called blurred.
        `entropy_bits`: entropy of the luminance's histogram, 0..8.
        `flat_share`: share of the most frequent colour at 5 bits a channel, 0..1.
    """
    import imagehash

    image = Image.fromarray(pixels)
    grid = image.resize((_COLOUR_GRID, _COLOUR_GRID), Image.Resampling.BOX)
    small = image.reduce(-(-max(image.size) // _SHARPNESS_PX))
    grey = np.asarray(small.convert("L"), np.float64)
    return {
        "phash": str(imagehash.phash(image)),
        "colours": np.asarray(grid).reshape(-1).tolist(),
        "sharpness": _sharpness(grey),
        "entropy_bits": _entropy_bits(grey),
        "flat_share": _flat_share(np.asarray(small)),
    }


def _sharpness(grey: np.ndarray) -> float:
    if min(grey.shape) < 3:
        return 0.0
    centre = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * centre).var())


def _entropy_bits(grey: np.ndarray) -> float:
    counts = np.bincount(grey.astype(np.uint8).reshape(-1), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(np.abs((shares * np.log2(shares)).sum()))


def _flat_share(pixels: np.ndarray) -> float:
    coarse = (pixels >> 3).astype(np.uint32)
    codes = coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2]
    counts = np.bincount(codes.reshape(-1))
    return float(counts.max() / codes.size)
