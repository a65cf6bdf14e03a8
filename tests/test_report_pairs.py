"""The report of preference training: pairs, their figures, and which models are compared."""

from pathlib import Path

import pytest

from tastemaker.records.pair import DroppedComparison, Pair, PairPicture
from tastemaker.records.run import Manifest
from tastemaker.records.size import Size
from tastemaker.report.page import write_report
from tastemaker.report.pair_panels import pair_panels
from tastemaker.report.plots import training_panels
from tastemaker.store.hashing import hash_file
from tastemaker.store.pair_sets import PairSetFacts, write_pair_set
from tests.page_reader import parsed
from tests.pairs_made import picture
from tests.report_run import HOSTILE, Run


def _pairs(run: Run) -> Path:
    step = run.step("pairs", "pairs", source={"kind": "scored"})
    pictures, pairs = {}, []
    for number in range(6):
        ids = []
        for side in range(2):
            file = picture(run.folder / "drawn" / f"{number}{side}.png", 10 * number + side)
            found = PairPicture(hash_file(file), str(file), Size(32, 32), file.name)
            pictures[found.id] = found
            ids.append(found.id)
        prompt = HOSTILE if number == 2 else f"thing {number}"
        split = "heldout" if number == 5 else "train"
        pairs.append(
            Pair(
                f"{number:02}", prompt, ids[0], ids[1], 1.0, number / 4 + 0.1, "scored", split=split
            )
        )
    dropped = [DroppedComparison("k", "scored", "equal scores", "0.1", "", "a", "b")]
    write_pair_set(step.path / "pairs", pairs, pictures, dropped, PairSetFacts("s", {}, {}))
    made = {"scorer": "style", "select": "best_worst", "held_out_scorer": "image_text"}
    results = {"source": "scored", "made_with": made, "margins": {"kept": {"p50": 0.6}}}
    counts = {"comparisons": 7, "pairs": 6, "ties": 0, "prompts": 6, "held out": 1}
    counts |= {"pictures": 12, "dropped: equal scores": 1}
    step.finish(Manifest("pairs", "", {"pairs": "pairs"}, counts, results, 1.0))
    return step.path


def test_pairs_are_shown_with_what_became_none(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.facts()
    place = _pairs(run)
    page = write_report(run.folder).read_text(encoding="utf-8")
    found = parsed(page)
    for text in (
        "6 of 7 comparisons became pairs.",
        "chose the best against the worst",
        "image_text was kept from the choice",
        "equal scores",
        "held out)",
        "Margins of the pairs",
    ):
        assert text in page, text
    assert found.images == 12
    assert "<script>" not in page
    assert page == write_report(run.folder).read_text(encoding="utf-8")
    # Pictures that are gone leave gaps; a set that is gone leaves its counts.
    for file in (run.folder / "drawn").iterdir():
        file.unlink()
    assert parsed(write_report(run.folder).read_text(encoding="utf-8")).images == 0
    (place / "pairs" / "pairs.parquet").unlink()
    assert "6 of 7" in write_report(run.folder).read_text(encoding="utf-8")


def test_of_several_comparisons_the_headline_says_which(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").whole()
    steps = [s for s in run.steps if s["stage"] == "generate"]
    steps[1]["model"] = "fit"
    run.step("again", "evaluate", before="before", after="after")
    source = next((run.folder / "steps" / "evaluate").glob("*/scores"))
    other = next((run.folder / "steps" / "again").iterdir())
    source.rename(other / "scores")
    (other / "scores").rename(source)
    first = write_report(run.folder).read_text(encoding="utf-8")
    assert "fit against before." not in first

    import shutil

    shutil.copytree(source, other / "scores")
    run.finish(run.run.step("again", "evaluate", "k" * 64), {"scores": "scores"})
    page = write_report(run.folder).read_text(encoding="utf-8")
    parsed(page)
    assert "fit against before. In the taught style (ink):" in page
    assert "fit against before: 41" in page
    # Each table has its own reference.
    assert "win rates are against" not in page
    assert "win rates are against" in first
    assert "left to right: before, fit" in page


def test_what_a_training_on_pairs_has_cost_is_counted_in_pairs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.facts()
    step = run.step("dpo", "fit_pairs", batch=32)
    step.finish(Manifest("fit_pairs", "", {}, {"images": 70, "steps": 10}, {}, 7.0))
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert "training on pairs, pairs a second" in page
    assert "10.0 pairs/s" in page
    assert "Trained on 70 pairs in 7" in page
    # Seven pairs in a step, because there are no more.
    assert "steps of at most 32" in page


def _log() -> list[dict[str, float]]:
    rows = []
    for n in range(3):
        row = {"images": 100.0 * n, "loss": 0.7 - n / 10, "probe/moved": n / 10}
        for grid in ("validation", "stable"):
            row |= {f"{grid}/accuracy": 0.5 + n / 10, f"{grid}/margin": n / 1e4}
            row |= {f"{grid}/loss": 0.69 - n / 50, f"{grid}/logit": float(n)}
            row |= {f"{grid}/winner_drift": -n / 50, f"{grid}/loser_drift": n / 20}
            row |= {f"{grid}/winner_error": 0.2, f"{grid}/loser_error": 0.2}
            for t in (50, 500):
                row |= {f"{grid}/winner_error_t{t}": 0.2 - n / 100}
                row |= {f"{grid}/loser_error_t{t}": 0.2 + n / t}
                row |= {f"{grid}/accuracy_t{t}": 0.5 + n / 10, f"{grid}/margin_t{t}": 0.1}
        rows.append(row)
    return rows


def test_figures_of_pairs_have_panels_of_their_own() -> None:
    panels = {panel.title: panel for panel in pair_panels(_log())}
    right = panels["Pairs on the right side"]
    assert [c.label for c in right.curves] == ["held out", "trained on"]
    assert (right.unit, right.level) == ("share", 0.5)
    errors = panels["Errors against the start, by timestep"]
    assert [c.label for c in errors.curves] == ["winners", "losers"]
    assert errors.curves[0].images == (50.0, 500.0)
    assert errors.curves[0].values == pytest.approx((-0.1, -0.1))
    assert errors.curves[1].values == pytest.approx((0.2, 0.02))
    assert panels["Distance from the start"].curves[0].values == (0.0, 0.1, 0.2)
    titles = [panel.title for panel in training_panels(_log())]
    assert titles[: len(panels)] == list(panels)
    assert "winner error" not in titles
    assert "Training loss" in titles
    # A run without held-out pairs tells of those that it trains on.
    bare = [{k: v for k, v in row.items() if not k.startswith("validation")} for row in _log()]
    assert [c.label for c in pair_panels(bare)[0].curves] == ["trained on"]
    assert pair_panels([{"images": 0, "validation/mse": 0.1}]) == []
