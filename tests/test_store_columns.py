"""Columns: values merged by id, carried over when base changes, the same bytes in any order."""

import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.image import ImageRecord
from tastemaker.store import base_table, column_files
from tastemaker.store.base_table import BaseTable
from tastemaker.store.catalogue import Catalogue, ColumnKey, Row
from tastemaker.store.column_files import ColumnFiles
from tastemaker.store.parquet_files import Footers

KEY = ColumnKey("scores", 2, {"model": "x"})
FIELDS = {"beauty": "float32", "words": "list<string>", "vector": "vector<float16>"}
EVERY = {
    "a": "float32", "b": "int32", "c": "int64", "d": "string", "e": "bool", "f": "list<string>",
    "g": "list<float32>", "h": "list<int32>", "i": "vector<float16>", "j": "float64",
}  # fmt: skip


def record(name: str, status="ok") -> ImageRecord:
    return ImageRecord(name, f"/x/{name}.png", "s", name, None, status=status)


def values(number: float) -> dict:
    return {"beauty": number, "words": [f"w{number}"], "vector": np.full(3, number, np.float16)}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(base_table, "PART_ROWS", 3)


@pytest.fixture
def catalogue(tmp_path):
    """Parts (a, b, c) and (d, e); b is unreadable."""
    made = Catalogue(tmp_path / "collection")
    made.append_base([record(name, "error" if name == "b" else "ok") for name in "abcde"])
    return made


def fill(catalogue, rows, fields=None):
    """Write values for the parts that have them."""
    for part in catalogue.parts():
        own = {row.record.id for row in catalogue.rows(part)}
        here = {id_: line for id_, line in rows.items() if id_ in own}
        if here:
            catalogue.write_rows(KEY, part, here, fields or FIELDS)


def missing(catalogue, wanted=None, **options):
    parts = catalogue.parts()
    return [i for p in parts for i in catalogue.missing_rows(KEY, p, wanted, **options)]


def test_every_type_comes_back(catalogue):
    line = {
        "a": np.float32(0.1), "b": -1, "c": 2**40, "d": "\u00e9", "e": np.bool_(True),
        "f": ["x", "y"], "g": np.array([0.5, 1.5]), "h": [1, 2], "i": [0.5, 1, 2], "j": 0.1,
    }  # fmt: skip
    nothing = dict.fromkeys(EVERY)
    fill(catalogue, {"a": line, "c": nothing, "e": {"error": "too dark"}}, EVERY)
    catalogue.finish_column(KEY, EVERY)
    found = catalogue.column(KEY)
    own = {"status": "ok", "error": None, "words_hash": None}
    assert found["a"] == {**line, "a": float(np.float32(0.1)), "g": [0.5, 1.5], **own}
    assert found["c"] == {**nothing, **own}
    assert found["d"] == {**nothing, **own, "status": "missing"}
    assert found["e"] == {**nothing, **own, "status": "error", "error": "too dark"}
    table = catalogue.column_table(KEY, ["i", "a"])
    assert table.schema.types == [pa.list_(pa.float16(), 3), pa.float32()]
    assert len(table) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e39])
def test_a_number_that_is_none_is_an_error(catalogue, bad):
    fill(catalogue, {"a": {**values(1), "beauty": bad}, "c": {**values(1), "vector": [1, 7e4, 2]}})
    catalogue.finish_column(KEY, FIELDS)
    lines = catalogue.column(KEY)
    assert (lines["a"]["status"], lines["a"]["error"]) == ("error", "beauty is not finite")
    assert lines["c"]["error"] == "vector is not finite"


def test_a_broken_text_costs_one_letter(catalogue):
    fill(catalogue, {"a": {**values(1), "words": ["\ud800x", "y"]}, "c": {"error": "\udfff"}})
    catalogue.append_base([ImageRecord("f", "", "s", "f", None, captions=("a\ud83d", "b"))])
    catalogue.finish_column(KEY, FIELDS)
    assert catalogue.column(KEY)["a"]["words"] == ["?x", "y"]
    assert catalogue.column(KEY)["c"]["error"] == "?"
    assert list(catalogue.records())[-1].captions == ("a?", "b")


def test_what_is_missing_is_counted_by_row(catalogue):
    assert missing(catalogue) == ["a", "c", "d", "e"], "b cannot be read"
    assert missing(catalogue, {"c", "b", "x"}) == missing(catalogue, ["c", "b"]) == ["c"]
    fill(catalogue, {"a": values(1), "d": {"error": "no such file"}})
    assert missing(catalogue) == ["c", "e"]
    assert missing(catalogue, errors_too=True) == ["c", "d", "e"]
    fill(catalogue, {"c": values(2), "e": values(3)})
    assert missing(catalogue) == []


def test_values_that_are_arrow_are_merged_alike(catalogue):
    part, vectors = catalogue.parts()[0], pa.array([[1, 2], None], pa.list_(pa.float16(), 2))
    fields = {"beauty": "float32", "vector": "vector<float16>"}
    catalogue.write_rows(KEY, part, {"b": {"beauty": 3, "vector": [0, 0]}}, fields)
    table = pa.table({"beauty": [0.5, 1], "id": ["c", "a"], "vector": vectors})
    catalogue.write_table(KEY, part, table, fields)
    files = {path.name: path.read_bytes() for path in catalogue.column_path(KEY).iterdir()}
    other = Catalogue(catalogue.path.parent / "other")
    other.append_table(catalogue.base_table())
    lines = {
        "a": {"beauty": 1, "vector": None},
        "b": {"beauty": 3, "vector": [0, 0]},
        "c": {"beauty": 0.5, "vector": [1, 2]},
    }
    other.write_rows(KEY, part, lines, fields)
    assert (other.column_path(KEY) / part).read_bytes() == files[part]
    for wrong, message in (
        (table.drop_columns("beauty"), "not id and"),
        (table.set_column(1, "id", pa.array(["a", "d"])), "has no picture d"),
        (table.set_column(0, "beauty", pa.array([1.0, math.nan])), "beauty: a number is not"),
    ):
        with pytest.raises(ValueError, match=message):
            catalogue.write_table(KEY, part, wrong, fields)


def test_a_wrong_row_is_refused_and_nothing_is_written(catalogue):
    part = catalogue.parts()[0]
    for rows, message in (
        ({"d": values(1)}, "has no picture d"),
        ({"a": {"beauty": 1.0}}, "differ in vector, words"),
        ({"a": {**values(1), "more": 1}}, "differ in more"),
        ({"a": values(1), "c": {**values(1), "vector": [1, 2]}}, "vectors of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            catalogue.write_rows(KEY, part, rows, FIELDS)
    for fields in ({"beauty": "float"}, {"status": "string"}):
        with pytest.raises(ValueError, match="a field is one of"):
            catalogue.write_rows(KEY, part, {}, fields)
    assert not catalogue.column_path(KEY).exists()


def test_a_column_shows_when_it_is_finished(catalogue):
    fill(catalogue, {"a": values(1)})
    with pytest.raises(CorruptFile, match="not finished"):
        catalogue.column(KEY)
    with pytest.raises(InputError, match="no finished column"):
        catalogue.column_table(KEY)
    with pytest.raises(InputError, match="scores"):
        catalogue.query("select * from scores")
    catalogue.finish_column(KEY, FIELDS)
    lines = catalogue.query("select id, beauty, words, status from scores").to_pylist()
    assert lines[0] == {"id": "a", "beauty": 1.0, "words": ["w1"], "status": "ok"}
    assert [line["status"] for line in lines] == ["ok", *["missing"] * 4]
    with pytest.raises(InputError, match="got ugliness; expected one of id, beauty, words"):
        catalogue.column_table(KEY, ["ugliness"])


rows_of_values = st.dictionaries(
    st.sampled_from("abcde"),
    st.integers(-3, 3).map(values) | st.builds(lambda n: {"error": f"e{n}"}, st.integers(0, 2)),
)


@settings(max_examples=25)
@given(st.lists(rows_of_values, max_size=4), st.randoms(use_true_random=False))
def test_bytes_depend_on_the_final_rows_only(merges, random):
    final = {id_: line for rows in merges for id_, line in rows.items()}
    with TemporaryDirectory() as folder:
        found = []
        for name, writes in (("merged", merges), ("once", [final])):
            made = Catalogue(Path(folder) / name)
            made.append_base([record(letter) for letter in "abcde"])
            for rows in writes:
                shuffled = random.sample(sorted(rows), len(rows))
                fill(made, {id_: rows[id_] for id_ in shuffled})
            made.finish_column(KEY, FIELDS)
            paths = sorted(made.column_path(KEY).iterdir())
            found.append([(path.name, path.read_bytes()) for path in paths])
            assert [name for name, _ in found[-1]] == [
                "manifest.json", "part-00000.parquet", "part-00001.parquet",
            ]  # fmt: skip
            lines = made.column(KEY)
            assert {i for i, line in lines.items() if line["status"] != "missing"} == set(final)
        assert found[0] == found[1]


def test_values_are_carried_over_when_base_changes(catalogue):
    fill(catalogue, {"a": values(1), "c": values(2), "d": values(4)})
    catalogue.finish_column(KEY, FIELDS)
    before = catalogue.column(KEY)
    catalogue.update_base({"b": Row(record("b")), "c": Row(record("c", "error"))})
    catalogue.append_base([record("f"), record("g")])
    assert catalogue.parts()[1:] == ["part-00001.parquet", "part-00002.parquet"]
    # Nothing was written for the column yet, and still each value is at its picture.
    assert {id_: catalogue.column(KEY)[id_] for id_ in before} == before
    table = catalogue.column_table(KEY, ["id", "beauty", "status"])
    assert table["id"].to_pylist() == list("abcdefg")
    assert table["beauty"].to_pylist() == [1, None, 2, 4, None, None, None]
    assert missing(catalogue) == ["b", "e", "f", "g"]
    queried = catalogue.query('select id, scores_beauty as s from "all" where s > 0 order by id')
    assert queried.to_pylist() == [
        {"id": "a", "s": 1.0}, {"id": "c", "s": 2.0}, {"id": "d", "s": 4.0},
    ]  # fmt: skip
    fill(catalogue, {"b": values(3), "g": values(5)})
    catalogue.finish_column(KEY, FIELDS)
    table = catalogue.column_table(KEY, ["beauty"])
    assert table["beauty"].to_pylist() == [1, 3, 2, 4, None, None, 5]


def test_columns_of_closed_parts_survive_later_pictures(catalogue, monkeypatch):
    catalogue.close_base()
    fill(catalogue, {name: values(1) for name in "acde"})
    catalogue.finish_column(KEY, FIELDS)
    catalogue.append_base([record("f")])
    before = {path: path.stat() for path in catalogue.column_path(KEY).glob("part-*")}
    catalogue.finish_column(KEY, FIELDS)
    assert {path: path.stat() for path in before} == before


def test_only_footers_are_read_to_see_whether_a_column_fits(catalogue, monkeypatch):
    fill(catalogue, {"a": values(1), "d": values(1)})
    base = BaseTable(catalogue.path / "catalog" / "base")
    again = ColumnFiles(catalogue.column_path(KEY), base, Footers())
    monkeypatch.setattr(column_files, "read_parquet", None)
    monkeypatch.setattr(base_table, "read_parquet", None)
    assert [again.fits(part, FIELDS) for part in catalogue.parts()] == [True, True]
    assert not again.fits("part-00000.parquet", {"beauty": "float32"})
    monkeypatch.undo()
    catalogue.update_base({"a": Row(record("a", "error"))})
    monkeypatch.setattr(column_files, "read_parquet", None)
    seen = [again.fits(part, FIELDS) for part in catalogue.parts()]
    assert seen == [False, True], "the same object sees the new file"


def test_a_kill_while_a_column_is_finished_is_healed(catalogue, monkeypatch):
    fill(catalogue, {"a": values(1)})
    with monkeypatch.context() as patch:
        patch.setattr(column_files, "write_json", None)
        with pytest.raises(TypeError):
            catalogue.finish_column(KEY, FIELDS)
    assert "scores_beauty" not in catalogue.query('select * from "all"').column_names
    assert missing(catalogue) == ["c", "d", "e"]
    catalogue.finish_column(KEY, FIELDS)
    assert catalogue.query("select count(beauty) as n from scores").to_pylist() == [{"n": 1}]


def test_a_damaged_file_is_named(catalogue):
    fill(catalogue, {"a": values(1)})
    path = catalogue.column_path(KEY) / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match=r"part-00000\.parquet: not a whole Parquet file"):
        catalogue.missing_rows(KEY, "part-00000.parquet")


@pytest.mark.parametrize("text", ['{"op": "scor', "[]", "{}"])
def test_a_damaged_manifest_is_named(catalogue, text):
    catalogue.finish_column(KEY, FIELDS)
    (catalogue.column_path(KEY) / "manifest.json").write_text(text)
    for read in (lambda: catalogue.query("select 1"), lambda: catalogue.column_table(KEY)):
        with pytest.raises(CorruptFile, match=r"manifest\.json: not a manifest"):
            read()
