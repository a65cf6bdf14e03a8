"""What pictures begin from instead of noise alone: flat areas of colour, or pictures.

Axes: pixels are uint8 `[H, W, 3]`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from tastemaker.errors import InputError
from tastemaker.records.size import Size
from tastemaker.store.images import load_image
from tastemaker.store.resize import resize_and_crop

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class LayoutStart:
    """The same flat areas of colour for every picture.

    Args:
        rows: of colours, from the top; each row divides the width evenly among its own.
    """

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._rows = [[ImageColor.getcolor(colour, "RGB") for colour in row] for row in rows]

    def pixels(self, names: Sequence[str], size: Size) -> np.ndarray:
        """uint8 `[H, W, 3]`; the names of the picture do not matter."""
        rows = np.arange(size.h) * len(self._rows) // size.h
        lines = [
            np.asarray(row, np.uint8)[np.arange(size.w) * len(row) // size.w] for row in self._rows
        ]
        return np.stack(lines)[rows]


class FolderStart:
    """A picture of its own for every prompt, from a folder that is named by prompts.

    Args:
        folder: with `ID_00.png` for the first picture of a prompt, or `ID.png` for all of them, as
            a generate step leaves them; JPEG and WebP too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pixels(self, names: Sequence[str], size: Size) -> np.ndarray:
        """uint8 `[H, W, 3]`, scaled to cover the size and cut at the centre.

        Args:
            names: what the file may be called without its ending; the first that is there counts.
            size: of the result.

        Raises:
            InputError: there is none.
            PictureError: it cannot be read.
        """
        return resize_and_crop(load_image(self.file(names)).pixels, size)[0]

    def file(self, names: Sequence[str]) -> Path:
        """Where a picture's start lies.

        Raises:
            InputError: there is none.
        """
        for name in names:
            for ending in _ENDINGS:
                if (found := self.folder / f"{name}{ending}").is_file():
                    return found
        raise InputError(
            self.folder,
            f"no start picture {' or '.join(names)} (with {', '.join(_ENDINGS)})",
            "a picture for every prompt, named by the prompt's id",
            "Add it, or leave its prompt out.",
        )


Start = LayoutStart | FolderStart


def write_layout(path: Path, rows: Sequence[Sequence[str]], size: Size) -> None:
    """The layout as a PNG, beside the pictures that began from it."""
    from tastemaker.store.atomic import atomic_file

    with atomic_file(path) as temporary:
        Image.fromarray(LayoutStart(rows).pixels((), size)).save(temporary, "PNG")
