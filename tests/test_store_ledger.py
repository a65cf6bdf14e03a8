"""The ledger: what is known, which picture lies where; and starting from an older collection."""

import os
from pathlib import Path
from zlib import crc32

import pytest

from tastemaker.records.size import Size
from tastemaker.store import ledger as module
from tastemaker.store.carry_over import carry_over
from tastemaker.store.catalogue import Catalogue, ColumnKey, Stamp
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.ledger import Inspected, Ledger
from tastemaker.store.source_item import SourceItem

KEY, FIELDS = ColumnKey("scores", 1), {"beauty": "float32"}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "pictures"


def collect(catalogue: Catalogue, folder: Path, source: str = "my folder") -> Ledger:
    """Enter every file of a folder as a picture, without decoding it."""
    ledger = Ledger(catalogue)
    for path in sorted(folder.iterdir()):
        captions = ("words",) if path.suffix == ".captioned" else ()
        item = SourceItem(path.name, path=path, captions=captions)
        known = ledger.is_known(source, item)
        hash_ = hash_bytes(path.read_bytes())
        seen = Inspected(hash_, Size(1, 1), stamp=Stamp.of(path))
        ledger.enter(source, item, str(path), None if known else seen)
    ledger.close({source})
    return ledger


def put(folder: Path, **contents: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, (name, content) in enumerate(contents.items()):
        path = folder / name.replace("_", ".")
        path.write_text(content)
        os.utime(path, ns=(0, crc32(content.encode()) + number))


def test_a_place_has_the_picture_that_lies_there(tmp_path, place):
    put(place, a="one", b="two", c="one")
    ledger = collect(Catalogue(tmp_path / "c"), place)
    one = hash_bytes(b"one")
    assert ledger.picture_id("my folder", "a") == one
    assert ledger.picture_id("my folder", "b") == hash_bytes(b"two")
    assert ledger.picture_id("my folder", "nothing") is None
    assert ledger.picture_id("other", "a") is None
    # The copy is told without its file, too: the row itself says which bytes it had.
    (place / "c").unlink()
    assert ledger.picture_id("my folder", "c") == one
    assert Ledger(Catalogue(tmp_path / "c")).picture_id("my folder", "c") == one


def test_an_unreadable_place_has_none(tmp_path, place):
    put(place, a="one")
    ledger = Ledger(Catalogue(tmp_path / "c"))
    ledger.enter("s", SourceItem("a"), str(place / "a"), Inspected("h", error="zero bytes"))
    assert ledger.picture_id("s", "a") is None


def test_a_copy_is_never_taken_for_what_now_lies_where_its_twin_lay(tmp_path, place):
    put(place, a="one", b="one", c="one")
    catalogue = Catalogue(tmp_path / "c")
    collect(catalogue, place)
    put(place, a="other")
    ledger = collect(catalogue, place)
    copy = next(row for row in catalogue.records() if row.key == "c")
    assert copy.error == "duplicate of my folder a", "noted when a was another picture"
    assert ledger.picture_id("my folder", "c") == hash_bytes(b"one")
    assert ledger.picture_id("my folder", "b") == hash_bytes(b"one")
    (place / "c").unlink()
    assert ledger.picture_id("my folder", "c") is None, "its bytes are gone, so nothing is claimed"


def test_a_picture_that_gave_way_to_a_copy_with_words_is_that_copy(tmp_path, place):
    put(place, a="one", b_captioned="one")
    ledger = collect(Catalogue(tmp_path / "c"), place)
    assert [record.key for record in ledger.usable()] == ["b.captioned"]
    (place / "a").unlink()
    assert ledger.picture_id("my folder", "a") == hash_bytes(b"one")


def test_data_with_a_stamp_is_known(tmp_path):
    ledger = Ledger(Catalogue(tmp_path / "c"))
    item = SourceItem("row 1", data=b"one", stamp=(3, 10))
    assert not ledger.is_known("table", item)
    seen = Inspected(hash_bytes(b"one"), Size(1, 1), stamp=Stamp(3, 10))
    ledger.enter("table", item, "files/one.png", seen)
    ledger.close({"table"})
    again = Ledger(Catalogue(tmp_path / "c"))
    assert not again.is_known("table", item), "the collection has lost its copy"
    copy = tmp_path / "c" / "files" / "one.png"
    copy.parent.mkdir()
    copy.write_bytes(b"on")
    assert not again.is_known("table", item), "half of it"
    copy.write_bytes(b"one")
    assert again.is_known("table", item)
    assert not again.is_known("table", SourceItem("row 1", data=b"one", stamp=(3, 11)))
    assert not again.is_known("table", SourceItem("row 1", data=b"one"))


def test_what_was_not_looked_at_is_gone_and_may_be_told_apart(tmp_path, place):
    put(place, a="one", b="two")
    catalogue = Catalogue(tmp_path / "c")
    collect(catalogue, place, "first")
    (place / "a").unlink()
    ledger = collect(catalogue, place, "second")
    assert ledger.counts == {"gone": 2, "new": 1}
    assert ledger.picture_id("second", "b") == hash_bytes(b"two"), "it took the place of the other"
    errors = {row.key: row.error for row in catalogue.records() if row.source == "first"}
    assert errors == {"a": "gone: first is no source now"}


def test_rows_are_written_as_they_come_and_the_part_is_closed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_ROWS", 4)
    catalogue = Catalogue(tmp_path / "c")
    ledger = Ledger(catalogue)
    for number in range(10):
        seen = Inspected(f"{number:x}" * 64, Size(1, 1))
        ledger.enter("s", SourceItem(str(number)), "", seen)
        assert catalogue.base_table(["id"]).num_rows == (number + 1) // 4 * 4
    ledger.close({"s"})
    assert catalogue.parts() == ["part-00000.parquet"]
    assert [record.key for record in catalogue.records()] == [str(n) for n in range(10)]
    assert catalogue.append_base(list(catalogue.records())[:1]) == ["part-00001.parquet"]


@pytest.fixture
def old(tmp_path, place):
    """A collection with a column and a picture of its own."""
    put(place, a="one", b="two")
    old = Catalogue(tmp_path / "old")
    collect(old, place)
    ids = old.base_table(["id"])["id"].to_pylist()
    old.write_rows(KEY, old.parts()[0], {i: {"beauty": 1.0} for i in ids}, FIELDS)
    old.finish_column(KEY, FIELDS)
    (old.path / "files" / "demo").mkdir(parents=True)
    (old.path / "files" / "demo" / "x.png").write_bytes(b"x")
    (old.path / "files" / ".part-1-y.png").write_bytes(b"half")
    return old


def tree(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_collection_starts_from_an_older_one(tmp_path, place, old):
    (old.path / "files" / ".part-1-y.png").unlink()
    before = tree(old.path)
    new = Catalogue(tmp_path / "new")
    assert carry_over(old.path, new.path)
    assert tree(new.path) == before
    assert (new.path / "files/demo/x.png").samefile(old.path / "files/demo/x.png")
    # What changes in the new one does not change the old one.
    put(place, a="other", c="three")
    ledger = collect(new, place)
    assert ledger.counts == {"changed": 1, "unchanged": 1, "new": 1}
    ids = {row.key: row.id for row in ledger.usable()}
    missing = [i for part in new.parts() for i in new.missing_rows(KEY, part)]
    assert sorted(missing) == sorted([ids["a"], ids["c"]]), "b's value was carried over"
    new.finish_column(KEY, FIELDS)
    assert tree(old.path) == before


def test_a_collection_that_has_something_is_left_alone(tmp_path, place, old):
    other = Catalogue(tmp_path / "new")
    collect(other, place)
    before = tree(other.path)
    assert not carry_over(old.path, other.path)
    assert tree(other.path) == before
    assert not carry_over(tmp_path / "nothing", tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


def test_without_hard_links_it_is_copied(tmp_path, old, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert carry_over(old.path, tmp_path / "new")
    expected = tree(old.path)
    del expected["files/.part-1-y.png"]
    assert tree(tmp_path / "new") == expected
    assert not (tmp_path / "new/files/demo/x.png").samefile(old.path / "files/demo/x.png")


@pytest.mark.parametrize("fatal", range(1, 6))
def test_a_kill_while_starting_is_healed(tmp_path, old, monkeypatch, fatal):
    real, calls = os.link, []

    def link(source, target):
        calls.append(source)
        if len(calls) == fatal:
            raise KeyboardInterrupt
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(KeyboardInterrupt):
            carry_over(old.path, tmp_path / "new")
    assert not (tmp_path / "new" / "catalog").exists()
    assert carry_over(old.path, tmp_path / "new")
    (old.path / "files" / ".part-1-y.png").unlink()
    assert tree(tmp_path / "new") == tree(old.path)
