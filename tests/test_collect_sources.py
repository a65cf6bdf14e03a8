"""Collecting from tars, tables, comparisons and latents: nothing twice, nothing lost."""

import os

import numpy as np
import pytest

from tastemaker.records.size import Size
from tastemaker.stages import collect
from tastemaker.store.bigasp_latents import BigaspLatent, write_bigasp
from tastemaker.store.hashing import hash_bytes, hash_file, hash_folder
from tastemaker.store.images import load_image
from tastemaker.store.preferences import read_preferences
from tests import source_files
from tests.collecting import Collecting, write


@pytest.fixture
def work(tmp_path, monkeypatch):
    return Collecting(tmp_path / "step", monkeypatch)


# --- tars and tables -----------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """Names of the pictures that are decoded."""
    names = []
    real = collect.check_picture

    def check(data, *, name):
        names.append(name)
        return real(data, name=name)

    monkeypatch.setattr(collect, "check_picture", check)
    return names


COLOURS = ("red", "green", "blue")


@pytest.fixture
def tar(tmp_path):
    members = [(f"{c}.png", source_files.encoded(c)) for c in COLOURS]
    words = [(f"{c}.txt", f"a {c} square".encode()) for c in COLOURS]
    path = source_files.packed(tmp_path / "00000.tar", [*members, *words])
    os.utime(path, ns=(0, 1_000_000_000))
    return path


@pytest.fixture
def parquet(tmp_path):
    pictures = [source_files.encoded(c) for c in COLOURS]
    columns = {"image": pictures, "text": [f"a {c} square" for c in COLOURS]}
    return source_files.table(tmp_path / "table.parquet", columns)


def test_members_of_a_tar_are_used_in_place_and_read_once(tar, work, decoded):
    assert work(tar) == {"pictures": 3, "without caption": 0, "new": 3}
    assert len(decoded) == 3
    record = next(work.catalogue.records())
    assert record.path.startswith(f"{tar}#tar=")
    assert record.id == hash_bytes(source_files.encoded("red"))
    assert load_image(work.catalogue.picture_path(record)).size == Size(8, 8)
    assert not (work.catalogue.path / "files").exists()
    assert work(tar) == {"pictures": 3, "without caption": 0, "unchanged": 3}
    assert len(decoded) == 3, "nothing is decoded again"


def test_a_copy_in_a_tar_steps_in(tmp_path, tar, work):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(source_files.encoded("red"))
    (folder / "a.txt").write_text("loose")
    counts = work(folder, tar)
    assert (counts["pictures"], counts["unusable: duplicate"]) == (3, 1)
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(source_files.encoded("white"))
    assert work(folder, tar)["pictures"] == 4
    (red,) = [r for r in work.usable().values() if r.captions == ("a red square",)]
    assert red.id == hash_bytes(source_files.encoded("red"))
    assert red.path.startswith(f"{tar}#tar=")


def test_pictures_of_a_table_are_copied_and_read_once(parquet, work, decoded):
    assert work(parquet) == {"pictures": 3, "without caption": 0, "new": 3}
    record = next(work.catalogue.records())
    assert record.path == f"files/{record.id[:2]}/{record.id}.png"
    assert hash_file(work.catalogue.picture_path(record)) == record.id
    assert str(parquet.parent) not in "".join(r.path for r in work.catalogue.records())
    before = hash_folder(work.catalogue.path)
    assert work(parquet) == {"pictures": 3, "without caption": 0, "unchanged": 3}
    assert len(decoded) == 3, "nothing is decoded again"
    assert hash_folder(work.catalogue.path) == before


@pytest.mark.parametrize("left", [None, b"", b"half"])
def test_a_lost_copy_is_restored(parquet, work, left):
    work(parquet)
    before = hash_folder(work.catalogue.path)
    path = work.catalogue.picture_path(next(work.catalogue.records()))
    if left is None:
        path.unlink()
    else:
        path.write_bytes(left)
    assert work(parquet)["unchanged"] == 3
    assert hash_folder(work.catalogue.path) == before


def test_broken_pictures_of_tars_and_tables_are_rows_with_reasons(tmp_path, work):
    good = source_files.encoded("red")
    cut = write(tmp_path / "noise.png", 1).read_bytes()[:300]
    bad = [cut, b"", b"<html>", None]
    table = source_files.table(
        tmp_path / "table.parquet", {"image": [*bad, good], "text": ["a"] * 5}
    )
    members = [("a.png", cut), ("b.jpg", b"<html>"), ("c.png", source_files.encoded("blue"))]
    tar = source_files.packed(tmp_path / "0.tar", [*members, ("../d.png", good)])
    counts = work(table, tar)
    assert counts["pictures"] == 2
    assert counts["new"] == 9
    errors = sorted(r.error.split(" (")[0] for r in work.catalogue.records() if r.error)
    assert errors == [
        "a name that leads out of the tar",
        "no picture in column 'image'", "not a picture", "not a picture",
        "truncated or damaged", "truncated or damaged", "zero bytes",
    ]  # fmt: skip
    assert work(table, tar)["unchanged"] == 9


# --- comparisons ---------------------------------------------------------------------------------


def compared(number: int, first: str, second: str, label: float | None) -> dict:
    """A row of Pick-a-Pic; `red2` is another name for the same bytes as `red`."""
    other = None if label is None else 1 - label
    row = {"ranking_id": number, "label_0": label, "label_1": other, "caption": f"prompt {number}"}
    for side, name in enumerate((first, second)):
        data = None if name == "lost" else source_files.encoded(name.rstrip("2"), "JPEG")
        row |= {f"image_{side}_uid": name, f"jpg_{side}": data}
    return row | {"has_label": label is not None}


def test_pick_a_pic_with_ties_copies_and_lost_pictures(tmp_path, work, decoded):
    file = source_files.pick_a_pic(
        tmp_path / "train-00000-of-00001.parquet",
        [
            compared(1, "red", "green", 1.0),
            compared(2, "green", "blue", 0.5),
            compared(3, "red2", "blue", 0.0),
            compared(4, "blue", "lost", 1.0),
            compared(5, "red", "blue", None),
        ],
    )
    counts = work(file)
    assert (counts["pictures"], counts["preferences"]) == (3, 5)
    assert counts["unusable: duplicate"] == 1
    ids = {key: record.id for key, record in work.usable().items()}
    assert set(ids) == {"red", "green", "blue"}
    stored = list(read_preferences(work.catalogue.path))
    assert [(one.first, one.second, one.preference.label) for one in stored] == [
        (ids["red"], ids["green"], 1.0),
        (ids["green"], ids["blue"], 0.5),
        (ids["red"], ids["blue"], 0.0),
        (ids["blue"], None, 1.0),
        (ids["red"], ids["blue"], None),
    ]
    assert [one.preference.prompt for one in stored] == [f"prompt {n}" for n in range(1, 6)]
    assert dict(stored[0].preference.facts)["model_0"] == "dreamlike"
    assert {one.source for one in stored} == {f"pick-a-pic:{file}"}
    before, read = hash_folder(work.catalogue.path), len(decoded)
    assert work(file)["unchanged"] == 5
    assert hash_folder(work.catalogue.path) == before
    assert len(decoded) == read
    # Without the comparisons nothing is left of them.
    write(tmp_path / "plain" / "a.png", 1)
    assert "preferences" not in work(tmp_path / "plain")
    assert list(read_preferences(work.catalogue.path)) == []


def test_kohya_preferences_name_the_pictures(tmp_path, work):
    for side, seed in (("w", 1), ("l", 2)):
        write(tmp_path / "pairs" / side / "a.png", seed)
        (tmp_path / "pairs" / side / "a.txt").write_text("a cat")
    assert work(tmp_path / "pairs")["preferences"] == 1
    (one,) = read_preferences(work.catalogue.path)
    files = [tmp_path / "pairs" / side / "a.png" for side in ("w", "l")]
    assert [one.first, one.second] == [hash_file(file) for file in files]
    assert (one.preference.label, one.preference.prompt) == (1.0, "a cat")


def test_latents_are_rows_with_the_size_of_their_picture(tmp_path, work):
    values = np.zeros((4, 3, 5), np.float16)
    made = [
        BigaspLatent(2, "ab" * 16, Size(480, 800), 0, 0, Size(3, 5), values),
        BigaspLatent(1, "12", Size(640, 320), 0, 0, Size(3, 5), values),
    ]
    paths = [write_bigasp(tmp_path / "latents", one) for one in made]
    broken = paths[0].with_name(f"{'cd' * 16}.bin.gz")
    broken.write_bytes(paths[0].read_bytes()[:-12])
    counts = work(tmp_path / "latents")
    assert (counts["pictures"], counts["new"]) == (2, 3)
    found = {record.path: record for record in work.catalogue.records()}
    first, second = (found[str(path)] for path in paths)
    assert (first.format, first.mode, first.size) == ("bigASP latent v2", "latent", Size(480, 800))
    assert (second.format, second.size) == ("bigASP latent v1", Size(640, 320))
    assert first.id == hash_file(paths[0])
    assert found[str(broken)].error.startswith("truncated or damaged")
    assert work(tmp_path / "latents")["unchanged"] == 3
