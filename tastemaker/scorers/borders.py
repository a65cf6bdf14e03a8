"""Letterboxes, pillarboxes and plain margins: uniform lines at the four sides of a picture.

Axes: pixels are uint8 `[H, W, 3]`, RGB; luminance is uint8 `[H, W]`.
"""

from typing import NamedTuple

import numpy as np

TOLERANCE = 8
"""Levels of luminance by which a pixel may differ from its border: what JPEG adds to it (ours)."""

COLOUR_TOLERANCE = 64
"""The same of each channel: JPEG smears colour further than luminance (ours)."""

SMEAR_LINES = 16
"""A block of JPEG with halved colour: so far an edge spoils the border before it."""

SMEAR_MEAN, EDGE = 8, 64
"""A spoiled line differs by less than these levels on average and at most (ours)."""

STEP, STEP_LINES = 24, 4
"""Behind a border so many levels of change must follow within so many lines: a sky or a gradient
has no edge (ours)."""

LEAST_SIDE = 8
"""In pictures with a shorter side every line looks uniform, so none are looked for (ours)."""


class Borders(NamedTuple):
    """Lines at each side that belong to a border, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


class _Picture(NamedTuple):
    """Both views of a picture; lines are rows, the outermost first."""

    pixels: np.ndarray
    grey: np.ndarray

    def turned(self) -> "_Picture":
        return _Picture(self.pixels.swapaxes(0, 1), self.grey.T)

    def part(self, start: int, stop: int) -> "_Picture":
        return _Picture(self.pixels[start:stop], self.grey[start:stop])

    def reversed(self) -> "_Picture":
        return _Picture(self.pixels[::-1], self.grey[::-1])


def find_borders(pixels: np.ndarray, grey: np.ndarray) -> Borders:
    """Find the uniform frame of a picture.

    A border is a run of lines from the side inwards whose pixels all have one colour, but for the
    noise of JPEG, and which ends in an edge. Each side may have its own colour. Rows are looked at
    first, then the columns of what is between them, and the rows once more when only columns were
    found. A picture that would be border and nothing else has none: it is flat.

    Exact in lossless pictures whose content does not begin in the border's own colour.

    Args:
        pixels: uint8 `[H, W, 3]`.
        grey: their luminance, uint8 `[H, W]`.
    """
    none = Borders()
    picture = _Picture(pixels, grey)
    height, width = grey.shape
    if min(height, width) < LEAST_SIDE:
        return none
    top, bottom = _both_ends(picture)
    if top + bottom >= height:
        return none
    left, right = _both_ends(picture.part(top, height - bottom).turned())
    if left + right >= width:
        return none
    if left + right and not top + bottom:
        top, bottom = _both_ends(picture.turned().part(left, width - right).turned())
        if top + bottom >= height:
            return none
    return Borders(top, bottom, left, right)


def _both_ends(picture: _Picture) -> tuple[int, int]:
    first = _depth(picture)
    return first, 0 if first == len(picture.grey) else _depth(picture.reversed())


def _depth(picture: _Picture) -> int:
    """Number of lines of the border that starts with line 0; all of them when it has no end."""
    low, high = int(picture.grey[0].min()), int(picture.grey[0].max())
    if high - low > 2 * TOLERANCE:
        return 0
    level, colour = (low + high) // 2, np.median(picture.pixels[0], axis=0).astype(int)
    depth, lines = 0, 8
    while depth < len(picture.grey):
        piece = picture.part(depth, depth + lines)
        uniform = _within(piece.grey, level, TOLERANCE).all(axis=1)
        for channel, its_level in enumerate(colour):
            # Every fourth pixel: this only tells other colours of the same luminance apart.
            near = _within(piece.pixels[:, ::4, channel], its_level, COLOUR_TOLERANCE)
            uniform &= near.all(axis=1)
        if not uniform.all():
            return _end(picture, depth + int(uniform.argmin()), level)
        depth += len(piece.grey)
        # Most pictures have no border: a few lines tell so. Deep borders are read in large pieces.
        lines = min(2 * lines, 256)
    return depth


def _end(picture: _Picture, depth: int, level: int) -> int:
    """Where the border ends whose first `depth` lines are clean; 0 when it ends in no edge."""
    if depth == 0:
        return 0
    rest = np.abs(picture.grey[depth : depth + SMEAR_LINES + STEP_LINES].astype(np.int16) - level)
    smeared = (rest.mean(axis=1) < SMEAR_MEAN) & (rest.max(axis=1) < EDGE)
    smeared[SMEAR_LINES:] = False
    spoiled = len(rest) if smeared.all() else int(smeared.argmin())
    behind = rest[spoiled : spoiled + STEP_LINES]
    return depth + spoiled if behind.size and behind.max() >= STEP else 0


def _within(values: np.ndarray, level: int, levels: int) -> np.ndarray:
    """Which bytes are within some levels of one, bool, in two passes: too small ones wrap."""
    low = max(level - levels, 0)
    return values - np.uint8(low) <= np.uint8(min(level + levels, 255) - low)
