"""Resize and crop: sizes, positions, and what SDXL is told of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.resize import resize_and_crop


def position_picture(h: int, w: int) -> np.ndarray:
    """Red tells the row, green the column, each 0..255 over the side."""
    rows, columns = np.mgrid[0:h, 0:w]
    return np.stack([rows * 255 / (h - 1), columns * 255 / (w - 1), rows * 0], -1).astype(np.uint8)


def test_a_picture_of_the_right_size_is_untouched():
    pixels = position_picture(48, 64)
    cut, sizes = resize_and_crop(pixels, Size(48, 64))
    np.testing.assert_array_equal(cut, pixels)
    assert sizes == ImageSizes(Size(48, 64), 0, 0, Size(48, 64))


@pytest.mark.parametrize(
    ("at", "left", "greens"), [(0, 0, (0, 127)), (1, 64, (128, 255)), (0.5, 32, (64, 191))]
)
def test_the_crop_lies_where_it_is_asked_for(at, left, greens):
    cut, sizes = resize_and_crop(position_picture(128, 256), Size(64, 64), (0.3, at))
    assert (sizes.crop_top, sizes.crop_left) == (0, left)
    assert np.abs(cut[32, [0, -1], 1].astype(int) - greens).max() <= 3
    assert sizes.time_ids() == (128, 256, 0, left, 64, 64)


def test_height_and_width_are_not_swapped():
    cut, sizes = resize_and_crop(position_picture(200, 100), Size(96, 64), (1.0, 0.0))
    assert cut.shape == (96, 64, 3)
    assert sizes.original == Size(200, 100)
    assert (sizes.crop_top, sizes.crop_left) == (128 - 96, 0)
    assert cut[-1, 0, 0] > 250
    assert cut[0, 0, 0] == pytest.approx(255 * 32 / 128, abs=4)


@given(
    h=st.integers(1, 90), w=st.integers(1, 90), th=st.integers(1, 90), tw=st.integers(1, 90),
    top=st.floats(0, 1), left=st.floats(0, 1),
)  # fmt: skip
def test_the_target_is_always_covered_and_never_more_than_needed(h, w, th, tw, top, left):
    cut, sizes = resize_and_crop(np.zeros((h, w, 3), np.uint8), Size(th, tw), (top, left))
    assert cut.shape == (th, tw, 3)
    assert cut.flags["C_CONTIGUOUS"]
    assert sizes.crop_top >= 0
    assert sizes.crop_left >= 0
    # Only one direction is cropped, up to rounding.
    assert min(sizes.crop_top, sizes.crop_left) <= 1


def test_impossible_wishes_are_refused():
    with pytest.raises(ValueError, match="crop_at"):
        resize_and_crop(np.zeros((8, 8, 3), np.uint8), Size(4, 4), (0.5, 1.5))
    with pytest.raises(ValueError, match="0x4"):
        resize_and_crop(np.zeros((8, 8, 3), np.uint8), Size(0, 4))
