"""Latents of other programs: what is read from real files, and what is refused."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import PictureError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.bigasp_latents import BigaspLatent, write_bigasp
from tastemaker.store.foreign_latents import (
    BIGASP_FACTOR,
    centre_cut,
    find_kohya,
    is_bigasp,
    read_bigasp_latent,
    read_kohya,
)
from tastemaker.store.hashing import hash_file
from tastemaker.store.images import reason_of
from tests.kohya_files import arrays, numbers, write_kohya

PICTURE = Size(300, 400)
LATENT = numbers(12, 16)


def refused(path: Path, picture: Size = PICTURE, bucket: Size | None = None) -> str:
    with pytest.raises(PictureError) as caught:
        read_kohya(path, picture, bucket)
    assert str(path) in str(caught.value)
    return reason_of(caught.value)


def test_a_file_round_trips(tmp_path):
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE)
    (found,) = read_kohya(path, PICTURE)
    assert np.array_equal(found.latent, LATENT)
    assert found.latent.dtype == np.float32
    assert found.sizes == ImageSizes(PICTURE, 0, 0, Size(96, 128))
    assert (found.origin, found.factor) == ("kohya:sdxl", 1.0)
    assert found.digest == hash_file(path)


@pytest.mark.parametrize(
    ("model", "origin"), [("sd", "kohya:sd"), ("sdxl", "kohya:sdxl"), ("", "kohya:unknown")]
)
def test_the_name_tells_the_model(tmp_path, model, origin):
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE, model)
    assert find_kohya(tmp_path / "a.png", PICTURE) == path
    assert read_kohya(path, PICTURE)[0].origin == origin


def test_a_latent_of_a_replaced_picture_is_not_found(tmp_path):
    """The name has the picture's size: width, then height."""
    write_kohya(tmp_path / "a.png", LATENT, PICTURE)
    assert find_kohya(tmp_path / "a.png", Size(400, 300)) is None
    assert find_kohya(tmp_path / "b.png", PICTURE) is None
    assert find_kohya(Path(f"{tmp_path}/a.tar#tar=0+9"), PICTURE) is None


def test_flipped_latents_and_alpha_masks_are_left_alone(tmp_path):
    more = {"latents_flipped": -LATENT, "alpha_mask": np.ones((96, 128), np.float32)}
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE, **more)
    (found,) = read_kohya(path, PICTURE)
    assert np.array_equal(found.latent, LATENT)


def test_several_resolutions_in_a_file(tmp_path):
    """`latents_HxW`, height first; the largest comes first, or the one that is asked for."""
    path = tmp_path / "a.npz"
    small, large = numbers(12, 16, 16, 1), numbers(24, 32, 16, 2)
    np.savez(path, **arrays(small, PICTURE, "_12x16"), **arrays(large, PICTURE, "_24x32"))
    found = read_kohya(path, PICTURE)
    assert [one.sizes.target for one in found] == [Size(192, 256), Size(96, 128)]
    assert np.array_equal(found[0].latent, large)
    (found,) = read_kohya(path, PICTURE, Size(96, 128))
    assert np.array_equal(found.latent, small)


def test_V7_a_latent_of_another_resolution_is_never_taken_for_the_bucket(tmp_path):
    """V7: a check that looked for the key alone took a latent of 768 pixels for one of 1024."""
    picture = Size(2000, 2000)
    path = write_kohya(tmp_path / "a.png", numbers(96, 96), picture)
    (found,) = read_kohya(path, picture)
    assert found.sizes.target == Size(768, 768)
    for bucket in (Size(1024, 1024), Size(1152, 896)):
        assert refused(path, picture, bucket) == "of another bucket"
    wrong = tmp_path / "b.npz"
    np.savez(wrong, **arrays(numbers(96, 96), picture, "_128x128"))
    assert refused(wrong, picture) == "not a kohya latent"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_V9_what_is_not_finite_is_refused(tmp_path, bad):
    """V9: NaN was replaced by zeros with one line of print, and grey was trained on."""
    spoiled = LATENT.copy()
    spoiled[2, 5, 7] = bad
    path = write_kohya(tmp_path / "a.png", spoiled, PICTURE)
    assert refused(path) == "no finite values"


def test_a_latent_of_another_picture_is_refused(tmp_path):
    """Also of one that lies on its side: kohya's scripts do not turn it as EXIF says."""
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE)
    for other in (Size(400, 300), Size(301, 400)):
        assert refused(path, other) == "of another picture"


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, allow_pickle=True)
    return file.getvalue()


GOOD = {name: npy(values) for name, values in arrays(LATENT, PICTURE).items()}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"arr_0": npy(LATENT)},
        {"latents": npy(LATENT)},
        {"latents": npy(LATENT), "original_size": GOOD["original_size"]},
        {**GOOD, "latents": npy(LATENT[None])},
        {**GOOD, "latents": npy(LATENT[:, :0])},
        {**GOOD, "latents": npy(LATENT.astype(int))},
        {**GOOD, "latents": npy(LATENT.astype(complex))},
        {**GOOD, "latents": npy(np.zeros((1, 1, 1025), np.float32))},
        {**GOOD, "latents": npy(np.array([{"a": 1}], object))},
        {**GOOD, "latents": npy(LATENT)[:-1]},
        {**GOOD, "latents": npy(LATENT) + b"\0"},
        {**GOOD, "latents": npy(LATENT).replace(b"(4, 12, 16)", b"(4, -12,16)")},
        {**GOOD, "latents": npy(LATENT).replace(b"(4, 12, 16)", b"(9**9,9**9)")},
        {**GOOD, "latents": npy(LATENT).replace(b"(4, 12, 16)", b"(4,9999999)")},
        {**GOOD, "latents": b""},
        {**GOOD, "latents": b"\x93NUMPY\x09\x00"},
        {**GOOD, "original_size": npy(np.array([400.0, 300.0]))},
        {**GOOD, "original_size": npy(np.array([400, 300, 3]))},
        {**GOOD, "crop_ltrb": npy(np.array([0, 0]))},
    ],
    ids=lambda members: "+".join(members) or "none",
)
def test_wrong_members_are_refused(tmp_path, members):
    assert refused(zipped(tmp_path / "a.npz", **members)) == "not a kohya latent"


def test_a_file_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents.npy", bytes(70 << 20))
    assert path.stat().st_size < 1 << 20
    assert refused(path) == "not a kohya latent"


def test_nothing_is_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    bad = zipped(tmp_path / "a.npz", **{**GOOD, "latents": npy(np.array([Harmful()], object))})
    assert refused(bad) == "not a kohya latent"
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("cut", [0, 1, 30, 500, -1, -30])
def test_a_truncated_file_is_refused(tmp_path, cut):
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE)
    path.write_bytes(path.read_bytes()[:cut])
    assert refused(path) == "truncated or damaged"


def test_garbage_folders_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    assert refused(path) == "no such file"
    path.write_bytes(b"hello " * 999)
    assert refused(path) == "truncated or damaged"
    assert refused(tmp_path) == "not readable"


def test_a_flipped_byte_is_found(tmp_path):
    """Among the numbers it would be a number like any other; the archive's checksum tells."""
    path = write_kohya(tmp_path / "a.png", LATENT, PICTURE)
    data = bytearray(path.read_bytes())
    data[data.index(LATENT.tobytes()) + 100] ^= 1
    path.write_bytes(data)
    assert refused(path) == "truncated or damaged"


@given(st.data())
def test_no_damage_is_anything_but_a_picture_error(tmp_path_factory, data):
    path = write_kohya(tmp_path_factory.mktemp("x") / "a.png", numbers(2, 2), PICTURE)
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(PictureError):
        (found,) = read_kohya(path, PICTURE)
        assert np.array_equal(found.latent, numbers(2, 2))  # never other numbers


@pytest.mark.parametrize(
    ("original", "target", "top", "left"),
    [
        (Size(1000, 1000), Size(1024, 1024), 0, 0),
        (Size(1500, 1000), Size(1152, 832), 48, 0),
        (Size(1000, 1500), Size(832, 1152), 0, 48),
        (Size(333, 500), Size(832, 1216), 0, 16),
        (Size(999, 999), Size(64, 128), 32, 0),
    ],
)
def test_kohya_cuts_the_centre(original, target, top, left):
    """Scaled by int(side * scale + 0.5), then half of what is spare, rounded down."""
    assert centre_cut(original, target) == ImageSizes(original, top, left, target)


def test_bigasp_latents_round_trip(tmp_path):
    values = (np.random.default_rng(0).standard_normal((4, 4, 6))).astype(np.float16)
    made = BigaspLatent(2, "ab" * 16, Size(480, 800), 3, 5, Size(4, 6), values)
    path = write_bigasp(tmp_path, made)
    record = ImageRecord(
        hash_file(path), str(path), "bigasp", "x", Size(480, 800), "bigASP latent v2"
    )
    assert is_bigasp(record)
    found = read_bigasp_latent(record, path)
    assert np.array_equal(found.latent, values.astype(np.float32))
    assert found.sizes == ImageSizes(Size(480, 800), 3, 5, Size(32, 48))
    assert (found.origin, found.factor) == ("bigasp-v2", BIGASP_FACTOR)
    write_bigasp(tmp_path, BigaspLatent(2, made.name, Size(480, 801), 3, 5, Size(4, 6), values))
    with pytest.raises(PictureError, match="changed since it was collected"):
        read_bigasp_latent(record, path)
