"""Facts read from a collection: the same as those of its records, columns of every type."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.curation.facts import BUILT_IN, record_values
from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.facts import FilledColumn, attribute_names, known_addresses, read_facts
from tastemaker.store.looks import read_looks, read_vectors

KEY = ColumnKey("every", 1)
FIELDS = {
    "real": "float32", "exact": "float64", "whole": "int32", "large": "int64", "yes": "bool",
    "text": "string", "words": "list<string>", "grid": "list<int32>", "vector": "vector<float16>",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


words = st.text("ab\u00e9", max_size=2)
details = st.fixed_dictionaries(
    {
        "size": st.none() | st.builds(Size, st.integers(1, 9), st.integers(1, 9)),
        "format": words,
        "mode": words,
        "frames": st.integers(1, 3),
        "captions": st.lists(words, max_size=2).map(tuple),
        "tags": st.lists(words, max_size=2).map(tuple),
        "attributes": st.lists(st.tuples(st.sampled_from("xyz"), words), max_size=3).map(tuple),
        "status": st.sampled_from(["ok", "error"]),
        "error": st.none() | words,
    }
)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    if other.dtype.kind == "f":
        return np.array_equal(one, other, equal_nan=True)
    return one.dtype == other.dtype and one.tolist() == other.tolist()


@settings(max_examples=40)
@given(st.lists(details, min_size=1, max_size=9))
def test_facts_are_those_of_the_records(rows):
    records = [
        ImageRecord(id=f"i{n}", path="p", source="s" * (n % 2), key=f"k{n}", **fields)
        for n, fields in enumerate(rows)
    ]
    expected = record_values(records)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_table, "PART_ROWS", 4)
        catalogue = Catalogue(folder)
        catalogue.append_base(records)
        found = read_facts(catalogue, {}, [*expected, "attribute.nowhere"])
        names = [address for address in expected if address.startswith("attribute.")]
        assert [f"attribute.{name}" for name in attribute_names(catalogue)] == names
    assert list(found.ids) == [record.id for record in records]
    assert list(found.names()) == [record.key for record in records]
    assert found.values["attribute.nowhere"].tolist() == [None] * len(records)
    for address, column in expected.items():
        if address == "source":  # no name is no source
            column = np.array([name or None for name in column], object)
        assert same(found.values[address], column), address


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """Pictures a to e in two parts, with a column of every type: c failed, d has nothing."""
    monkeypatch.setattr(base_table, "PART_ROWS", 2)
    made = Catalogue(tmp_path / "c")
    made.append_base([ImageRecord(n, n, "s", n.upper(), Size(2, 3)) for n in "abcde"])
    for part in made.parts():
        rows = {id_: values(id_) for id_ in made.ids(part) if id_ != "d"}
        made.write_rows(KEY, part, rows, FIELDS)
    made.finish_column(KEY, FIELDS)
    return made


def values(name: str) -> dict:
    if name == "c":
        return {"error": "failed"}
    number = ord(name) - ord("a")
    return {
        "real": 0.1 + number, "exact": 0.1 + number, "whole": number, "large": 2**40 + number,
        "yes": number == 1, "text": name, "words": [name, "x"], "grid": [number, 1],
        "vector": [number, 1.0],
    }  # fmt: skip


EVERY = {"every": FilledColumn(KEY, FIELDS)}


def test_columns_of_every_type(catalogue):
    addresses = [f"every.{name}" for name in FIELDS if name not in ("grid", "vector")]
    found = read_facts(catalogue, EVERY, addresses)
    nan = np.nan
    real = np.array([0.1, 1.1, nan, nan, 4.1], np.float32)
    assert same(found.values["every.real"], real)
    assert found.values["every.real"].dtype == np.float32, "0.7 in a rule is 0.7 in the column"
    assert same(found.values["every.exact"], np.array([0.1, 1.1, nan, nan, 4.1]))
    assert same(found.values["every.whole"], np.array([0.0, 1, nan, nan, 4]))
    assert same(found.values["every.large"], 2.0**40 + np.array([0.0, 1, nan, nan, 4]))
    assert found.values["every.yes"].tolist() == [False, True, False, False, False]
    assert found.values["every.yes"].dtype == bool
    assert found.values["every.text"].tolist() == ["a", "b", None, None, "e"]
    words = [("a", "x"), ("b", "x"), None, None, ("e", "x")]
    assert found.values["every.words"].tolist() == words
    kinds = [found.kinds[address] for address in addresses]
    assert kinds == ["number"] * 4 + ["flag", "text", "list"]


def test_what_is_not_there_is_unknown(catalogue):
    found = read_facts(catalogue, {}, ["other.field", "every.real"])
    assert np.isnan(found.values["other.field"]).all()
    assert np.isnan(found.values["every.real"]).all()
    empty = read_facts(Catalogue(catalogue.path / "nothing"), {}, ["h", "tags", "attribute.x"])
    assert empty.count == 0
    assert {column.shape for column in empty.values.values()} == {(0,)}


def test_flags_and_sql(catalogue):
    addresses = ["chosen:few", "sql:every.whole > 0 and w = 3", "h"]
    found = read_facts(catalogue, EVERY, addresses, {"chosen:few": {"b", "e", "nobody"}})
    assert found.values["chosen:few"].tolist() == [False, True, False, False, True]
    assert found.values[addresses[1]].tolist() == [False, True, False, False, True]
    with pytest.raises(InputError, match="whoel"):
        read_facts(catalogue, EVERY, ["sql:every.whoel > 0"])


def test_only_what_is_asked_for_is_read(catalogue, monkeypatch):
    asked = []
    real = Catalogue.base_table
    monkeypatch.setattr(
        Catalogue, "base_table", lambda self, names: asked.append(names) or real(self, names)
    )
    found = read_facts(catalogue, EVERY, ["every.real", "aspect", "short_side"])
    assert asked == [["id", "key", "h", "w"]]
    assert set(found.values) == {"every.real", "aspect", "short_side"}


def test_what_rules_can_ask_for(catalogue):
    known = known_addresses(catalogue, {"every": FIELDS})
    assert {a: k for a, k in known.items() if a.startswith("every")} == {
        "every.real": "number", "every.exact": "number", "every.whole": "number",
        "every.large": "number", "every.yes": "flag", "every.text": "text", "every.words": "list",
        # Of a vector, the group that it is in.
        **{f"every.cluster_of_{n}": "number" for n in (8, 16, 32, 64, 128, 256)},
    }  # fmt: skip
    assert known_addresses(None, {}) == BUILT_IN


def test_looks_and_vectors_of_those_that_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr(base_table, "PART_ROWS", 2)
    made = Catalogue(tmp_path / "c")
    made.append_base([ImageRecord(n, n, "s", n, Size(2, 3)) for n in "abc"])
    fields = {"phash": "string", "phash_mirror": "string", "colours": "list<int32>"}
    both = fields | {"vector": "vector<float16>"}
    hashes = {"a": "8000000000000001", "c": "00000000000000ff"}
    for part in made.parts():
        rows = {
            id_: {
                "phash": hashes[id_],
                "phash_mirror": hashes[id_][::-1],
                "colours": list(range(192)),
                "vector": [3.0, 4.0],
            }
            if id_ in hashes
            else {"error": "too dark"}
            for id_ in made.ids(part)
        }
        made.write_rows(KEY, part, rows, both)
    made.finish_column(KEY, both)
    looks = read_looks(made, KEY)
    assert looks.rows.tolist() == [0, 2]
    assert looks.hashes.tolist() == [0x8000000000000001, 0xFF]
    assert looks.mirrored.tolist() == [0x1000000000000008, 0xFF << 56]
    assert looks.colours.dtype == np.uint8
    assert looks.colours[1].tolist() == np.arange(192).reshape(8, 8, 3).tolist()
    vectors = read_vectors(made, KEY)
    assert vectors.rows.tolist() == [0, 2]
    assert vectors.values.dtype == np.float32
    assert vectors.values[0] == pytest.approx([0.6, 0.8])
    plain = ColumnKey("plain", 1)
    made.finish_column(plain, {"x": "float32"})
    with pytest.raises(InputError, match="phash"):
        read_looks(made, plain)


def test_nobody_has_looks_or_vectors(tmp_path):
    made = Catalogue(Path(tmp_path) / "c")
    made.append_base([ImageRecord("a", "a", "s", "a", Size(2, 3))])
    fields = {
        "phash": "string", "phash_mirror": "string", "colours": "list<int32>",
        "vector": "vector<float16>",
    }  # fmt: skip
    made.finish_column(KEY, fields)
    looks, vectors = read_looks(made, KEY), read_vectors(made, KEY)
    assert looks.rows.shape == looks.hashes.shape == (0,)
    assert looks.colours.shape == (0, 8, 8, 3)
    assert vectors.rows.shape == (0,)
    assert len(vectors.values) == 0
