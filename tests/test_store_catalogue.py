"""The catalogue: rows in Parquet, parts that grow until they are closed, kills, damage."""

import errno
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import CorruptFile, InputError, StorageError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue, Row, Stamp
from tastemaker.store.catalogue_rows import records_of, rows_of, table_of
from tastemaker.store.selections import make_selection, read_selection, write_selection


def record(name: str, **fields) -> ImageRecord:
    given = {
        "size": Size(30, 40),
        "format": "PNG",
        "mode": "P",
        "frames": 2,
        "captions": (f"picture {name}", "é\n"),
        "tags": ("t",),
        "attributes": (("style", "openmoji"), ("split", "tune")),
    }
    return ImageRecord(
        id=name, path=f"files/{name}.png", source="s", key=name, **{**given, **fields}
    )


BROKEN = record("broken", size=None, captions=(), status="error", error="zero bytes")


@pytest.fixture
def catalogue(tmp_path):
    made = Catalogue(tmp_path / "a=b [1]*'s" / "collection")
    made.append_base([record("a"), Row(record("b"), Stamp(12, 34))])
    made.close_base()
    made.append_base([BROKEN])
    return made


def test_records_come_back_as_they_went_in(catalogue):
    again = Catalogue(catalogue.path)
    assert list(again.records()) == [record("a"), record("b"), BROKEN]
    assert again.parts() == ["part-00000.parquet", "part-00001.parquet"]
    assert [row.stamp for row in again.rows("part-00000.parquet")] == [None, Stamp(12, 34)]
    assert again.append_base([]) == []


def test_an_empty_place_is_no_collection(tmp_path):
    with pytest.raises(InputError, match="nothing there; expected a collection"):
        list(Catalogue(tmp_path / "x").records())
    assert Catalogue(tmp_path / "x").query("select count(*) as n from images").to_pylist() == [
        {"n": 0}
    ]
    assert not (tmp_path / "x").exists()


def test_rows_are_replaced_in_place(catalogue):
    changed = record("b", captions=("new",))
    catalogue.update_base({"b": Row(changed)})
    assert list(catalogue.records()) == [record("a"), changed, BROKEN]


def files_of(catalogue) -> dict[str, bytes]:
    folder = catalogue.path / "catalog"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


words = st.text("ab\u00e9\u4e2d\n", max_size=3)
texts = st.lists(words, max_size=3).map(tuple)
details = st.fixed_dictionaries(
    {
        "size": st.none() | st.builds(Size, st.integers(1, 9), st.integers(1, 9)),
        "mode": words,
        "captions": texts,
        "tags": texts,
        "attributes": st.lists(st.tuples(words, words), max_size=2).map(tuple),
    }
)


@st.composite
def many_rows(draw):
    found = []
    for number, fields in enumerate(draw(st.lists(details, min_size=1, max_size=14))):
        error = draw(st.none() | words)
        status = "ok" if error is None else "error"
        stamp = draw(st.none() | st.builds(Stamp, st.integers(0, 9), st.integers(0, 9)))
        found.append(Row(record(f"{number:02d}", status=status, error=error, **fields), stamp))
    return found


@given(many_rows(), st.data())
def test_rows_pass_through_arrow_unchanged(rows, data):
    table = table_of(rows)
    start = data.draw(st.integers(0, len(rows)))
    assert rows_of(table.slice(start)) == rows[start:]
    assert records_of(table.slice(0, start)) == [row.record for row in rows[:start]]


@settings(max_examples=25)
@given(many_rows(), st.data())
def test_the_bytes_do_not_depend_on_the_pieces_or_on_kills(rows, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_table, "PART_ROWS", 4)
        patch.setattr(os, "fsync", lambda _descriptor: None)
        whole, pieces = Catalogue(Path(folder) / "whole"), Catalogue(Path(folder) / "pieces")
        whole.append_base(rows)
        while rest := rows[pieces.base_table(["id"]).num_rows :]:
            given = rest[: data.draw(st.integers(1, 6))]
            with pytest.MonkeyPatch.context() as kill:
                writes = data.draw(st.integers(0, 3))
                if writes:
                    die_at_write(kill, writes)
                try:
                    pieces.append_base(given)
                except KeyboardInterrupt:
                    pieces = Catalogue(pieces.path)
        for catalogue in (whole, pieces):
            catalogue.close_base()
        assert files_of(whole) == files_of(pieces)
        parts = json.loads(files_of(whole)["base/manifest.json"])["parts"]
        assert [part["rows"] for part in parts[:-1]] == [4] * (len(parts) - 1)
        assert [part["open"] for part in parts] == [False] * len(parts)
        assert whole.append_base([record("z")]) == [f"part-{len(parts):05d}.parquet"]


def die_at_write(patch, number: int) -> None:
    """Kill the process instead of its n-th rename."""
    real, left = Path.replace, [number]

    def replace(self, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self, target)

    patch.setattr(Path, "replace", replace)


def test_what_was_closed_is_never_written_again(catalogue):
    base = catalogue.path / "catalog" / "base"
    closed = (base / "part-00000.parquet").stat()
    assert catalogue.append_base([record("c")]) == ["part-00001.parquet"]
    assert catalogue.append_base([record("d")]) == ["part-00001.parquet"]
    catalogue.close_base()
    manifest = (base / "manifest.json").stat()
    Catalogue(catalogue.path).close_base()
    assert (base / "manifest.json").stat() == manifest, "nothing new: nothing written"
    assert Catalogue(catalogue.path).append_base([record("e")]) == ["part-00002.parquet"]
    assert (base / "part-00000.parquet").stat() == closed
    assert [row.id for row in catalogue.records()] == ["a", "b", "broken", "c", "d", "e"]


def test_only_parts_with_changed_rows_are_written(catalogue):
    changed = {"broken": Row(record("broken"), Stamp(1, 2)), "nobody": Row(record("nobody"))}
    assert catalogue.update_base(changed) == ["part-00001.parquet"]
    assert catalogue.rows("part-00001.parquet") == [Row(record("broken"), Stamp(1, 2))]
    assert catalogue.update_base({}) == catalogue.update_base({"x": Row(record("x"))}) == []
    # What was closed before stays so; what was open, too.
    assert catalogue.append_base([record("c")]) == ["part-00001.parquet"]


def test_the_base_table_is_arrow_in_the_order_of_the_records(catalogue):
    table = catalogue.base_table(["id", "h"])
    assert table.to_pydict() == {"id": ["a", "b", "broken"], "h": [30, 30, None]}
    assert records_of(catalogue.base_table()) == list(catalogue.records())
    with pytest.raises(InputError, match="base table: got height"):
        catalogue.base_table(["height"])
    other = Catalogue(catalogue.path.parent / "other")
    assert other.base_table(["id"]).num_rows == 0
    assert other.append_table(catalogue.base_table()) == ["part-00000.parquet"]
    assert list(other.records()) == list(catalogue.records())


def test_a_catalogue_of_the_first_format_is_read_and_goes_on(catalogue):
    base = catalogue.path / "catalog" / "base"
    for part in catalogue.parts():
        table = pq.ParquetFile(base / part).read().replace_schema_metadata(None)
        pq.write_table(table, base / part)
    old = [{"file": "part-00000.parquet", "rows": 2}, {"file": "part-00001.parquet", "rows": 1}]
    (base / "manifest.json").write_text(json.dumps({"format": 1, "parts": old}))
    again = Catalogue(catalogue.path)
    assert [row.id for row in again.records()] == ["a", "b", "broken"]
    assert again.append_base([record("c")]) == ["part-00002.parquet"]


def test_a_kill_between_part_and_manifest_loses_nothing(catalogue):
    (catalogue.path / "catalog" / "base" / "manifest.json").unlink()
    (catalogue.path / "catalog" / "base" / ".part-123-part-00002.parquet").write_bytes(b"half")
    assert len(list(catalogue.records())) == 3
    assert catalogue.append_base([record("c")]) == ["part-00001.parquet"]
    assert [row.id for row in catalogue.records()] == ["a", "b", "broken", "c"]


def test_a_full_disk_leaves_the_catalogue_as_it_was(catalogue, monkeypatch):
    def no_room(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = list(catalogue.records())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(StorageError, match="No space left"):
            catalogue.append_base([record("c")])
        with pytest.raises(StorageError):
            catalogue.update_base({"a": Row(record("a", tags=()))})
    assert list(catalogue.records()) == before
    assert len(list((catalogue.path / "catalog" / "base").iterdir())) == 3


def test_damaged_and_lost_parts_are_named(catalogue):
    part = catalogue.path / "catalog" / "base" / "part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    with pytest.raises(CorruptFile, match=r"part-00001\.parquet: not a whole Parquet file"):
        list(catalogue.records())
    part.unlink()
    with pytest.raises(CorruptFile, match=r"part-00001\.parquet: gone"):
        catalogue.parts()


def test_paths_stay_in_the_collection_or_are_absolute(catalogue, tmp_path):
    assert catalogue.picture_path(record("a")) == catalogue.path / "files" / "a.png"
    outside = str(tmp_path / "x.png")
    assert (
        str(catalogue.picture_path(record("a").__class__("i", outside, "s", "k", None))) == outside
    )
    with pytest.raises(CorruptFile, match="leads out"):
        catalogue.picture_path(ImageRecord("i", "../../x.png", "s", "k", None))


def test_selections_are_sorted_hashed_and_checked(tmp_path):
    selection = make_selection("mine", ["b", "a"], "style is openmoji")
    assert selection.ids == ("a", "b")
    path = tmp_path / "selection.json"
    write_selection(path, selection)
    assert read_selection(path) == read_selection(tmp_path) == selection
    assert make_selection("mine", ["a"], "style is openmoji").hash != selection.hash
    path.write_text(path.read_text().replace('"b"', '"c"'))
    with pytest.raises(CorruptFile, match="it was changed"):
        read_selection(path)
    path.write_text('{"ids": 3}')
    with pytest.raises(CorruptFile, match="not a selection"):
        read_selection(path)
    with pytest.raises(InputError, match="no such file"):
        read_selection(tmp_path / "other.json")
