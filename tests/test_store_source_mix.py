"""A folder with everything in it: each file ends as a row or is counted; content decides."""

import gzip
import io
import json
import os
import socket
import zipfile

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.store.file_kinds import kind_of, picture_ending
from tastemaker.store.images import load_image
from tastemaker.store.sources import open_source
from tests.source_files import by_key, encoded, packed, pick_a_pic, problems, table

RED, BLUE = encoded("red"), encoded("blue", "JPEG")


def put(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", RED)
    return file.getvalue()


def test_pictures_tars_and_tables_are_all_found(tmp_path):
    put(tmp_path / "z.png", RED)
    packed(
        tmp_path / "sub" / "00000.tar", [("a.jpg", BLUE), ("a.txt", b"in a tar"), ("a.npy", b"x")]
    )
    packed(tmp_path / "shard", [("b.jpg", BLUE)])
    table(tmp_path / "rows.parquet", {"image": [RED, BLUE], "text": ["x", "y"]})
    table(tmp_path / "sub" / "00000.parquet", {"url": ["http://x"], "caption": ["of the tar"]})
    row = {"image_0_uid": "u", "image_1_uid": "v", "jpg_0": RED, "jpg_1": BLUE, "label_0": 0.5}
    pick_a_pic(tmp_path / "pairs.parquet", [row | {"label_1": 0.5, "caption": "p"}])
    put(tmp_path / "notes.md", b"# notes")
    put(tmp_path / "lost.txt", b"of no picture")
    source = open_source(str(tmp_path))
    found = by_key(source)
    assert list(found) == [
        "z.png",
        "shard/b.jpg",
        "sub/00000.tar/a.jpg",
        "rows.parquet:0",
        "rows.parquet:1",
        "u",
        "v",
    ]
    assert all(item.problem is None for item in found.values())
    assert all(load_image(item.data or item.path).size == (8, 8) for item in found.values())
    assert [one.label for one in source.preferences()] == [0.5]
    told = source.describe()
    assert told["left out"] == (
        "1 .md, 1 .npy in tars, 1 .parquet without pictures, 1 .txt without a picture"
    )
    assert told["path"] == str(tmp_path)
    assert open_source(str(tmp_path)).describe()["left out"].startswith("1 .md, 1 .parquet")


def test_pictures_are_found_by_content_whatever_they_are_called(tmp_path):
    names = ("IMG_001", "photo.jpg.part1", "x.dat", "wrong.txt", "upper.JPEG")
    for name in names:
        put(tmp_path / name, BLUE)
    put(tmp_path / "IMG_001.txt", b"one")
    put(tmp_path / "x.json", b'{"caption": "two"}')
    put(tmp_path / "html.png", b"<html>")
    put(tmp_path / "empty.gif", b"")
    put(tmp_path / "y.dat", b"\0" * 600)
    put(tmp_path / "empty", b"")
    found = by_key(open_source(str(tmp_path)))
    assert set(found) == {*names, "html.png", "empty.gif"}
    assert found["IMG_001"].captions == ("one",)
    assert found["x.dat"].captions == ("two",)
    assert open_source(str(tmp_path)).describe()["left out"] == "1 .dat, 1 no ending"


@pytest.mark.parametrize(
    ("format_", "ending"),
    [
        ("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp"), ("TIFF", ".tif"),
        ("BMP", ".bmp"), ("AVIF", ".avif"), ("PPM", ".ppm"), ("JPEG2000", ".jp2"), ("ICO", ".ico"),
    ],
)  # fmt: skip
def test_the_first_bytes_of_what_pillow_writes(format_, ending):
    if format_ == "AVIF" and not Image.registered_extensions().get(".avif"):
        pytest.skip("no AVIF in this build of Pillow")
    data = encoded("red", format_, (16, 16))
    assert picture_ending(data[:512]) == ending
    assert kind_of(data[:512], "whatever") == "picture"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"BM", b"BMW is a car, and this is a text about it" * 9, b"P5 is a chord of power",
        b"\0\0\1\0", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x20ftypisom", b"ustar" * 9, b"%PDF-1.7",
        b"\0" * 512, np.zeros(99).tobytes(), json.dumps({"a": 1}).encode(), b"\x7fELF" * 200,
    ],
)  # fmt: skip
def test_what_is_no_picture_is_not_taken_for_one(data):
    assert kind_of(data[:512], "x") == "other"


def test_archives_that_cannot_be_used_are_rows_and_not_passed_over(tmp_path):
    put(tmp_path / "ok.png", RED)
    put(tmp_path / "empty.tar", b"")
    put(tmp_path / "zeros.tar", bytes(10_240))
    put(tmp_path / "page.parquet", b"<html>404</html>")
    put(tmp_path / "a.zip", zipped())
    put(tmp_path / "document.docx", zipped())
    put(tmp_path / "photo.nef", encoded("red", "TIFF"))
    put(tmp_path / "photo.DNG", b"whatever")
    put(tmp_path / "log.gz", gzip.compress(b"x" * 2000))
    source = open_source(str(tmp_path))
    assert problems(source) == {
        "empty.tar": "zero bytes",
        "zeros.tar": "by its content not a tar",
        "page.parquet": "by its content not a Parquet file",
        "a.zip": "a packed archive; unpack it here",
        "photo.nef": "a camera's raw file; develop it to a TIFF or JPEG first",
        "photo.DNG": "a camera's raw file; develop it to a TIFF or JPEG first",
    }
    assert source.describe()["left out"] == "1 .docx, 1 .gz"


def test_files_that_are_no_files_are_rows(tmp_path):
    put(tmp_path / "ok.png", RED)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "out.tar").symlink_to("/etc/hostname")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.webp")[-100:] if len(str(tmp_path)) < 90 else f"\0{os.getpid()}")
    server.close()
    bad = problems(open_source(str(tmp_path)))
    bad.pop("s.webp", None)
    assert bad == {
        "pipe.png": "no regular file",
        "gone.jpg": "a link to nothing",
        "out.tar": "a link that leads outside the folder",
    }


def test_names_that_are_not_utf8_are_rows_that_can_be_written_down(tmp_path):
    put(tmp_path / "ok.png", RED)
    try:
        put(tmp_path / os.fsdecode(b"caf\xe9.png"), RED)
    except OSError:
        pytest.skip("this file system takes no such names")
    found = problems(open_source(str(tmp_path)))
    assert found == {"caf\\udce9.png": "its name is not UTF-8; rename it"}
    assert json.dumps(found).encode("utf-8")


def test_a_folder_that_may_not_be_read_is_a_row(tmp_path, monkeypatch):
    put(tmp_path / "ok.png", RED)
    put(tmp_path / "closed" / "a.png", RED)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert problems(open_source(str(tmp_path))) == {"closed": "not readable (Permission denied)"}


def test_a_key_stands_for_one_picture_even_if_a_file_is_called_like_a_uid(tmp_path):
    put(tmp_path / "u", RED)
    row = {"image_0_uid": "u", "image_1_uid": "v", "jpg_0": BLUE, "jpg_1": RED, "label_0": 1.0}
    pick_a_pic(tmp_path / "x.parquet", [row | {"label_1": 0.0, "caption": "p"}])
    found = by_key(open_source(str(tmp_path)))
    assert list(found) == ["u", "u#2", "v"]
    assert found["u#2"].data == BLUE


def test_texts_may_keep_the_pictures_ending(tmp_path):
    put(tmp_path / "a.jpg", BLUE)
    put(tmp_path / "a.jpg.json", b'{"caption": "second", "artist": "me"}')
    put(tmp_path / "a.txt", b"first")
    (item,) = by_key(open_source(str(tmp_path))).values()
    assert item.captions == ("first", "second")
    assert dict(item.attributes)["artist"] == "me"


def test_a_table_of_texts_cannot_name_an_archive(tmp_path):
    put(tmp_path / "a.png", RED)
    packed(tmp_path / "x.tar", [("b.png", RED)])
    rows = [{"file_name": "x.tar", "text": "no"}, {"file_name": "a.png", "text": ["one", "two"]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = by_key(open_source(str(tmp_path)))
    assert found["metadata.jsonl:1"].problem == "'x.tar' is an archive of pictures"
    assert found["a.png"].captions == ("one", "two")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.png", RED, "a file with one picture; expected a folder, a tar or a Parquet file"),
        ("x.zip", zipped(), "a packed archive; .* Unpack it"),
        ("x.gz", gzip.compress(b"x"), "a gzip file"),
        ("x.tar", b"", "an empty file"),
        ("x.tar", b"no tar", "no tar and no Parquet file"),
        ("x.parquet", b"PAR1 but no more", "truncated or damaged"),
    ],
)
def test_a_file_that_is_no_source_says_what_it_is(tmp_path, name, data, message):
    path = put(tmp_path / name, data)
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_the_fingerprint_opens_nothing(tmp_path, monkeypatch):
    packed(tmp_path / "x.tar", [("b.png", RED)])
    table(tmp_path / "rows.parquet", {"image": [RED]})
    put(tmp_path / "unknown", RED)
    source = open_source(str(tmp_path))
    before = source.fingerprint()
    assert source.count() == 3

    def refuse(*args, **options):
        raise AssertionError("opened")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.open", refuse)
        assert open_source(str(tmp_path)).fingerprint() == before
    os.utime(tmp_path / "x.tar", ns=(1, 1))
    assert open_source(str(tmp_path)).fingerprint() != before


def test_a_second_look_opens_only_what_has_changed(tmp_path, monkeypatch):
    put(tmp_path / "unknown", RED)
    source = open_source(str(tmp_path))
    assert source.count() == 1
    monkeypatch.setattr("pathlib.Path.open", lambda *_: pytest.fail("opened again"))
    assert source.count() == 1
