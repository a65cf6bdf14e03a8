"""The catalogue: rows and columns in Parquet, queries in DuckDB, kills that cost one part."""

import errno
import os

import pytest

from tastemaker.errors import CorruptFile, InputError, StorageError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store.catalogue import Catalogue, ColumnKey, Row, Stamp
from tastemaker.store.selections import make_selection, read_selection, write_selection

SCORES = ColumnKey("scores", 2, {"model": "x"})


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
    made.append_base([BROKEN])
    return made


def test_records_come_back_as_they_went_in(catalogue):
    again = Catalogue(catalogue.path)
    assert list(again.records()) == [record("a"), record("b"), BROKEN]
    assert again.parts() == ["part-00000.parquet", "part-00001.parquet"]
    assert [row.stamp for row in again.rows("part-00000.parquet")] == [None, Stamp(12, 34)]
    assert again.append_base([]) is None


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


def test_columns_join_by_id(catalogue):
    assert catalogue.missing_parts(SCORES) == catalogue.parts()
    catalogue.write_column(
        SCORES, {"a": {"beauty": 0.5, "vector": [1.0, 2.0]}, "b": {"beauty": 0.1}}
    )
    assert catalogue.missing_parts(SCORES) == []
    rows = catalogue.query(
        "select id, scores_beauty, scores_status, map_from_entries(attributes)['style'] as style "
        'from "all" order by id desc'
    ).to_pylist()
    assert [row["id"] for row in rows] == ["broken", "b", "a"]
    assert [row["scores_beauty"] for row in rows] == [None, 0.1, 0.5]
    assert [row["scores_status"] for row in rows] == ["missing", "ok", "ok"]
    assert {row["style"] for row in rows} == {"openmoji"}
    assert catalogue.query("select max(beauty) as m from scores").to_pylist() == [{"m": 0.5}]
    assert catalogue.column(SCORES)["a"]["vector"] == [1.0, 2.0]


def test_versions_and_parameters_have_their_own_columns(catalogue):
    older = ColumnKey("scores", 1, {"model": "x"})
    other = ColumnKey("scores", 2, {"model": "y"})
    assert len({SCORES.folder, older.folder, other.folder}) == 3
    catalogue.write_column(SCORES, {"a": {"beauty": 0.5}})
    catalogue.write_column(older, {"a": {"beauty": 9.0}})
    assert catalogue.query("select max(beauty) as m from scores").to_pylist() == [{"m": 0.5}]


def test_a_column_shows_when_it_is_finished(catalogue):
    catalogue.write_column_part(SCORES, "part-00000.parquet", {"a": {"beauty": 1.0}})
    assert catalogue.missing_parts(SCORES) == ["part-00001.parquet"]
    with pytest.raises(CorruptFile, match="1 parts are missing"):
        catalogue.finish_column(SCORES)
    with pytest.raises(InputError, match="scores"):
        catalogue.query("select * from scores")


def test_a_column_of_other_rows_is_stale(catalogue):
    catalogue.write_column(SCORES, {"a": {"beauty": 1.0}})
    catalogue.update_base({"broken": Row(record("broken"))})
    assert catalogue.missing_parts(SCORES) == ["part-00001.parquet"]
    catalogue.append_base([record("c")])
    assert catalogue.missing_parts(SCORES) == ["part-00001.parquet", "part-00002.parquet"]
    assert "scores_beauty" not in catalogue.query('select * from "all"').column_names
    # New words change no pixel: the column stays.
    catalogue.update_base({"a": Row(record("a", captions=("other",)))})
    assert "part-00000.parquet" not in catalogue.missing_parts(SCORES)


@pytest.mark.parametrize(
    "sql", ["select nothing from images", "selec", "", "drop view images", "select 1; select 2"]
)
def test_a_wrong_query_is_an_input_error(catalogue, sql):
    with pytest.raises(InputError, match="query: got"):
        catalogue.query(sql)


def test_a_kill_between_part_and_manifest_loses_nothing(catalogue):
    (catalogue.path / "catalog" / "base" / "manifest.json").unlink()
    (catalogue.path / "catalog" / "base" / ".part-123-part-00002.parquet").write_bytes(b"half")
    assert len(list(catalogue.records())) == 3
    assert catalogue.append_base([record("c")]) == "part-00002.parquet"


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
