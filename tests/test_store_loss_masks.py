"""Loss masks from files beside the pictures, from transparency, and from a column of boxes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import InputError, PictureError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.loss_masks import LossMasks, box_masks, file_masks, read_boxes
from tastemaker.store.mask_files import find_mask, masks_among, read_alpha, read_mask
from tastemaker.store.sources import open_source

SIZE = Size(32, 48)
SIZES = ImageSizes(SIZE, 0, 0, SIZE)
FIELDS = {"boxes": "list<float32>", "scores": "list<float32>"}


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def left_half(value: int = 255, size: Size = SIZE) -> np.ndarray:
    """White in the left half, black in the right one."""
    mask = np.zeros(size, np.uint8)
    mask[:, : size.w // 2] = value
    return mask


def catalogue_of(folder: Path, *pictures: Path) -> tuple[Catalogue, dict[str, ImageRecord]]:
    records = [
        ImageRecord(f"{number:064x}", str(path), "folder", path.name, SIZE)
        for number, path in enumerate(pictures)
    ]
    catalogue = Catalogue(folder)
    catalogue.append_base(records)
    return catalogue, {record.id: record for record in records}


def test_names_of_mask_files(tmp_path):
    picture = tmp_path / "a.jpg"
    assert find_mask(picture) is None
    second = save(tmp_path / "masks" / "a.webp", left_half())
    assert find_mask(picture) == second
    first = save(tmp_path / "masks" / "a.png", left_half())
    assert find_mask(picture) == first
    other = save(tmp_path / "other" / "a.png", left_half())
    assert find_mask(picture, "other") == other
    label = save(tmp_path / "a-masklabel.png", left_half())
    assert find_mask(picture) == label
    assert find_mask(Path(f"{tmp_path}/x.tar#tar=0+9")) is None


def test_grey_coloured_and_transparent_masks(tmp_path):
    """The red channel counts; what is transparent is masked."""
    grey = left_half(51)
    red = np.stack([grey, grey[:, ::-1], grey * 0], axis=-1)
    clear = np.stack([np.full_like(grey, 255)] * 3 + [grey], axis=-1)
    expected = grey / np.float32(255)
    for number, pixels in enumerate((grey, red, clear)):
        path = save(tmp_path / f"{number}.png", pixels)
        assert np.array_equal(read_mask(path, SIZE), expected)


def test_a_mask_may_have_another_resolution_but_no_other_shape(tmp_path):
    path = save(tmp_path / "m.png", left_half(size=Size(16, 24)))
    assert read_mask(path, SIZE).shape == (16, 24)
    assert read_mask(path, Size(33, 49)).shape == (16, 24)  # rounded
    for turned in (Size(48, 32), Size(32, 40)):
        with pytest.raises(PictureError, match="another shape"):
            read_mask(path, turned)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(PictureError, match="truncated or damaged"):
        read_mask(path, SIZE)


def test_the_transparency_of_a_picture_is_found_to_the_last_bit(tmp_path):
    alpha = np.arange(32 * 48, dtype=np.uint32).reshape(SIZE).astype(np.uint8)
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    path = save(tmp_path / "a.png", np.concatenate([rgb, alpha[..., None]], axis=2))
    np.testing.assert_array_equal(read_alpha(path), 1 - (255 - alpha.astype(np.float32)) / 255)
    assert read_alpha(save(tmp_path / "b.png", rgb)) is None


def test_masks_of_files(tmp_path):
    pictures = [save(tmp_path / f"{name}.png", np.zeros((*SIZE, 3), np.uint8)) for name in "abc"]
    save(tmp_path / "a-masklabel.png", left_half())
    save(tmp_path / "masks" / "b.png", np.full(SIZE, 255, np.uint8))
    catalogue, records = catalogue_of(tmp_path / "c", *pictures)
    masks = file_masks(catalogue, records, 8)
    a, b, c = records
    expected = np.zeros((4, 6), np.float32)
    expected[:, :3] = 1
    found = masks(a, SIZES)
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert masks(b, SIZES) is None  # all of it counts
    assert masks(c, SIZES) is None
    cropped = masks(a, ImageSizes(SIZE, 0, 0, Size(32, 32)))
    assert cropped is not None
    assert cropped.tolist() == [[1, 1, 1, 0]] * 4
    lighter = file_masks(catalogue, records, 8, least=0.25)(a, SIZES)
    assert lighter is not None
    assert np.array_equal(lighter, np.where(expected > 0, np.float32(1), np.float32(0.25)))


def test_masks_of_transparency(tmp_path):
    rgba = np.concatenate([np.zeros((*SIZE, 3), np.uint8), left_half()[..., None]], axis=2)
    pictures = [save(tmp_path / "a.png", rgba), save(tmp_path / "b.png", rgba[..., :3])]
    catalogue, records = catalogue_of(tmp_path / "c", *pictures)
    masks = file_masks(catalogue, records, 8, alpha=True)
    a, b = records
    found = masks(a, SIZES)
    assert found is not None
    assert found.tolist() == [[1, 1, 1, 0, 0, 0]] * 4
    assert masks(b, SIZES) is None
    with pytest.raises(InputError, match=r"no mask file for any of 2 pictures.*NAME-masklabel"):
        file_masks(catalogue, records, 8)


def test_a_mask_of_nothing_names_its_picture():
    masks = LossMasks(lambda *_: np.zeros((4, 6)), ["ab" * 32])
    with pytest.raises(InputError, match=r"picture abababababab: got no cell that counts"):
        masks("ab" * 32, SIZES)
    lighter = LossMasks(lambda *_: np.zeros((4, 6)), ["ab" * 32], least=0.1)
    assert lighter("ab" * 32, SIZES) is not None
    assert masks("cd" * 32, SIZES) is None


def boxed(folder: Path, values: list[dict], finish: bool = True) -> tuple[Catalogue, list[str]]:
    """A collection whose first pictures have these values."""
    catalogue, records = catalogue_of(folder, *(Path(f"/nowhere/{n}.png") for n in range(3)))
    ids = list(records)
    key = ColumnKey("watermark", 1)
    rows = dict(zip(ids, values, strict=False))
    (part,) = catalogue.parts()
    catalogue.write_rows(key, part, rows, FIELDS)
    if finish:
        catalogue.finish_column(key, FIELDS)
    return catalogue, ids


TWO = {"boxes": [0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 1.0, 0.25], "scores": [0.9, 0.2]}
NONE = {"boxes": [], "scores": []}


def test_masks_of_boxes(tmp_path):
    catalogue, (a, b, c) = boxed(tmp_path, [TWO, NONE, NONE])
    masks = box_masks(catalogue, "watermark", [a, b, c], 8)
    assert masks.ids == {a}
    found = masks(a, SIZES)
    assert found is not None
    assert found.tolist() == [[0] * 6, *[[0, 0, 0, 1, 1, 1]] * 3]
    assert masks(b, SIZES) is None
    surer = box_masks(catalogue, "watermark", [a], 8, least_score=0.5)(a, SIZES)
    assert surer is not None
    assert surer.tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    assert [len(boxes) for boxes in read_boxes(catalogue, "watermark", [c, a]).values()] == [0, 2]


def test_a_column_that_is_not_there_or_not_whole_is_an_error(tmp_path):
    catalogue, ids = boxed(tmp_path / "a", [TWO, {"error": "no"}])
    with pytest.raises(InputError, match=r"2 pictures without values of 'watermark'.*curate again"):
        read_boxes(catalogue, "watermark", ids)
    assert list(read_boxes(catalogue, "watermark", ids[:1])) == ids[:1]
    with pytest.raises(InputError, match=r"no finished column 'other'.*kind: watermark"):
        read_boxes(catalogue, "other", ids)
    catalogue, ids = boxed(tmp_path / "b", [TWO, TWO, TWO], finish=False)
    with pytest.raises(InputError, match="no finished column 'watermark'"):
        read_boxes(catalogue, "watermark", ids)


def test_masks_are_told_from_pictures(tmp_path):
    """A mask is no picture to train on; what is only named like one is."""
    names = {"a.jpg", "a-masklabel.png", "b-masklabel.png", "x/c.webp", "x/masks/c.png"}
    names |= {"x/masks/d.png", "masks/a.png", "masks/masks/e.png", "a-masklabel.jpg"}
    assert masks_among(names) == {"a-masklabel.png", "x/masks/c.png", "masks/a.png"}
    for name in ("a.png", "a-masklabel.png", "masks/a.png", "masks/d.png"):
        save(tmp_path / name, np.zeros((*SIZE, 3), np.uint8))
    source = open_source(str(tmp_path))
    assert [item.key for item in source.items()] == ["a.png", "masks/d.png"]
    assert source.describe()["left out"] == "2 masks"
