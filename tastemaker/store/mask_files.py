"""Mask files: pictures that say which part of another picture counts in the loss.

White counts, black does not. The mask of `a/NAME.jpg` is `a/NAME-masklabel.png` (as OneTrainer has
it), or else a picture called `NAME` in a folder `masks` beside it (as kohya's conditioning images).
Of a coloured mask the red channel counts, as in kohya's scripts; what is transparent in it is
masked. A picture's own transparency can be its mask, too (kohya's `--alpha_mask`).

Axes: masks are float32 `[H, W]`, 0 masked and 1 kept, upright.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.archives import slice_of
from tastemaker.store.file_kinds import PICTURE_ENDINGS
from tastemaker.store.images import load_image

LABEL = "-masklabel"
"""What OneTrainer puts between a picture's name and the mask's ending."""

MASKS = "masks"
"""The folder of masks beside the pictures."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_LOSSLESS_FIRST = (".png", *sorted(PICTURE_ENDINGS - {".png"}))


def find_mask(picture: Path, folder: str = MASKS) -> Path | None:
    """The mask file of a picture; None when it has none, or lies in an archive."""
    if slice_of(picture) is not None:
        return None
    stem = picture.name[: len(picture.name) - len(picture.suffix)]
    names = [f"{stem}{LABEL}.png", *(f"{folder}/{stem}{ending}" for ending in _LOSSLESS_FIRST)]
    return next((path for name in names if (path := picture.parent / name).is_file()), None)


def masks_among(names: Collection[str]) -> set[str]:
    """Those of some picture files, relative paths with `/`, that are masks of others of them.

    A file that is only named like a mask, with no picture that it could be one of, is a picture.
    """
    pictures = {name.removesuffix(_ending(name)) for name in names}
    masks = set()
    for name in names:
        above, _, base = name.rpartition("/")
        stem = base.removesuffix(_ending(base))
        outer, _, folder = above.rpartition("/")
        if base.endswith(f"{LABEL}.png"):
            of = f"{above}/{stem.removesuffix(LABEL)}" if above else stem.removesuffix(LABEL)
        elif folder == MASKS:
            of = f"{outer}/{stem}" if outer else stem
        else:
            continue
        if of in pictures:
            masks.add(name)
    return masks


def read_mask(path: Path, original: Size) -> np.ndarray:
    """A mask, at its own resolution.

    Args:
        path: the mask file.
        original: size of the picture it belongs to, upright.

    Raises:
        PictureError: it cannot be read (as `images.load_image`), or `another shape`: its aspect
            ratio is not the picture's, so that it is a mask of something else.
    """
    loaded = load_image(path, background=_BLACK)
    # The side that rounding moves by half a pixel at either size.
    wide = abs(loaded.size.w * original.h - loaded.size.h * original.w)
    if wide > max(original):
        raise PictureError(
            path,
            f"another shape ({loaded.size}, its picture {original})",
            "a mask of the whole picture, turned as the picture is shown",
            "Make the mask again from the picture as it is now.",
        )
    return loaded.pixels[..., 0].astype(np.float32) / 255


def read_alpha(path: Path) -> np.ndarray | None:
    """The transparency of a picture as a mask; None where nothing is transparent.

    Raises:
        PictureError: as `images.load_image`.
    """
    # The loader lays colours over a background: over white they are lighter by what is lacking.
    white, black = (load_image(path, background=colour) for colour in (_WHITE, _BLACK))
    lacking = white.pixels[..., 0].astype(np.float32) - black.pixels[..., 0]
    return 1.0 - lacking / 255 if lacking.any() else None


def _ending(name: str) -> str:
    return Path(name).suffix
