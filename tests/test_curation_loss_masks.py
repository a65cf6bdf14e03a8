"""Boxes and masks of a picture on the grid of its latent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.loss_masks import cell_edges, weights_of_boxes, weights_of_mask
from tastemaker.records.size import ImageSizes, Size, covering_size
from tastemaker.store.resize import resize_and_crop

PLAIN = ImageSizes(Size(64, 96), 0, 0, Size(64, 96))
"""Neither scaled nor cropped: 8 x 12 cells of 8 pixels."""

shares = st.floats(-0.2, 1.2)
boxes_of = st.lists(st.tuples(shares, shares, shares, shares), max_size=5).map(
    lambda rows: np.array(
        [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in rows], np.float64
    ).reshape(-1, 4)
)


@st.composite
def crops(draw: st.DrawFn) -> ImageSizes:
    """What might have been done to a picture."""
    original = Size(draw(st.integers(20, 300)), draw(st.integers(20, 300)))
    target = Size(8 * draw(st.integers(1, 9)), 8 * draw(st.integers(1, 9)))
    covering = covering_size(original, target)
    top = draw(st.integers(0, covering.h - target.h))
    return ImageSizes(original, top, draw(st.integers(0, covering.w - target.w)), target)


def painted(boxes: np.ndarray, sizes: ImageSizes, fine: int) -> np.ndarray:
    """Weights anew: points of a fine grid in each pixel of the crop, asked one by one."""
    covering = covering_size(sizes.original, sizes.target)
    steps = (np.arange(fine) + 0.5) / fine
    y = (sizes.crop_top + np.add.outer(np.arange(sizes.target.h), steps).ravel()) / covering.h
    x = (sizes.crop_left + np.add.outer(np.arange(sizes.target.w), steps).ravel()) / covering.w
    kept = np.ones((len(y), len(x)))
    for left, upper, right, lower in boxes:
        kept[np.ix_((y >= upper) & (y < lower), (x >= left) & (x < right))] = 0
    h, w = sizes.target.h // 8, sizes.target.w // 8
    return kept.reshape(h, 8 * fine, w, 8 * fine).mean(axis=(1, 3))


def test_a_box_on_the_grid_masks_exactly_its_cells() -> None:
    box = np.array([[2 / 12, 1 / 8, 5 / 12, 3 / 8]])
    expected = np.ones((8, 12))
    expected[1:3, 2:5] = 0
    assert np.array_equal(weights_of_boxes(box, PLAIN, 8), expected)


def test_a_cell_that_is_covered_in_part_keeps_its_share() -> None:
    """Half of a cell's height, a quarter of its width."""
    box = np.array([[0.0, 0.0, 2 / 96, 4 / 64]])
    weights = weights_of_boxes(box, PLAIN, 8)
    assert weights[0, 0] == pytest.approx(1 - 0.5 * 0.25, rel=1e-12)
    assert (weights.ravel()[1:] == 1).all()


def test_boxes_follow_the_scaling_and_the_crop() -> None:
    """A picture of 200 x 400 in 64 x 64: scaled to 64 x 128, cut 32 from the left."""
    sizes = ImageSizes(Size(200, 400), 0, 32, Size(64, 64))
    box = np.array([[200 / 400, 100 / 200, 250 / 400, 150 / 200]])
    expected = np.ones((8, 8))
    expected[4:6, 4:6] = 0  # 32..48 down; 64..80 - 32 across
    assert np.array_equal(weights_of_boxes(box, sizes, 8), expected)
    outside = np.array([[0.0, 0.0, 32 / 128, 1.0]])
    assert (weights_of_boxes(outside, sizes, 8) == 1).all()


def test_overlapping_boxes_count_once() -> None:
    box = np.array([[0.1, 0.1, 0.6, 0.7]])
    twice = np.concatenate([box, box, [[0.2, 0.2, 0.5, 0.5]]])
    once = weights_of_boxes(box, PLAIN, 8)
    np.testing.assert_allclose(weights_of_boxes(twice, PLAIN, 8), once, rtol=1e-12)


@given(boxes_of, crops())
def test_weights_of_boxes_are_the_kept_share(boxes: np.ndarray, sizes: ImageSizes) -> None:
    fine = 4
    weights = weights_of_boxes(boxes, sizes, 8)
    assert weights.shape == (sizes.target.h // 8, sizes.target.w // 8)
    assert ((weights >= 0) & (weights <= 1)).all()
    # Each of a box's four edges is off by at most a step of the fine grid.
    off = 4 * max(1, len(boxes)) / (8 * fine)
    np.testing.assert_allclose(weights, painted(boxes, sizes, fine), atol=off)


@given(boxes_of, crops())
def test_a_mask_file_and_boxes_agree(boxes: np.ndarray, sizes: ImageSizes) -> None:
    """A box that ends between pixels is rounded to them, then both must give the same."""
    h, w = sizes.original
    pixels = np.clip(np.round(boxes * [w, h, w, h]), 0, [w, h, w, h]).astype(int)
    mask = np.ones((h, w), np.uint8)
    for left, upper, right, lower in pixels:
        mask[upper:lower, left:right] = 0
    np.testing.assert_allclose(
        weights_of_mask(mask, sizes, 8), weights_of_boxes(pixels / [w, h, w, h], sizes, 8),
        atol=1e-9,
    )  # fmt: skip


@given(st.integers(1, 40), st.integers(1, 40), crops())
def test_a_mask_of_one_value_is_that_value_at_any_resolution(h, w, sizes) -> None:
    for value in (0.0, 0.25, 1.0):
        weights = weights_of_mask(np.full((h, w), value), sizes, 8)
        np.testing.assert_allclose(weights, value, rtol=1e-9)
        assert value == 0.25 or (weights == value).all()  # 0 and 1 are exact


@pytest.mark.parametrize("crop_at", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.3)])
@pytest.mark.parametrize("size", [Size(90, 200), Size(200, 90), Size(64, 64), Size(30, 41)])
def test_a_mask_goes_the_way_of_the_picture(size: Size, crop_at: tuple[float, float]) -> None:
    """The real resize of a picture of ramps, averaged over cells, is the mask of the ramps.

    Lanczos keeps a ramp but for the borders, where its filter is cut off.
    """
    ramp = np.add.outer(np.arange(size.h) / size.h, np.arange(size.w) / size.w) / 2
    pixels = np.round(255 * ramp).astype(np.uint8)[..., None].repeat(3, axis=2)
    cut, sizes = resize_and_crop(pixels, Size(64, 72), crop_at)
    means = cut[..., 0].reshape(8, 8, 9, 8).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(weights_of_mask(pixels[..., 0] / 255, sizes, 8), means, atol=6e-3)


def test_the_edges_of_cells_in_the_picture() -> None:
    rows, columns = cell_edges(ImageSizes(Size(200, 400), 0, 32, Size(64, 64)), 32)
    np.testing.assert_allclose(rows, [0, 0.5, 1])
    np.testing.assert_allclose(columns, [0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("sizes", "factor", "match"),
    [
        (PLAIN, 24, "whole number of cells"),
        (ImageSizes(Size(64, 64), 9, 0, Size(64, 64)), 8, "leaves the picture"),
        (ImageSizes(Size(64, 64), -1, 0, Size(64, 64)), 8, "leaves the picture"),
        (ImageSizes(Size(0, 64), 0, 0, Size(64, 64)), 8, "cannot resize"),
    ],
)
def test_impossible_crops_are_refused(sizes: ImageSizes, factor: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cell_edges(sizes, factor)


def test_boxes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        weights_of_boxes(np.array([[0, 0, np.nan, 1]]), PLAIN, 8)
