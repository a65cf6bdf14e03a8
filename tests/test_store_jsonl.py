"""Append-only files and hashes."""

import os
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import CorruptFile
from tastemaker.store import jsonl
from tastemaker.store.hashing import hash_bytes, hash_file, hash_folder, hash_json


def test_lines_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "deep" / "x.jsonl"
    rows = [{"a": 1}, {"text": "two\nlines, é \u2028"}, {"none": None}]
    for row in rows:
        jsonl.append(path, row)
    assert list(jsonl.read(path)) == rows
    assert list(jsonl.read(tmp_path / "missing.jsonl")) == []


@given(cut=st.integers(1, 60), long=st.booleans())
def test_a_torn_line_is_dropped_and_never_joins_the_next(tmp_path_factory, cut, long):
    path = tmp_path_factory.mktemp("torn") / "x.jsonl"
    jsonl.append(path, {"n": 1})
    whole = path.stat().st_size
    jsonl.append(path, {"n": 2, "pad": "x" * (9000 if long else 60)})
    os.truncate(path, whole + cut)
    assert list(jsonl.read(path)) == [{"n": 1}]
    jsonl.append(path, {"n": 3})
    assert list(jsonl.read(path)) == [{"n": 1}, {"n": 3}]


def test_a_single_torn_line_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": ')
    assert list(jsonl.read(path)) == []
    jsonl.append(path, {"n": 1})
    assert list(jsonl.read(path)) == [{"n": 1}]


@pytest.mark.parametrize("line", ["not json", "[1, 2]"])
def test_a_whole_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n')
    with pytest.raises(CorruptFile, match=r"x\.jsonl, line 2"):
        list(jsonl.read(path))


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        jsonl.append(tmp_path / "x.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "x.jsonl").exists()


def test_hashes_of_bytes_and_files_agree(tmp_path):
    data = bytes(range(256)) * 9000
    path = tmp_path / "file"
    path.write_bytes(data)
    assert hash_file(path) == hash_bytes(data) == blake2b(data, digest_size=32).hexdigest()


def test_a_json_hash_does_not_depend_on_the_order_of_keys():
    assert hash_json({"a": 1, "b": [2, None]}) == hash_json({"b": [2, None], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 1.5})
    assert hash_json(["ab", "c"]) != hash_json(["a", "bc"])
    with pytest.raises(ValueError, match="JSON"):
        hash_json(float("inf"))


def test_a_folder_hash_sees_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x").write_text("x")
        (folder / "y").write_text("y")
    os.utime(tmp_path / "two" / "y", (1, 1))
    (tmp_path / "two" / ".part-1234-y").write_text("unfinished")
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    (tmp_path / "two" / "y").write_text("z")
    changed = hash_folder(tmp_path / "two")
    assert changed != hash_folder(tmp_path / "one")
    (tmp_path / "two" / "y").rename(tmp_path / "two" / "z")
    assert hash_folder(tmp_path / "two") != changed
