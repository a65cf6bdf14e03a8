"""The report: one file that is whole, true to its run, and there whatever the run has."""

import re
from pathlib import Path

import pytest

from tastemaker.report.page import write_report
from tests.page_reader import parsed
from tests.report_run import Run, interval, line


@pytest.fixture
def whole(tmp_path: Path) -> Run:
    return Run(tmp_path / "run").whole()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, written once for the tests that only read it."""
    return Run(tmp_path_factory.mktemp("report") / "run").whole().page()


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    found = parsed(page)
    assert found.images > 60
    assert all(address.startswith(("data:", "#")) for address in found.loads)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(found.ids) == len(set(found.ids))
    anchors = [link[1:] for link in found.links if link.startswith("#")]
    assert set(anchors) <= set(found.ids)
    assert [link for link in found.links if not link.startswith("#")] == [
        "https://github.com/jdecked/twemoji"
    ]


def test_the_headline_says_the_result_and_its_price(page: str) -> None:
    title = re.search("<title>(.*)</title>", page)
    assert title is not None
    assert title[1].startswith("In the taught style (ink): 41\u202f% → 92\u202f% of 30 prompts.")
    assert "A clear gain, and no measurable loss beside it." in page
    assert "“Fits its text” did not change measurably: +0.010 [−0.090, +0.110]." in page
    assert "97\u202f% [95, 99]" in page


def test_all_that_is_known_is_there(page: str) -> None:
    for text in (
        *("thing 29", "too small", "LoRA", "12.5", "1\u202fmin 04\u202fs"),
        *("validation error", "0.3000 → 0.2200", "Learning rate", "tastemaker run tiny/test"),
        *("Twemoji", "CC BY 4.0", "torch", "2.13", "Resolved recipe", "kkkkkkkkkkkkkkkk"),
    ):
        assert text in page, text
    assert "9 of 13 pictures were kept." in page
    assert page.count("<svg") == 4


def test_nothing_from_the_run_becomes_markup(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "javascript:" not in page


def test_the_same_run_gives_the_same_bytes(whole: Run) -> None:
    first = write_report(whole.folder).read_bytes()
    sheet = (whole.folder / "before_after.png").read_bytes()
    assert write_report(whole.folder).read_bytes() == first
    assert (whole.folder / "before_after.png").read_bytes() == sheet


def test_best_and_weakest_are_chosen_by_score(page: str) -> None:
    best = page[page.index("Changed most for the better") : page.index("Weakest after")]
    weakest = page[page.index("Weakest after") : page.index("All prompts")]
    captions = r'<span title="(thing \d+|&lt;script.*?)">'
    # Before rises with the number, after falls within every five: 0, 1, 2 and 5 gain most.
    assert re.findall(captions, best) == ["thing 0", "thing 1", "thing 2", "thing 5"]
    assert re.findall(captions, weakest) == ["thing 4", "thing 9", "thing 14", "thing 19"]


def test_colours_follow_the_theme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    charts = re.findall("<svg.*?</svg>", page, re.DOTALL)
    for chart in charts:
        assert "var(--accent)" in chart
        assert not re.search(r"(fill|stroke): #", chart)
        assert "font-family" not in chart


def test_a_run_with_nothing_yet_has_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.step("collect", "collect")
    page = run.page()
    parsed(page)
    assert "This run has trained and compared nothing yet." in page
    assert "Not finished: collect." in page
    assert not (run.folder / "before_after.png").exists()


def test_a_training_without_comparison_has_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.fit()
    page = run.page()
    parsed(page)
    assert "Trained on 800 images in 1\u202fmin 04\u202fs." in page
    assert page.count("<svg") == 4


def test_pictures_that_are_gone_leave_a_gap(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.generate("before", missing="p07")
    run.generate("after")
    run.evaluate(missing={"before": 1, "after": 0})
    page = run.page()
    parsed(page)
    assert page.count('class="gone"') >= 1
    assert "1 pictures are missing; only complete prompts were compared." in page


def test_one_model_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.generate("after")
    alone = line("style_share", "share", 0.4, 0.9)
    alone |= {"against": {}, "models": {"after": interval(0.9)}}
    run.evaluate(sides=["after"], reference=None, scores=[alone], style="@style")
    page = run.page()
    parsed(page)
    assert "In the style that the prompt names: 90\u202f% [80, 100] of 30 prompts." in page
    assert "One model, compared with none" in page
    assert not (run.folder / "before_after.png").exists()


def test_a_damaged_evaluation_is_left_out(whole: Run) -> None:
    summary = next(whole.folder.glob("steps/evaluate/*/scores/summary.json"))
    summary.write_text("{broken")
    page = whole.page()
    parsed(page)
    assert "Trained on 800 images" in page
    assert "Damaged, or of another version: evaluate." in page


def test_what_curation_dropped_is_counted_by_reason(page: str) -> None:
    reasons = re.findall(r'<th scope="row">([^<]+)</th><td class="number">(\d+)</td>', page)
    assert dict(reasons) == {"too small": "2", "blurred": "1", "unreadable": "1"}


def test_json_of_the_summary_is_enough(whole: Run) -> None:
    """Scores without the Parquet file: the table is there, best and weakest are not."""
    next(whole.folder.glob("steps/evaluate/*/scores/scores.parquet")).unlink()
    page = whole.page()
    parsed(page)
    assert "Changed most for the better" not in page
    assert "+51\u202fpoints" in page
