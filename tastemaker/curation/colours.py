"""Names of the colours that a picture is mostly made of, measured in CIELAB.

Axes: pixels are uint8 `[N, 3]`, sRGB.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

# Several shades share a name, so that "nearest" follows how people name colours rather than
# distance alone.
_SHADES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("black", (0, 0, 0)),
    ("black", (45, 45, 45)),
    ("grey", (105, 110, 115)),
    ("grey", (150, 155, 160)),
    ("grey", (190, 195, 200)),
    ("white", (255, 255, 255)),
    ("white", (225, 232, 237)),
    ("red", (220, 40, 50)),
    ("red", (160, 20, 40)),
    ("orange", (245, 145, 20)),
    ("orange", (240, 170, 80)),
    ("yellow", (250, 220, 60)),
    ("yellow", (255, 230, 140)),
    ("green", (60, 150, 50)),
    ("green", (120, 180, 90)),
    ("green", (175, 205, 40)),
    ("green", (20, 90, 40)),
    ("blue", (40, 110, 190)),
    ("blue", (90, 175, 240)),
    ("blue", (150, 210, 250)),
    ("blue", (20, 40, 130)),
    ("blue", (25, 80, 220)),
    ("blue", (10, 20, 250)),
    ("purple", (130, 80, 180)),
    ("purple", (180, 150, 210)),
    ("pink", (245, 165, 185)),
    ("pink", (235, 90, 140)),
    ("brown", (110, 65, 30)),
    ("brown", (165, 105, 60)),
    ("brown", (190, 105, 80)),
    ("brown", (215, 160, 130)),
)


def dominant_colours(
    pixels: UInt8[np.ndarray, "N 3"], least_share: float = 0.15, most: int = 3
) -> tuple[str, ...]:
    """The named colours that cover at least `least_share` of the pixels, largest first.

    Each pixel, rounded to 5 bits a channel, takes the name of the nearest shade of a small table in
    CIELAB (CIE 1976 difference). Drawings have black outlines whatever their colour, so black
    counts only when it covers half of all pixels; otherwise the shares are of the pixels that are
    not black.
    """
    if len(pixels) == 0:
        return ()
    shades, owners, names = _table()
    # Few of the 32768 coarse colours occur: only those are compared with the shades.
    coarse = (pixels >> 3).astype(np.intp)
    occurring = np.bincount(coarse[:, 0] << 10 | coarse[:, 1] << 5 | coarse[:, 2])
    codes = np.flatnonzero(occurring)
    levels = np.stack([codes >> 10, codes >> 5 & 31, codes & 31], axis=1) * 255 / 31
    distances = ((lab(levels.astype(np.uint8))[:, None, :] - shades[None]) ** 2).sum(axis=-1)
    nearest = owners[distances.argmin(axis=1)]
    counts = np.bincount(nearest, weights=occurring[codes], minlength=len(names))
    if 2 * counts[names.index("black")] < len(pixels):
        counts[names.index("black")] = 0
    shares = counts / counts.sum()
    order = sorted(range(len(names)), key=lambda index: (-shares[index], names[index]))
    return tuple(names[index] for index in order[:most] if shares[index] >= least_share)


def lab(pixels: UInt8[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """CIELAB (D65) of sRGB pixels, float64 `[N, 3]`: L in 0..100, a and b about -128..127.

    Source: IEC 61966-2-1 for the transfer curve, CIE 15 for Lab.
    """
    encoded = np.asarray(pixels, np.float64) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(axis=1)
    small = (6 / 29) ** 3
    f = np.where(ratio > small, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[:, 0], f[:, 1], f[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@cache
def _table() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    names = tuple(dict.fromkeys(name for name, _ in _SHADES))
    owners = np.array([names.index(name) for name, _ in _SHADES])
    return lab(np.array([rgb for _, rgb in _SHADES], np.uint8)), owners, names
