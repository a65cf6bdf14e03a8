"""Files appear whole or not at all, whatever happens while they are written."""

import errno
import os
from pathlib import Path

import pytest

from tastemaker.errors import StorageError
from tastemaker.store import jsonl
from tastemaker.store.atomic import (
    atomic_file,
    atomic_folder,
    write_bytes,
    write_json,
    write_text,
)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def no_room(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")


def test_files_are_written_whole_and_folders_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "text.txt", "é\n")
    write_json(tmp_path / "a" / "value.json", {"x": [1, "é"]})
    assert (tmp_path / "a" / "b" / "text.txt").read_text(encoding="utf-8") == "é\n"
    assert "é" in (tmp_path / "a" / "value.json").read_text(encoding="utf-8")
    assert left(tmp_path / "a") == ["b", "value.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail():
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["file"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert left(tmp_path) == []


def test_a_full_disk_is_a_storage_error_with_a_remedy(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(
            StorageError, match=r"cannot be written \(No space left.*MiB free.*again"
        ):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_an_append_with_a_storage_error():
    with pytest.raises(StorageError, match="No space left"):
        jsonl.append("/dev/full", {"a": 1})


def test_a_forbidden_place_is_a_storage_error(tmp_path, monkeypatch):
    def forbidden(self, *_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "mkdir", forbidden)
    with pytest.raises(StorageError, match="Permission denied"):
        write_bytes(tmp_path / "a" / "file", b"x")


def test_a_read_error_of_the_caller_stays_what_it_is(tmp_path):
    def read_elsewhere():
        with atomic_file(tmp_path / "file"):
            raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else/x.png")

    with pytest.raises(PermissionError):
        read_elsewhere()


def test_a_folder_replaces_another_as_a_whole(tmp_path):
    target = tmp_path / "model"
    for content in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
        assert left(target / "sub") == [content]
    assert left(tmp_path) == ["model"]


def test_a_failed_folder_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "old").write_text("old")

    def fail():
        with atomic_folder(target) as folder:
            (folder / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageError), atomic_folder(target) as folder:
        (folder / "new").write_text("new")
    assert left(target) == ["old"]
    assert left(tmp_path) == ["model"]
