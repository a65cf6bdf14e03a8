"""Loss masks: which part of a latent counts in the loss, from boxes or from a mask of the picture.

bigASP's author (fpgaminer) wished for it: the boxes of the watermark detector as weights of the
loss, 0 inside. A cell's weight is the share of its area that is kept, found exactly. What the
encoder's convolutions carry over a box's border is left out of account, and so is the width of the
resampling filter.

Axes: weights are `[h, w]`, a number a latent cell, 0 masked and 1 kept; boxes are `[N, 4]`: left,
upper, right and lower edge as shares of the original picture's width and height.
"""

import numpy as np
from jaxtyping import Float, Num

from tastemaker.records.size import ImageSizes, covering_size

_ROUNDING = 1e-9
"""Weights so near to 0 or 1 are 0 or 1: a masked cell must have no gradient at all."""


def cell_edges(sizes: ImageSizes, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the latent cells in the original picture, as shares of its height and width.

    Args:
        sizes: what was done to the picture.
        factor: pixels of the target for each latent cell, along one side.

    Returns:
        float64 `[h + 1]` from top to bottom and `[w + 1]` from left to right.

    Raises:
        ValueError: the target is no multiple of the factor, or the crop leaves the picture.
    """
    target, covering = sizes.target, covering_size(sizes.original, sizes.target)
    if target.h % factor or target.w % factor:
        raise ValueError(f"a latent of {target} has no whole number of cells of {factor} pixels")
    rows = (sizes.crop_top + np.arange(0, target.h + 1, factor)) / covering.h
    columns = (sizes.crop_left + np.arange(0, target.w + 1, factor)) / covering.w
    # A pixel of tolerance: another program may have rounded the covering size the other way.
    is_above = rows[-1] > 1 + 1 / covering.h or columns[-1] > 1 + 1 / covering.w
    if min(rows[0], columns[0]) < 0 or is_above:
        raise ValueError(f"the crop of {sizes} leaves the picture")
    return rows, columns


def weights_of_boxes(
    boxes: Num[np.ndarray, "N 4"], sizes: ImageSizes, factor: int
) -> Float[np.ndarray, "h w"]:
    """The share of each latent cell that lies in no box; overlaps count once.

    Args:
        boxes: may leave the picture, and may be empty.
        sizes: what was done to the picture.
        factor: pixels of the target for each latent cell, along one side.

    Raises:
        ValueError: a box is not finite; or as `cell_edges`.
    """
    rows, columns = cell_edges(sizes, factor)
    boxes = np.asarray(boxes, np.float64)
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite")
    # Between two neighbouring edges of boxes everything is covered from end to end, or nothing.
    across, down = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    covered = np.zeros((max(len(down) - 1, 0), max(len(across) - 1, 0)))
    for left, upper, right, lower in boxes:
        inside_rows = (down[:-1] >= upper) & (down[1:] <= lower)
        inside_columns = (across[:-1] >= left) & (across[1:] <= right)
        covered[np.ix_(inside_rows, inside_columns)] = 1.0
    if not covered.any():
        return np.ones((len(rows) - 1, len(columns) - 1))
    masked = _shares(rows, down) @ covered @ _shares(columns, across).T
    return _snapped(1.0 - masked)


def weights_of_mask(
    mask: Num[np.ndarray, "H W"], sizes: ImageSizes, factor: int
) -> Float[np.ndarray, "h w"]:
    """The mean of a mask over each latent cell, weighted by area, at the mask's own resolution.

    Args:
        mask: of the whole original picture, at any resolution; 0 masked, 1 kept.
        sizes: what was done to the picture.
        factor: pixels of the target for each latent cell, along one side.

    Raises:
        ValueError: as `cell_edges`.
    """
    rows, columns = cell_edges(sizes, factor)
    means = _means(np.asarray(mask, np.float64), rows * mask.shape[0])
    return _snapped(_means(means.T, columns * mask.shape[1]).T)


def _snapped(weights: np.ndarray) -> np.ndarray:
    return np.where(weights < _ROUNDING, 0.0, np.where(weights > 1.0 - _ROUNDING, 1.0, weights))


def _shares(cells: np.ndarray, strips: np.ndarray) -> np.ndarray:
    """[cells, strips]: what share of each cell's length lies in each strip; both given by edges."""
    upper = np.maximum(cells[:-1, None], strips[None, :-1])
    lower = np.minimum(cells[1:, None], strips[None, 1:])
    return np.maximum(lower - upper, 0.0) / np.diff(cells)[:, None]


def _means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of rows between edges in rows, with parts of rows at both ends: `[edges - 1, W]`.

    The integral of what is constant in each row is linear between rows, so this is exact.
    """
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    edges = np.clip(edges, 0.0, len(values))
    whole = np.minimum(edges.astype(np.int64), len(values) - 1)
    at_edges = total[whole] + (edges - whole)[:, None] * values[whole]
    return np.diff(at_edges, axis=0) / np.diff(edges)[:, None]
