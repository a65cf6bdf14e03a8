"""bigASP latents: both versions, damage, hostile files, and the texts of their tables."""

import contextlib
import gzip
import struct
import zlib
from hashlib import md5

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.bigasp_latents import (
    MOST_SIDE,
    BigaspLatent,
    peek_bigasp,
    read_bigasp,
    write_bigasp,
)
from tastemaker.store.images import reason_of
from tastemaker.store.sources import open_source
from tests.source_files import by_key, encoded, table

NAME = md5(b"a").hexdigest()


def latent(version=2, name=NAME, h=4, w=6, seed=0) -> BigaspLatent:
    values = np.random.default_rng(seed).normal(size=(4, h, w)).astype(np.float16)
    return BigaspLatent(version, name, Size(480, 800), 3, 5, Size(h, w), values)


def put(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@given(
    st.sampled_from([1, 2]), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory, version, h, w, index, height, width, crop):
    name = str(index) if version == 1 else md5(str(index).encode()).hexdigest()
    values = latent(h=h, w=w, seed=index).latent
    whole = BigaspLatent(version, name, Size(height, width), crop, crop // 2, Size(h, w), values)
    path = write_bigasp(tmp_path_factory.mktemp("latents"), whole)
    read = read_bigasp(path)
    head = peek_bigasp(path)
    for found in (read, head):
        assert (found.version, found.name, found.original) == (version, name, (height, width))
        assert (found.crop_top, found.crop_left, found.latent_size) == (crop, crop // 2, (h, w))
    assert read.latent.dtype == np.float16
    assert np.array_equal(read.latent, values)


def test_the_bytes_are_those_of_the_source(tmp_path):
    """Version 2 by hand: width before height, left before top, then the latent's h and w."""
    values = latent(h=3, w=5).latent
    body = struct.pack("<IIIIII", 800, 480, 5, 3, 3, 5) + values.astype("<f2").tobytes()
    path = put(tmp_path / f"{NAME}.bin.gz", gzip.compress(body))
    read = read_bigasp(path)
    assert (read.version, read.original, read.crop_top, read.crop_left) == (2, Size(480, 800), 3, 5)
    assert np.array_equal(read.latent, values)
    made = write_bigasp(tmp_path, read)
    assert made == tmp_path / NAME[:2] / NAME[2:4] / f"{NAME}.bin.gz"
    assert gzip.decompress(made.read_bytes()) == body
    body = struct.pack("<IIIIIII", 12_007, 800, 480, 5, 3, 3, 5) + values.tobytes()
    first = read_bigasp(put(tmp_path / "12007.bin.gz", gzip.compress(body)))
    assert (first.version, first.name, first.original.h) == (1, "12007", 480)
    made = write_bigasp(tmp_path, first)
    assert made == tmp_path / "007" / "12007.bin.gz"
    assert gzip.decompress(made.read_bytes()) == body


def header(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


GOOD = header(800, 480, 5, 3, 4, 6) + latent().latent.tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a bigASP latent"),
        (b"\x1f\x8b", "truncated or damaged"),
        (gzip.compress(GOOD)[:-1], "truncated or damaged"),
        (gzip.compress(GOOD)[:40], "truncated or damaged"),
        (gzip.compress(GOOD) + b"garbage", "truncated or damaged"),
        (gzip.compress(GOOD)[:-8] + b"\0" * 4 + gzip.compress(GOOD)[-4:], "truncated or damaged"),
        (gzip.compress(GOOD[:-2]), "not a bigASP latent"),
        (gzip.compress(GOOD + b"\0\0"), "not a bigASP latent"),
        (gzip.compress(b"hello"), "not a bigASP latent"),
        (gzip.compress(header(800, 480, 5, 3, 0, 6)), "not a bigASP latent"),
        (gzip.compress(header(0, 480, 5, 3, 4, 6) + GOOD[24:]), "not a bigASP latent"),
        (gzip.compress(header(8, 8, 0, 0, 1, MOST_SIDE + 1) + bytes(8 * MOST_SIDE + 8)), "not a"),
        (gzip.compress(GOOD[:24] + b"\0\x7c" + GOOD[26:]), "no finite values"),
        (gzip.compress(GOOD[:24] + b"\0\x7e" + GOOD[26:]), "no finite values"),
        (gzip.compress(bytes(80 << 20), 9), "too many bytes"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_said_and_nothing_unpacks_without_end(tmp_path, data, reason):
    path = put(tmp_path / f"{NAME}.bin.gz", data)
    with pytest.raises(PictureError) as caught:
        read_bigasp(path)
    assert reason_of(caught.value).startswith(reason)


def test_missing_files_and_wrong_names(tmp_path):
    for read in (read_bigasp, peek_bigasp):
        with pytest.raises(PictureError, match="no such file"):
            read(tmp_path / "no.bin.gz")
    body = header(13, 800, 480, 5, 3, 4, 6) + GOOD[24:]
    path = put(tmp_path / "12.bin.gz", gzip.compress(body))
    for read in (read_bigasp, peek_bigasp):
        with pytest.raises(PictureError, match="it says that its index is 13"):
            read(path)
    with pytest.raises(ValueError, match="no finite latent"):
        write_bigasp(tmp_path, BigaspLatent(2, NAME, Size(8, 8), 0, 0, Size(2, 2), GOOD_NAN))


GOOD_NAN = np.full((4, 2, 2), np.nan, np.float16)


@given(st.data())
def test_no_damage_is_anything_but_a_picture_error(tmp_path_factory, data):
    raw = bytearray(gzip.compress(GOOD))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    path = put(tmp_path_factory.mktemp("x") / f"{NAME}.bin.gz", bytes(raw))
    for read in (peek_bigasp, read_bigasp):
        with contextlib.suppress(PictureError):
            assert read(path).latent_size.h > 0


def test_a_folder_of_latents_and_its_table(tmp_path):
    names = [md5(str(number).encode()).hexdigest() for number in range(3)]
    for number, name in enumerate(names):
        write_bigasp(tmp_path / "vaes", latent(name=name, seed=number))
    table(
        tmp_path / "dataset.parquet",
        {
            "image_hash": [*names[:2], "0" * 32],
            "tag_string": ["a cat,outside,,a cat", None, "nobody"],
            "caption": ["A cat.", None, "Nobody."],
            "score": pa.array([7, 3, 1], pa.int32()),
            "latent_width": [4, 4, 4],
            "latent_height": [6, 6, 6],
            "n_tokens": [3, 0, 1],
        },
    )
    source = open_source(str(tmp_path))
    found = by_key(source)
    assert list(found) == sorted(f"vaes/{name}" for name in names)
    first, second = found[f"vaes/{names[0]}"], found[f"vaes/{names[1]}"]
    assert (first.kind, first.size, first.problem) == ("latent", Size(480, 800), None)
    assert read_bigasp(first.path).name == names[0]
    assert first.captions == ("A cat.",)
    assert first.tags == ("a cat", "outside")
    facts = dict(first.attributes)
    assert facts.pop("folder").startswith("vaes/")
    assert facts.pop("split") in ("tune", "heldout")
    assert facts == {
        "score": "7", "latent_width": "4", "latent_height": "6", "n_tokens": "3",
        "latent": "bigasp v2", "original_h": "480", "original_w": "800",
    }  # fmt: skip
    assert second.captions == second.tags == ()
    assert dict(second.attributes)["score"] == "3"
    assert "score" not in dict(found[f"vaes/{names[2]}"].attributes)
    assert "left out" not in source.describe()
    assert list(by_key(source, {"score": ["7"]})) == [f"vaes/{names[0]}"]


def test_version_1_and_a_table_by_index(tmp_path):
    for index in (7, 1007, 12_345):
        write_bigasp(tmp_path, latent(version=1, name=str(index), seed=index))
    columns = {"index": [7, 12_345], "tag_string": ["seven", "many"], "score": [1, 2]}
    table(tmp_path / "data.parquet", columns)
    found = by_key(open_source(str(tmp_path)))
    assert {key: item.tags for key, item in found.items()} == {
        "7": ("seven",),
        "1007": (),
        "12345": ("many",),
    }
    assert dict(found["7"].attributes)["latent"] == "bigasp v1"


def test_bad_latents_are_rows_and_others_are_found_by_content(tmp_path):
    write_bigasp(tmp_path, latent())
    other = md5(b"other").hexdigest()
    put(tmp_path / f"{other}.bin.gz", gzip.compress(GOOD)[:-20])
    put(tmp_path / "renamed.gz", gzip.compress(GOOD))
    put(tmp_path / "log.gz", gzip.compress(b"hello " * 99))
    put(tmp_path / "again" / f"{NAME}.bin.gz", gzip.compress(GOOD))
    put(tmp_path / f"{NAME}.bin.gz", gzip.compress(GOOD))
    source = open_source(str(tmp_path))
    found = by_key(source)
    bad = {key: item.problem for key, item in found.items() if item.problem}
    assert bad.pop(other).startswith("truncated or damaged")
    ((doubled, problem),) = bad.items()
    assert problem == "a second latent of the same name"
    assert doubled.endswith(f"{NAME}.bin.gz")
    assert set(found) - {other, doubled} == {NAME, "renamed", f"again/{NAME}"}
    assert source.describe()["left out"] == "1 .gz"


def test_tables_of_other_folders_say_nothing(tmp_path):
    write_bigasp(tmp_path / "a", latent())
    columns = {"image_hash": [NAME], "caption": ["wrong"]}
    table(tmp_path / "b" / "x.parquet", columns)
    table(tmp_path / "x.parquet", columns | {"caption": ["far"]})
    table(tmp_path / "a" / "x.parquet", columns | {"caption": ["near"]})
    (item,) = by_key(open_source(str(tmp_path))).values()
    assert item.captions == ("near", "far")


def test_latents_lie_beside_pictures(tmp_path):
    write_bigasp(tmp_path, latent())
    put(tmp_path / "a.png", encoded())
    found = by_key(open_source(str(tmp_path)))
    assert {key: item.kind for key, item in found.items()} == {"a.png": "picture", NAME: "latent"}


def test_the_header_is_read_without_the_numbers(tmp_path):
    """What a damaged tail would spoil does not matter for listing."""
    data = bytearray(gzip.compress(GOOD))
    data[-8:-4] = struct.pack("<I", zlib.crc32(b"wrong"))
    path = put(tmp_path / f"{NAME}.bin.gz", bytes(data))
    assert peek_bigasp(path).latent_size == Size(4, 6)
    with pytest.raises(PictureError, match="truncated or damaged"):
        read_bigasp(path)
