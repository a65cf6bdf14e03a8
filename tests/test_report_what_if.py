"""What another threshold would keep: figures, table and plot; and the small parts of the pages."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.curation.what_if import Sweep
from tastemaker.errors import InputError
from tastemaker.recipe.load import parse_recipe
from tastemaker.recipe.runner import run_recipe
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.report.curation_page import write_curation_page
from tastemaker.report.curation_plots import histogram_svg, rank_svg
from tastemaker.report.thumbnails import Thumbnails, by_lot, picture_rows
from tastemaker.report.what_if import sweep_table, write_swept, write_what_if
from tastemaker.report.words import figure, figures, percent, several
from tastemaker.store.archives import slice_address
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import RunDir
from tests.curation_rules import NAN, facts, rule

SIDES = (20, 30, 40, 50, 60, 70)
RECIPE = """
name: sides
steps:
  - {{name: collect, stage: collect, sources: ["{pictures}"]}}
  - name: curate
    stage: curate
    collection: collect
    measure: {measure}
    rules:
      - {{rule: range, column: short_side, least: 40}}
      - {{rule: range, column: pixels.flat_share, most: 1}}
"""


def run_of(folder: Path, measure: str) -> Path:
    pictures = folder / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for side in SIDES:
            pixels = np.random.default_rng(side).integers(0, 256, (side, side + 9, 3), np.uint8)
            Image.fromarray(pixels).save(pictures / f"{side}.png")
    with RunDir(folder / "run") as run:
        text = RECIPE.format(pictures=pictures, measure=measure)
        for _ in run_recipe(parse_recipe(text, "test"), run):
            pass
        return run.steps()[-1].path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("sides"), "all")


@pytest.fixture
def step(shared: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared.parents[2], tmp_path / "run")
    return tmp_path / "run" / shared.relative_to(shared.parents[2])


def test_a_finished_step_is_asked_for_other_limits(step: Path) -> None:
    swept = write_what_if(step, "short_side=25:65:5")
    kept = {25.0: 5, 35.0: 4, 45.0: 3, 55.0: 2, 65.0: 1}
    assert {p.threshold: p.kept for p in swept.what_if.points} == kept
    assert (swept.what_if.now, swept.what_if.today, swept.note) == (4, 40.0, "")
    assert sweep_table(swept).splitlines() == [
        "short_side (today: at least 40): 4 of 6 pictures are kept",
        "  limit        kept  share  change",
        "  at least 25     5   83\u202f%      +1",
        "  at least 35     4   67\u202f%       0",
        "  at least 40     4   67\u202f%       0  today",
        "  at least 45     3   50\u202f%      −1",
        "  at least 55     2   33\u202f%      −2",
        "  at least 65     1   17\u202f%      −3",
    ]
    beside = json.loads((step / "what_if_short_side.json").read_text())
    assert beside == json.loads(json.dumps(swept.figures()))
    assert beside["points"][0] == {
        "threshold": 25.0, "kept": 5, "share": 5 / 6, "gained": 1, "lost": 0,
    }  # fmt: skip


def test_the_plot_can_stand_alone_and_is_the_same_twice(step: Path) -> None:
    plot = write_what_if(step, "short_side=25:65").plot
    assert plot.name == "what_if_short_side.png"
    first = plot.read_bytes()
    with Image.open(plot) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 600
    assert (np.abs(pixels - (216, 35, 47)).sum(axis=-1) < 20).sum() > 500
    assert write_what_if(step, "short_side=25:65").plot.read_bytes() == first


def test_the_page_shows_what_was_tried(step: Path) -> None:
    assert "What if" not in write_curation_page(step).read_text()
    write_what_if(step, "short_side=25:65")
    write_what_if(step, "flat_share=0:0.5")
    (step / "what_if_damaged.json").write_text('{"points": [{}]}')
    page = write_curation_page(step).read_text()
    assert "At least 25 keeps 5, 65 keeps 1." in page
    assert "Pictures kept along a threshold of pixels.flat_share" in page
    assert page.count("Pictures kept along") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shrpness=0:1", r"Did you mean 'pixels\.sharpness'"),
        ("phash=0:1", "a column of numbers"),
        ("short_side=9:2", "a first threshold below the last"),
    ],
)
def test_a_wrong_question_names_what_is_right(shared: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_what_if(shared, text)
    assert not list(shared.glob("what_if*"))


def test_what_the_figures_do_not_know_is_said(tmp_path: Path) -> None:
    step = run_of(tmp_path, "survivors")
    swept = write_what_if(step, "short_side=25:65")
    assert "measured only for the pictures that reached" in sweep_table(swept)
    assert "measured only for" in write_curation_page(step).read_text()


def test_without_its_run_or_collection_a_step_cannot_be_asked(step: Path) -> None:
    collection = next(step.parents[2].glob("steps/collect/*/collection"))
    shutil.rmtree(collection)
    with pytest.raises(InputError, match="the collection 'collect' of this step is gone"):
        write_what_if(step, "short_side=25:65")
    (step.parents[2] / "steps.json").write_text("[]")
    with pytest.raises(InputError, match="does not have any more"):
        write_what_if(step, "short_side=25:65")


def test_a_sweep_of_a_column_without_a_rule(tmp_path: Path) -> None:
    known = facts(a__b=[1.0, 2.0, 3.0, NAN])
    rules = [rule(rule="top", column="a.b", count=2)]
    swept = write_swept(tmp_path, known, rules, None, Sweep("a.b", 0.0, 4.0, 3))
    assert swept.figures()["today"] is None
    assert [p.kept for p in swept.what_if.points] == [2, 2, 0]
    lines = sweep_table(swept).splitlines()
    assert lines[0] == "a.b (today: no limit): 2 of 4 pictures are kept"
    assert lines[2].split() == ["no", "limit", "2", "50", "%", "0", "today"]
    most = [rule(rule="range", column="a.b", most=2)]
    swept = write_swept(tmp_path, known, most, None, Sweep("a.b", 1.0, 3.0, 3))
    assert "at most 1" in sweep_table(swept)
    assert swept.plot == tmp_path / "what_if_a.b.png"


def test_gains_and_losses_are_both_told(tmp_path: Path) -> None:
    known = facts(a=[1.0, 2.0, 3.0], score=[9.0, 1.0, 5.0])
    rules = [
        rule(rule="range", column="a", least=1),
        rule(rule="top", column="score", count=1),
    ]
    swept = write_swept(tmp_path, known, rules, None, Sweep("a", 1.0, 2.0, 2))
    assert sweep_table(swept).splitlines()[-1].split()[-3:] == ["0", "(+1", "−1)"]


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_thumbnails_come_from_files_and_from_archives_and_from_nowhere_else(tmp_path: Path) -> None:
    collection = tmp_path / "collection"
    (collection / "files").mkdir(parents=True)
    (collection / "files" / "a.png").write_bytes(png(0))
    (tmp_path / "outside.png").write_bytes(png(1))
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    with tarfile.open(tmp_path / "0.tar") as tar:
        second = tar.getmembers()[1]
        address = slice_address(tmp_path / "0.tar", second.offset_data, second.size)
    paths = {"file": "files/a.png", "tar": str(address), "out": "../outside.png", "gone": "x.png"}
    rows = [ImageRecord(id_, path, "s", id_, Size(9, 12)) for id_, path in paths.items()]
    catalogue = Catalogue(collection)
    catalogue.append_base(rows)
    pictures = Thumbnails(collection, paths)
    assert (pictures.address("file") or "").startswith("data:image/webp;base64,")
    assert pictures.address("tar") == pictures.address("file")
    assert [pictures.address(id_) for id_ in ("out", "gone", "unknown")] == [None] * 3
    assert Thumbnails(None, ["file"]).address("file") is None
    assert Thumbnails(tmp_path / "nothing", ["file"]).address("file") is None
    found = picture_rows(catalogue, ["tar", "unknown"], ["key"])
    assert found == {"tar": {"id": "tar", "key": "tar"}}
    assert by_lot(catalogue.base_table(["id"]), 2)["id"].to_pylist() == ["file", "gone"]
    assert by_lot(catalogue.base_table(["id"]).slice(4), 2)["id"].to_pylist() == []


def entry(**changes: object) -> dict:
    flat = {"edges": [0.0, 1.0, 2.0, 3.0], "kept": [1, 2, 0], "dropped": [0, 1, 4], "limits": [2.5]}
    rest = {"below": [0, 0], "above": [0, 0], "unknown": [0, 0], "scale": "linear"}
    return {"column": "a<b>", **flat, **rest, **changes}


def test_histograms_of_all_shapes_are_drawn() -> None:
    plain = histogram_svg(entry(), "x1")
    assert plain == histogram_svg(entry(), "x1")
    assert "stroke-dasharray" in plain
    assert "stroke-dasharray" not in histogram_svg(entry(limits=[7.0]), "x1")
    assert "<b>" not in plain
    tower = histogram_svg(entry(kept=[9000, 2, 1]), "x2")
    assert "9000 \N{UPWARDS ARROW}" in tower
    assert "\N{UPWARDS ARROW}" not in plain
    log = histogram_svg(entry(edges=[0.1, 1.0, 10.0, 1000.0], scale="log"), "x3", is_narrow=True)
    assert ">100<" in log
    one = histogram_svg(entry(edges=[0.0, 1.0], kept=[0], dropped=[0], limits=[]), "x4")
    assert one.startswith("<svg")


def test_ranks_are_drawn_with_and_without_an_after() -> None:
    both = rank_svg([[1, 100], [2, 3]], [[1, 5]], "r")
    assert ">before<" in both
    assert ">after<" in both
    assert ">after<" not in rank_svg([[1, 100], [2, 3]], [], "r")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0"), (1.0, "1"), (0.50209, "0.5021"), (2875.4, "2\u202f875"), (12.5, "12.5")),
        *((-3.14159, "−3.142"), (3.1e-6, "3.1e−6"), (None, "–"), (float("nan"), "–")),
        *((1e12, "1e12"), (999.96, "1\u202f000"), (0.1, "0.1")),
    ],
)
def test_figures_are_written_as_people_read_them(number: float | None, text: str) -> None:
    assert figure(number) == text


def test_figures_of_a_column_have_the_same_places() -> None:
    assert figures([338.0, 1.25, None]) == ["338.0", "1.2", "–"]
    assert figures([3.0, 2000.0]) == ["3", "2\u202f000"]
    assert figures([-0.5, 0.25]) == ["−0.5000", "0.2500"]
    assert figures([2e-7, None]) == ["2e−7", "–"]
    assert figures([]) == []


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0, "0"), (1, "100"), (0.416, "42")),
        *((0.004, "0.4"), (1e-9, "under 0.1"), (1 - 1e-9, "over 99.9")),
    ],
)
def test_shares_never_say_none_or_all_of_some(share: float, text: str) -> None:
    assert percent(share) == f"{text}\u202f%"


def test_numbers_of_things() -> None:
    assert several(1, "picture") == "1 picture"
    assert several(2000, "copy", "copies") == "2\u202f000 copies"
