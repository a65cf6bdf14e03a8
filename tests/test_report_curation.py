"""The page of a curation: true to its figures, whole in itself, there whatever the step has."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.recipe.load import parse_recipe
from tastemaker.recipe.runner import run_recipe
from tastemaker.report.curation_page import write_curation_page
from tastemaker.report.page import write_report
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import RunDir
from tests.page_reader import parsed

HOSTILE = "<script>alert('x')</script> & \"quotes\""
RECIPE = """
name: judged
about: A test.
steps:
  - {{name: collect, stage: collect, sources: ["{pictures}"]}}
  - name: curate
    stage: curate
    collection: collect
    buckets: {{side_px: 64, batch: 4}}
    rules:
      - {{rule: captioned}}
      - {{rule: range, column: short_side, least: 48}}
      - {{rule: range, column: pixels.sharpness, least: {least}}}
      - {{rule: contains, column: tags, none: [spoiled]}}
      - {{rule: range, column: aspect, most: 9}}
      - {{rule: duplicates, most_bits: 4, most_levels: 4}}
      - {{rule: top, column: pixels.colourfulness, fraction: 0.9}}
"""


def write_pictures(folder: Path) -> None:
    """30 pictures: sharper and sharper, with tags; a copy, small and broken ones."""
    folder.mkdir()
    lines = []
    for number in range(30):
        random = np.random.default_rng(number)
        side = 24 if number in (3, 4) else 64
        coarse = random.integers(0, 256, (4 + number // 2, 5 + number // 2, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((side + 16, side), Image.Resampling.BICUBIC)
        name = f"<script>{number:02}.png" if number == 20 else f"{number:02}.png"
        picture.save(folder / name)
        if number == 21:
            picture.resize((60, 48)).save(folder / "smaller copy.png")
            lines.append({"file_name": "smaller copy.png", "text": "a copy", "tags": ["copy"]})
        text = HOSTILE if number == 20 else "" if number == 5 else f"thing {number}"
        tags = ["thing", HOSTILE if number % 2 else "even", *(["spoiled"] if number == 22 else [])]
        lines.append({"file_name": name, "text": text, "tags": tags})
    (folder / "zero.png").write_bytes(b"")
    (folder / "zero as well.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<!DOCTYPE html>")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def curated_run(folder: Path, least: float = 20) -> Path:
    """A run with both steps; the folder of the curate step."""
    if not (folder / "pictures").exists():
        write_pictures(folder / "pictures")
    text = RECIPE.format(pictures=folder / "pictures", least=least)
    with RunDir(folder / "run") as run:
        for _ in run_recipe(parse_recipe(text, "test"), run, command=["tastemaker", "<run>"]):
            pass
        return run.steps()[-1].path


@pytest.fixture(scope="module")
def shared_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run for the tests that only read it."""
    return curated_run(tmp_path_factory.mktemp("curated"))


@pytest.fixture(scope="module")
def page(shared_step: Path) -> str:
    return write_curation_page(shared_step).read_text(encoding="utf-8")


@pytest.fixture
def step(shared_step: Path, tmp_path: Path) -> Path:
    """The same run as a copy that may be changed; its pictures lie where they were."""
    shutil.copytree(shared_step.parents[2], tmp_path / "run")
    return tmp_path / "run" / shared_step.relative_to(shared_step.parents[2])


def summary_of(step: Path) -> dict:
    return json.loads((step / "curation.json").read_text())


def write_summary(step: Path, summary: object) -> None:
    (step / "curation.json").write_text(json.dumps(summary))


def part(page: str, name: str) -> str:
    """One section of the page as text without markup."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, name
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    found = parsed(page)
    assert found.images > 40
    assert all(address.startswith(("data:", "#")) for address in found.loads)
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_the_headline_and_the_funnel_are_those_of_the_figures(shared_step: Path, page: str) -> None:
    summary = summary_of(shared_step)
    kept = summary["kept"]
    assert 10 < kept < 25
    assert f"<title>34 → {kept} pictures (curate)</title>" in page
    assert f"{100 * kept / 34:.0f}\u202f% are kept." in page
    assert "Dropped nothing: “aspect ≤ 9”." in page
    stages = summary["funnel"]["stages"]
    counts = re.findall(r"<span>(\d+) → <b>(\d+)</b></span>", page)
    assert counts == [(str(stage["before"]), str(stage["after"])) for stage in stages]
    rules = part(page, "rules")
    sharp = stages[3]
    assert sharp["alone"] > sharp["before"] - sharp["after"] > 0
    assert f"alone it would drop {sharp['alone']}" in rules
    assert "zero bytes 2" in rules
    for stage in stages:
        assert f"{stage['means']['pixels.sharpness']:.1f}" in rules


def test_borders_show_the_nearest_pictures_on_both_sides(shared_step: Path, page: str) -> None:
    border = next(b for b in summary_of(shared_step)["borders"] if "sharpness" in b["rule"])
    strips = re.findall(r'<article class="strip">(.*?)</article>', page, re.DOTALL)
    strip = next(s for s in strips if "pixels.sharpness ≥ 20" in s)
    dropped, kept = strip.split('<div class="line"')
    assert "limit at least 20" in dropped
    assert re.findall("<b>(.*?)</b>", dropped) == [one["got"] for one in border["dropped"]]
    values = [float(text) for text in re.findall("<b>(.*?)</b>", kept)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(border["kept"][0]["value"], rel=1e-4)
    assert float(border["dropped"][0]["got"]) < 20 <= values[0]
    # What has a part of its own is not shown twice, and what drops nothing has no border.
    assert not any("readable" in s or "no duplicates" in s or "aspect ≤ 9" in s for s in strips)


def test_every_part_says_what_was_found(shared_step: Path, page: str) -> None:
    assert "1 copy of 1 picture was dropped" in part(page, "duplicates")
    assert "smaller copy.png" in part(page, "duplicates")
    concepts = part(page, "concepts")
    assert "by the tags of the collection" in concepts
    assert "nouns" not in concepts
    errors = part(page, "errors")
    assert "unreadable: zero bytes 2" in errors
    assert "zero as well.png" in errors
    assert "unreadable: not a picture 1 page.jpg" in errors
    buckets = summary_of(shared_step)["buckets"]
    assert part(page, "buckets").count("smaller than a batch") == 1 + sum(
        row["small"] for row in buckets["rows"]
    )
    assert "sizes of about 64 × 64 px, height × width, batches of 4" in part(page, "buckets")
    made = part(page, "made")
    assert "least: 20" in made
    assert "tastemaker <run>" in made
    assert json.loads((shared_step / "selection.json").read_text())["hash"] in made


def test_nothing_from_pictures_or_files_becomes_markup(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_colours_follow_the_theme(page: str) -> None:
    charts = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) > 10
    for chart in charts:
        assert "var(--accent)" in chart
        assert not re.search(r"(fill|stroke): #", chart)


def test_the_same_step_gives_the_same_bytes(shared_step: Path) -> None:
    first = write_curation_page(shared_step).read_bytes()
    assert write_curation_page(shared_step).read_bytes() == first


def test_only_what_is_shown_is_read(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    whole = Catalogue.base_table

    def base_table(self: Catalogue, names: list[str]) -> object:
        asked.append(names)
        return whole(self, names)

    def records(self: Catalogue) -> None:
        raise AssertionError("all records were read")

    monkeypatch.setattr(Catalogue, "base_table", base_table)
    monkeypatch.setattr(Catalogue, "records", records)
    write_curation_page(step)
    write_report(step.parents[2])
    assert {name for names in asked for name in names} <= {"id", "path"}


def test_pictures_that_are_gone_leave_a_gap(step: Path) -> None:
    before = write_curation_page(step).read_text()
    collection = next(step.parents[2].glob("steps/collect/*/collection"))
    for picture in collection.glob("catalog/base/part-*.parquet"):
        picture.unlink()
    page = write_curation_page(step).read_text()
    parsed(page)
    assert "not shown" not in before
    assert page.count('class="gone"') > 20
    assert part(page, "rules") == part(before, "rules")


def test_what_a_step_lacks_has_no_part(step: Path) -> None:
    (step / "verdicts.parquet").write_bytes(b"damaged")
    write_summary(step, {"pictures": 0, "kept": 0})
    page = write_curation_page(step).read_text()
    assert parsed(page).images == 0
    assert re.findall(r'<section id="(\w+)"', page) == ["made"]
    assert "There were no pictures." in page


def test_a_step_that_the_run_does_not_list_any_more_has_a_page(step: Path) -> None:
    (step.parents[2] / "steps.json").write_text("[]")
    page = write_curation_page(step).read_text()
    parsed(page)
    assert "alone it would drop" in part(page, "rules")
    # The manifest knows where the collection is.
    assert "not shown" not in page


def test_what_is_no_finished_curation_is_refused(step: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished curation"):
        write_curation_page(tmp_path)
    with pytest.raises(InputError, match="no finished curation"):
        write_curation_page(next((step.parents[2] / "steps" / "collect").iterdir()))
    write_summary(step, [])
    with pytest.raises(InputError, match="no finished curation"):
        write_curation_page(step)
    write_summary(step, {"pictures": 1})
    with pytest.raises(InputError, match=r"curation\.json: got figures that do not fit"):
        write_curation_page(step)


def test_the_report_of_the_run_leads_there(step: Path) -> None:
    run = step.parents[2]
    report = write_report(run)
    (link,) = (a for a in parsed(report.read_text()).links if not a.startswith("#"))
    assert (run / link).resolve() == (step / "curation.html").resolve()
    kept = summary_of(step)["kept"]
    assert f"{kept} of 34 pictures were kept." in report.read_text()
    assert f"<title>{kept} of 34 pictures kept. (judged)</title>" in report.read_text()
    # Without figures, as from older versions, there is no page and no link.
    (step / "curation.html").unlink()
    (step / "curation.json").write_text("{broken")
    found = parsed(write_report(run).read_text())
    assert [a for a in found.links if not a.startswith("#")] == []
    assert not (step / "curation.html").exists()
