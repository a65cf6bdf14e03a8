"""Pictures in Parquet files: columns found by content, texts, damage; nothing aborts."""

import datetime
import json
import os
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError
from tastemaker.store.images import load_image
from tastemaker.store.parquet_pictures import ParquetPictures
from tastemaker.store.sources import open_source
from tests.source_files import by_key, encoded, packed, problems, spoil, table

RED, BLUE = encoded("red"), encoded("blue", "JPEG")


def test_a_column_of_pictures_is_found_and_the_others_are_texts_and_facts(tmp_path):
    path = table(
        tmp_path / "x.parquet",
        {
            "blob": pa.array([b"\0\1", b"no picture"]),
            "pixels": pa.array([RED, BLUE], pa.large_binary()),
            "TEXT": ["a red square", "a blue square"],
            "captions": pa.array([["second", "third"], None], pa.list_(pa.string())),
            "tags": ["red, square", None],
            "score": [1.5, float("nan")],
            "year": pa.array([1999, None], pa.int32()),
            "when": pa.array([datetime.datetime(2020, 1, 2, 3), None], pa.timestamp("ns")),
            "price": pa.array([Decimal("1.25"), None]),
            "vector": pa.array([[1.0], [2.0]]),
            "good": [True, False],
        },
    )
    source = open_source(str(path))
    first, second = by_key(source).values()
    assert (first.key, second.key) == ("x.parquet:0", "x.parquet:1")
    assert (first.data, second.data) == (RED, BLUE)
    assert (first.suffix, second.suffix) == (".png", ".jpg")
    assert first.stamp == (len(RED), path.stat().st_mtime_ns)
    assert first.captions == ("a red square", "second", "third")
    assert first.tags == ("red", "square")
    facts = dict(first.attributes)
    assert facts.pop("split") in ("tune", "heldout")
    assert facts == {
        "folder": "x.parquet",
        "score": "1.5",
        "year": "1999",
        "when": "2020-01-02T03:00:00",
        "price": "1.25",
        "good": "True",
    }
    assert set(dict(second.attributes)) == {"folder", "split", "good"}
    assert source.describe()["name"] == "x.parquet"
    assert list(source.preferences()) == []


def test_hugging_face_structs_and_list_captions(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": RED, "path": "red.png"},
        {"bytes": None, "path": "/etc/passwd"},
        None,
        {"bytes": b"", "path": None},
    ]
    path = table(
        tmp_path / "train.parquet",
        {"image": pa.array(cells, kind), "text": pa.array([["one", "two"], ["x"], None, []])},
    )
    found = list(by_key(ParquetPictures(path)).values())
    assert found[0].captions == ("one", "two")
    assert dict(found[0].attributes)["file_name"] == "red.png"
    assert [item.data for item in found] == [RED, None, None, b""]
    assert [item.problem for item in found] == [
        None,
        "no picture in column 'image' (only the path '/etc/passwd', which is not followed)",
        "no picture in column 'image'",
        None,
    ]
    assert found[1].path is None


def test_several_columns_of_pictures_are_several_items(tmp_path):
    path = table(
        tmp_path / "x.parquet", {"image": [RED, RED], "mask": [BLUE, None], "text": ["a", "b"]}
    )
    found = by_key(ParquetPictures(path))
    assert {key: item.data for key, item in found.items()} == {
        "x.parquet:0/image": RED,
        "x.parquet:0/mask": BLUE,
        "x.parquet:1/image": RED,
        "x.parquet:1/mask": None,
    }
    assert found["x.parquet:0/mask"].captions == ("a",)


def test_a_named_caption_column(tmp_path):
    path = table(tmp_path / "x.parquet", {"image": [RED], "title": ["mine"], "text": ["other"]})
    (item,) = open_source(str(path), caption_column="title").items()
    assert item.captions == ("mine",)
    assert dict(item.attributes)["text"] == "other"
    with pytest.raises(InputError, match="got columns title, text .* a column 'no'"):
        list(open_source(str(path), caption_column="no").items())


def test_a_table_without_pictures_is_refused_with_its_columns(tmp_path):
    path = table(tmp_path / "x.parquet", {"url": ["http://x"], "blob": [b"text"]})
    with pytest.raises(
        InputError, match=r"columns url \(string\), blob \(binary\), and no picture"
    ):
        open_source(str(path))


def test_the_first_pictures_may_be_missing_or_broken(tmp_path):
    cells = [None] * 40 + [b"broken"] * 3 + [RED]
    found = by_key(ParquetPictures(table(tmp_path / "x", {"image": cells}, row_group_size=7)))
    assert [item.problem for item in found.values()] == ["no picture in column 'image'"] * 40 + [
        None
    ] * 4
    assert list(found.values())[-1].data == RED


def noisy(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [RED + rng.bytes(2000) for _ in range(count)]


@pytest.fixture
def grouped(tmp_path):
    """Five groups of 20 rows, each picture different; the texts are in another column."""
    cells = noisy(100)
    texts = [f"caption {number}" for number in range(100)]
    path = tmp_path / "x.parquet"
    options = {"row_group_size": 20, "use_dictionary": False, "compression": "snappy"}
    return table(path, {"image": cells, "text": texts}, **options), cells


def column_of_group(path, group: int, column: int):
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    return chunk.data_page_offset, chunk.total_compressed_size


def test_a_row_group_that_cannot_be_read_costs_its_rows_only(grouped):
    path, cells = grouped
    start, length = column_of_group(path, 2, 0)
    spoil(path, start, length // 2)
    found = by_key(ParquetPictures(path))
    bad = {key for key, item in found.items() if item.problem}
    assert bad == {f"x.parquet:{row}" for row in range(40, 60)}
    assert all("truncated or damaged (row group 2:" in found[key].problem for key in bad)
    good = [item for item in found.values() if not item.problem]
    assert [item.data for item in good] == cells[:40] + cells[60:]
    assert good[-1].captions == ("caption 99",)


def test_a_file_of_which_nothing_can_be_read_still_has_its_rows(grouped):
    path, _ = grouped
    for group in range(5):
        start, length = column_of_group(path, group, 0)
        spoil(path, start, length)
    assert len(problems(open_source(str(path)))) == 100


def test_checksums_that_the_file_has_are_looked_at(tmp_path):
    path = tmp_path / "x.parquet"
    options = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    table(path, {"image": noisy(3), "text": ["a", "b", "c"]}, row_group_size=1, **options)
    start, length = column_of_group(path, 1, 0)
    spoil(path, start + length - 50, 4)
    bad = problems(ParquetPictures(path))
    assert list(bad) == ["x.parquet:1"]
    assert "checksum" in bad["x.parquet:1"].lower()


@pytest.mark.parametrize("cut", [4, 100, -1, -9, -200])
def test_a_cut_file_is_an_error_alone_and_a_row_in_a_folder(grouped, cut):
    path, _ = grouped
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(InputError, match="truncated or damaged"):
        open_source(str(path))
    packed(path.parent / "a.tar", [("a.png", RED)])
    found = by_key(open_source(str(path.parent)))
    assert found["x.parquet"].problem.startswith("truncated or damaged")
    assert found["a.tar/a.png"].problem is None


@given(st.data())
def test_no_damage_stops_the_reading(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    table(path, {"image": [RED, BLUE] * 4, "text": ["a"] * 8}, row_group_size=3)
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(4, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        list(open_source(str(path)).items())
    except InputError:
        assert open_source(str(path.parent)).count() == 1


def test_bad_cells_cost_themselves_only(tmp_path):
    texts = pa.array([b"na\xefve", b"fine"]).view(pa.string())
    times = pa.array([2**62, 0], pa.timestamp("ms"))
    path = table(tmp_path / "x.parquet", {"image": [RED, RED], "text": texts, "time": times})
    first, second = by_key(ParquetPictures(path)).values()
    assert first.captions == ()
    assert dict(first.attributes)["text_problem"] == "column text, time cannot be read"
    assert second.captions == ("fine",)
    assert "text_problem" not in dict(second.attributes)


def test_rows_are_read_a_few_at_a_time(tmp_path):
    """A whole row group in memory would be 60 MB; pages are the least that can be read."""
    path = tmp_path / "x.parquet"
    cell = RED + bytes(300_000)
    cells = pa.array([cell + bytes([n]) for n in range(200)])
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 4}
    pq.write_table(pa.table({"image": cells}), path, **options)
    del cells
    before = pa.total_allocated_bytes()
    most = 0
    for item in ParquetPictures(path).items():
        assert item.data is not None
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 25_000_000


def test_where_and_the_split(tmp_path):
    path = table(tmp_path / "x.parquet", {"image": [RED] * 30, "kind": ["a", "b", "c"] * 10})
    source = ParquetPictures(path)
    assert list(by_key(source, {"kind": ["b"]})) == [f"x.parquet:{row}" for row in range(1, 30, 3)]
    splits = {dict(item.attributes)["split"] for item in source.items()}
    assert splits == {"tune", "heldout"}
    table(tmp_path / "y.parquet", {"image": [RED], "split": ["mine"]})
    (item,) = ParquetPictures(tmp_path / "y.parquet").items()
    assert dict(item.attributes)["split"] == "mine"


def test_the_fingerprint_follows_the_file(tmp_path):
    path = table(tmp_path / "x.parquet", {"image": [RED]})
    before = ParquetPictures(path).fingerprint()
    assert ParquetPictures(path).fingerprint() == before
    assert ParquetPictures(path, caption_column="x").fingerprint() != before
    os.utime(path, ns=(1, 1))
    assert ParquetPictures(path).fingerprint() != before


def test_what_comes_out_can_be_decoded_and_written_down(tmp_path):
    path = table(tmp_path / "x.parquet", {"image": [encoded("red", "WEBP")], "text": ["a\nb\0c"]})
    (item,) = ParquetPictures(path).items()
    assert load_image(item.data, name=item.key).format == "WEBP"
    assert item.suffix == ".webp"
    assert json.dumps([item.captions, item.attributes])
    assert item.captions == ("a b c",)
