"""What can be measured of a picture without any model: sharpness, exposure, colours, frame, hash.

Axes: pixels are uint8 `[H, W, 3]`, RGB; luminance is ITU-R 601 as Pillow rounds it, uint8 `[H, W]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from tastemaker.scorers.borders import find_borders
from tastemaker.scorers.dct_hash import dct_hashes
from tastemaker.scorers.operation import Measure, Operation, Subject, Values

REDUCED_PX = 512
"""Longest side at which most is measured, so that large pictures are not called blurred (ours)."""

DARK, BRIGHT = 4, 251
"""Luminance up to which, and from which, a pixel counts as clipped: the ends of 0..255, with room
for the noise of JPEG (ours)."""

COLOUR_GRID = 8
"""The mean colours are those of a grid of so many by so many fields."""


class Pixels(Operation):
    """Measurements that need neither weights nor an optional package; see `measure`."""

    VERSION: ClassVar[int] = 2
    FIELDS: ClassVar[Mapping[str, str]] = {
        "sharpness": "float32",
        "clipped_dark": "float32",
        "clipped_bright": "float32",
        "entropy_bits": "float32",
        "flat_share": "float32",
        "colourfulness": "float32",
        "border_top": "float32",
        "border_bottom": "float32",
        "border_left": "float32",
        "border_right": "float32",
        "border_share": "float32",
        "phash": "string",
        "phash_mirror": "string",
        "colours": "list<int32>",
    }

    kind: Literal["pixels"] = "pixels"
    """Measurements of the pixels alone."""

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Nothing to load."""
        return _measure_all


def measure(pixels: np.ndarray) -> dict[str, Any]:
    """The measurements of one picture; all numbers are finite, whatever its size and content.

    Clipping and borders are measured at full size. Sharpness, entropy and the hashes are those of
    the luminance whose longest side is reduced to 512 px, by averaging areas. What is of colours is
    measured after a reduction by the least whole factor that leaves at most 512 px. Smaller
    pictures are not enlarged.

    Returns:
        `sharpness`: variance of the Laplacian (4 neighbours) of the luminance, Pech-Pacheco et al.
            2000; 0 when a side is below 3 px.
        `clipped_dark`, `clipped_bright`: shares 0..1 of pixels with a luminance of at most 4, at
            least 251.
        `entropy_bits`: entropy of the luminance's histogram, 0..8.
        `flat_share`: share of the most frequent colour at 5 bits a channel, 0..1.
        `colourfulness`: M^(3) of Hasler & Suesstrunk 2003: about 15 slightly, 33 moderately, 45
            averagely, 59 quite, 82 highly, 109 extremely colourful; 0 is grey.
        `border_top`, `border_bottom`: shares of the height that are a uniform frame.
        `border_left`, `border_right`: shares of the width that are.
        `border_share`: share of the area that is.
        `phash`, `phash_mirror`: 64-bit DCT hash of the luminance of the picture and of its mirror
            image, 16 hex digits. Those of `imagehash.phash` up to 512 px; of larger pictures 9 in
            10 have the same, and most others differ from it in 2 bits, as after a reduction.
        `colours`: 192 numbers 0..255, the mean colours of an 8x8 grid, row by row.
    """
    image = Image.fromarray(pixels)
    luminance = image.convert("L")
    grey = np.asarray(luminance)
    # The exact average over each pixel's area: with whole factors, or with a kernel that is sharper
    # in some phases, the sharpness of a photograph depended threefold on its size (measured).
    reduced = luminance
    if max(image.size) > REDUCED_PX:
        scale = REDUCED_PX / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        reduced = luminance.resize(size, Image.Resampling.BOX)
    phash, mirrored = dct_hashes(reduced)
    # Colours need no exact size.
    small = image.reduce(-(-max(image.size) // REDUCED_PX))
    grid = small.resize((COLOUR_GRID, COLOUR_GRID), Image.Resampling.BOX)
    channels = [np.asarray(channel).reshape(-1) for channel in small.split()]
    return {
        "sharpness": _sharpness(np.asarray(reduced)),
        "clipped_dark": float(np.count_nonzero(grey <= DARK) / grey.size),
        "clipped_bright": float(np.count_nonzero(grey >= BRIGHT) / grey.size),
        "entropy_bits": _entropy_bits(reduced),
        "flat_share": _flat_share(channels),
        "colourfulness": _colourfulness(channels),
        **_borders(pixels, grey),
        "phash": phash,
        "phash_mirror": mirrored,
        "colours": np.asarray(grid).reshape(-1).tolist(),
    }


def _measure_all(subjects: Sequence[Subject]) -> list[Values]:
    return [_measure_one(subject.pixels) for subject in subjects]


def _measure_one(pixels: np.ndarray | None) -> Values:
    if pixels is None:
        return {"error": "no pixels"}
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return {"error": f"no RGB picture ({pixels.dtype} {list(pixels.shape)})"}
    return measure(pixels)


def _sharpness(grey: np.ndarray) -> float:
    if min(grey.shape) < 3:
        return 0.0
    wide = grey.astype(np.int16)
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return float((around - 4 * wide[1:-1, 1:-1]).var())


def _entropy_bits(luminance: Image.Image) -> float:
    counts = np.array(luminance.histogram())
    shares = counts[counts > 0] / counts.sum()
    return float(np.abs((shares * np.log2(shares)).sum()))


def _flat_share(channels: Sequence[np.ndarray]) -> float:
    red, green, blue = (channel.astype(np.uint16) >> 3 for channel in channels)
    return float(np.bincount(red << 10 | green << 5 | blue).max() / red.size)


def _colourfulness(channels: Sequence[np.ndarray]) -> float:
    """M^(3) = deviation + 0.3 mean of the opponent colours R - G and (R + G) / 2 - B."""
    red, green, blue = (channel.astype(np.int16) for channel in channels)
    # Twice the second one, so that both are whole numbers and every sum is exact.
    opponents = [(red - green).astype(np.float64), (red + green - 2 * blue).astype(np.float64)]
    means = [opponent.mean() / scale for opponent, scale in zip(opponents, (1, 2), strict=True)]
    squares = [
        opponent @ opponent / opponent.size / scale**2
        for opponent, scale in zip(opponents, (1, 2), strict=True)
    ]
    mean_square = means[0] ** 2 + means[1] ** 2
    variance = max(sum(squares) - mean_square, 0.0)
    return float(np.sqrt(variance) + 0.3 * np.sqrt(mean_square))


def _borders(pixels: np.ndarray, grey: np.ndarray) -> dict[str, float]:
    found = find_borders(pixels, grey)
    height, width = grey.shape
    inside = (height - found.top - found.bottom) * (width - found.left - found.right)
    return {
        "border_top": found.top / height,
        "border_bottom": found.bottom / height,
        "border_left": found.left / width,
        "border_right": found.right / width,
        "border_share": 1 - inside / (height * width),
    }
