"""Pick-a-Pic: each picture once, each row a preference, ties kept, nothing aborts."""

import json

import pyarrow.parquet as pq
import pytest

from tastemaker.errors import InputError
from tastemaker.store.pick_a_pic import PickAPic
from tastemaker.store.sources import open_source
from tests.source_files import by_key, encoded, pick_a_pic, problems, spoil, table

A, B, C = (encoded(colour, "JPEG") for colour in ("red", "green", "blue"))


def row(ranking, first, second, label, **more) -> dict:
    """A comparison of two pictures, named by letters."""
    data = {"a": A, "b": B, "c": C}
    sides = {"image_0_uid": first, "image_1_uid": second}
    sides |= {"jpg_0": data.get(first), "jpg_1": data.get(second)}
    return {
        "ranking_id": ranking, "label_0": label, "label_1": 1 - label, "caption": "a cat",
        "best_image_uid": first if label == 1 else second if label == 0 else "tie",
    } | sides | more  # fmt: skip


@pytest.fixture
def pairs(tmp_path):
    rows = [
        row(1, "a", "b", 1.0),
        row(2, "b", "c", 0.5, model_0="sdxl", are_different=False),
        row(3, "c", "a", 0.0, image_0_url="https://x/c.jpg"),
        row(4, "a", "b", 0.0, has_label=False),
    ]
    return pick_a_pic(tmp_path / "train-00000-of-00001.parquet", rows)


def test_each_picture_is_one_item(pairs):
    source = open_source(str(pairs))
    assert isinstance(source, PickAPic)
    found = by_key(source)
    assert {key: item.data for key, item in found.items()} == {"a": A, "b": B, "c": C}
    assert {item.captions for item in found.values()} == {("a cat",)}
    assert found["a"].suffix == ".jpg"
    assert found["a"].stamp == (len(A), pairs.stat().st_mtime_ns)
    models = {key: dict(item.attributes)["model"] for key, item in found.items()}
    assert models == {"a": "dreamlike", "b": "sdxl", "c": "sdxl"}
    assert dict(found["a"].attributes)["split"] == "train"
    assert dict(found["a"].attributes)["folder"] == "train-00000-of-00001.parquet"


def test_each_row_is_a_preference_and_ties_stay(pairs):
    found = list(open_source(str(pairs)).preferences())
    assert [(one.key, one.first, one.second, one.label) for one in found] == [
        ("1", "a", "b", 1.0),
        ("2", "b", "c", 0.5),
        ("3", "c", "a", 0.0),
        ("4", "a", "b", None),
    ]
    assert {one.prompt for one in found} == {"a cat"}
    facts = dict(found[2].facts)
    assert facts == {
        "are_different": "True",
        "best_image_uid": "a",
        "created_at": "2023-03-05T07:06:40.123456",
        "has_label": "True",
        "image_0_uid": "c",
        "image_0_url": "https://x/c.jpg",
        "image_1_uid": "a",
        "label_0": "0.0",
        "label_1": "1.0",
        "model_0": "dreamlike",
        "model_1": "sdxl",
        "ranking_id": "3",
        "user_id": "7",
        "num_example_per_prompt": "2",
        "split": "train",
    }
    assert dict(found[1].facts)["are_different"] == "False"
    assert "label_problem" not in dict(found[3].facts)


@pytest.mark.parametrize(
    ("first", "second"),
    [(1.0, 1.0), (0.7, 0.3), (0.0, 0.0), (None, 1.0), (float("nan"), 0.5), (2.0, -1.0)],
)
def test_labels_that_make_no_sense_are_no_label(tmp_path, first, second):
    rows = [row(1, "a", "b", 1.0) | {"label_0": first, "label_1": second}]
    (one,) = PickAPic({"x": pick_a_pic(tmp_path / "x", rows)}).preferences()
    assert one.label is None
    assert dict(one.facts)["label_problem"] == f"label_0 {first}, label_1 {second}"


def test_the_pictures_are_not_read_for_preferences_nor_for_counting(pairs):
    for column in ("jpg_0", "jpg_1"):
        spoil_column(pairs, column)
    source = open_source(str(pairs))
    assert len(list(source.preferences())) == 4
    assert source.count() == 3


def spoil_column(path, name: str, group: int = 0) -> None:
    meta = pq.ParquetFile(path).metadata.row_group(group)
    place = next(i for i in range(meta.num_columns) if meta.column(i).path_in_schema == name)
    chunk = meta.column(place)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    spoil(path, start, chunk.total_compressed_size)


def test_a_picture_that_cannot_be_read_here_may_be_elsewhere(tmp_path):
    rows = [row(1, "a", "b", 1.0), row(2, "b", "c", 1.0), row(3, "a", "c", 0.0)]
    path = pick_a_pic(tmp_path / "x.parquet", rows, row_group_size=1)
    spoil_column(path, "jpg_1", group=1)
    found = by_key(PickAPic({"x.parquet": path}))
    assert {key: item.data for key, item in found.items()} == {"a": A, "b": B, "c": C}
    spoil_column(path, "jpg_1", group=2)
    bad = problems(PickAPic({"x.parquet": path}))
    assert list(bad) == ["c"]
    assert bad["c"].startswith("truncated or damaged")


def test_rows_without_names_or_pictures(tmp_path):
    rows = [row(None, "a", None, 1.0) | {"jpg_1": B}, row(2, "b", "d", 1.0)]
    source = PickAPic({"x": pick_a_pic(tmp_path / "x", rows)})
    found = by_key(source)
    assert {key: item.data for key, item in found.items()} == {
        "a": A,
        "x:0/1": B,
        "b": B,
        "d": None,
    }
    assert found["d"].problem == "no picture in column jpg_1"
    first, second = source.preferences()
    assert (first.key, first.second) == ("x:0", "x:0/1")
    assert (second.key, second.second) == ("2", "d")
    assert {dict(item.attributes)["split"] for item in found.values()} <= {"tune", "heldout"}


def test_pictures_of_a_prompt_stay_in_one_split(tmp_path):
    rows = [
        row(i, f"{i}x", f"{i}y", 1.0, caption=f"prompt {i}", jpg_0=A, jpg_1=B) for i in range(60)
    ]
    found = by_key(PickAPic({"x": pick_a_pic(tmp_path / "x", rows)}))
    by_prompt = {}
    for item in found.values():
        by_prompt.setdefault(item.captions, set()).add(dict(item.attributes)["split"])
    assert all(len(splits) == 1 for splits in by_prompt.values())
    assert set.union(*by_prompt.values()) == {"tune", "heldout"}


def test_files_of_a_folder_share_their_pictures(tmp_path, pairs):
    rows = [row(9, "c", "d", 1.0) | {"jpg_1": A}]
    pick_a_pic(tmp_path / "data" / "test_unique-00000-of-00001.parquet", rows)
    source = open_source(str(tmp_path))
    found = by_key(source)
    splits = {key: dict(item.attributes)["split"] for key, item in found.items()}
    assert splits == {"c": "test_unique", "d": "test_unique", "a": "train", "b": "train"}
    assert [one.key for one in source.preferences()] == ["9", "1", "2", "3", "4"]
    assert list(by_key(source, {"split": ["train"]})) == ["a", "b"]


def test_the_variant_without_pictures_is_refused(tmp_path):
    rows = [row(1, "a", "b", 1.0)]
    path = pick_a_pic(tmp_path / "x.parquet", rows, left_out=("jpg_0", "jpg_1"))
    with pytest.raises(InputError, match="Pick-a-Pic without pictures .* _no_images"):
        open_source(str(path))
    table(tmp_path / "y.parquet", {"image": [A]})
    assert problems(open_source(str(tmp_path))) == {
        "x.parquet": "Pick-a-Pic without pictures (no columns jpg_0 and jpg_1)"
    }


def test_what_comes_out_can_be_written_down(pairs):
    for one in open_source(str(pairs)).preferences():
        assert json.dumps([one.key, one.prompt, one.label, one.facts], allow_nan=False)
    assert open_source(str(pairs)).describe()["name"] == "Pick-a-Pic"
    before = open_source(str(pairs)).fingerprint()
    assert open_source(str(pairs)).fingerprint() == before
