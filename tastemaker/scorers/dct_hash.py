"""The 64-bit DCT hash of a picture and of its mirror image, from one small grey picture.

Axes: grey pictures are uint8 `[H, W]`.
"""

import numpy as np
from PIL import Image

_SIDE = 32
_LOW = 8


def dct_hashes(grey: Image.Image) -> tuple[str, str]:
    """The hashes of a grey picture and of the same picture mirrored left to right.

    The picture is shrunk to 32x32 (Lanczos), transformed by an unscaled DCT-II along both axes, and
    each of the 8x8 lowest frequencies gives one bit: whether it exceeds their median. Bit for bit
    what `imagehash.phash` gives for the picture and for its mirror image.

    Args:
        grey: a picture of mode `L`, at least 1x1.

    Returns:
        16 hex digits each, the lowest frequency first.
    """
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    # Shrinking is symmetric. The mirror image's transform is, in theory, this one with every other
    # column negated; but in a picture that is its own mirror image those columns are rounding
    # noise, and only the same computation has the same noise.
    return _hash(small), _hash(small[:, ::-1])


def _hash(small: np.ndarray) -> str:
    from scipy.fft import dct

    low = np.asarray(dct(dct(small, axis=0), axis=1))[:_LOW, :_LOW]
    return np.packbits(low > np.median(low)).tobytes().hex()
