"""The report: one file that is whole, true to its run, and there whatever the run has."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tastemaker.recipe.yaml_text import dump_yaml
from tastemaker.records.codec import to_json
from tastemaker.records.generation import Sample
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Manifest
from tastemaker.records.size import Size
from tastemaker.report.page import write_report
from tastemaker.store import jsonl
from tastemaker.store.atomic import write_json
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.rundir import RunDir, StepDir, StepEntry
from tastemaker.store.scores import write_scores
from tastemaker.store.selections import make_selection, write_selection
from tastemaker.store.trainlog import TrainLog
from tests.page_reader import parsed

PROMPTS = {f"p{n:02d}": f"thing {n}" for n in range(30)}
HOSTILE = "<script>alert('x')</script> & \"quotes\""


def interval(estimate: float, width: float = 0.1, units: int = 30) -> dict:
    ends = {"low": estimate - width, "high": estimate + width}
    return {"estimate": estimate, **ends, "level": 0.95, "units": units}


def line(name: str, unit: str, before: float, after: float, **more: object) -> dict:
    return {
        "name": name,
        "unit": unit,
        "higher_is_better": True,
        "scorer": name.split("_")[0],
        "version": "1",
        "backbone": "net@0",
        "preprocessing": "abc",
        "models": {"before": interval(before), "after": interval(after)},
        "difference": interval(after - before),
        "better": 20,
        "worse": 4,
        "same": 6,
        "p": 0.01,
        **more,
    }


class Run:
    """A run folder that is filled step by step."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder)
        self.folder = folder
        self.steps: list[dict] = []
        self.run.path.mkdir()

    def step(self, name: str, stage: str, **config: object) -> StepDir:
        self.steps.append({"name": name, "stage": stage, **config})
        entries = [
            StepEntry(s["name"], s["stage"], "k" * 64, RunDir.step_path(s["name"], "k" * 64))
            for s in self.steps
        ]
        self.run.save_plan(entries)
        recipe = {"name": "test", "about": "A test.", "seed": 3, "steps": self.steps, "stated": {}}
        self.run.save_recipe(dump_yaml(recipe))
        step = self.run.step(name, stage, "k" * 64)
        step.path.mkdir(parents=True)
        return step

    def finish(self, step: StepDir, outputs: dict, seconds: float = 2.0, **counts: int) -> None:
        manifest = Manifest(step.stage, "", outputs, counts, {}, seconds)
        step.finish(manifest)

    def facts(self) -> None:
        facts = {
            "recipe": "tiny/test",
            "recipe_hash": "f" * 64,
            "command": ["tastemaker", "run", "tiny/test", "'a b=<c>'"],
            "seed": 3,
            "started": "2025-01-02T03:04:05+0000",
            "versions": {"python": "3.11", "torch": "2.13"},
            "machine": {"platform": "Linux", "cpus": 2, "device": "cpu"},
        }
        self.run.save_facts(facts)

    def collect(self) -> None:
        step = self.step("collect", "collect", sources=["demo:twemoji", "elsewhere"])
        random = np.random.default_rng(0)
        records = []
        for n in range(12):
            path = step.path / "collection" / "files" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
            name = f"files/{n}.png"
            captions = (HOSTILE,) if n == 1 else (f"thing {n}",)
            records.append(
                ImageRecord(f"id{n:02d}", name, "x", f"key{n}", Size(16, 16), captions=captions)
            )
        records.append(ImageRecord("id99", "files/99.png", "x", "gone", None, status="error"))
        Catalogue(step.path / "collection").append_base(records)
        sources = [{"spec": "demo:twemoji", "name": "Twemoji"}, {"spec": "elsewhere", "name": "E"}]
        sources[1]["url"] = "javascript:alert(1)"
        manifest = Manifest("collect", "", {"collection": "collection"}, {"pictures": 12}, {}, 4.0)
        step.finish(replace(manifest, results={"sources": sources}))

    def curate(self) -> None:
        step = self.step("curate", "curate", collection="collect")
        kept = [f"id{n:02d}" for n in range(9)]
        write_selection(step.path / "selection.json", make_selection("s", kept, "readable"))
        ids = [*(f"id{n:02d}" for n in range(12)), "id99"]
        paths = [f"files/{i[2:].lstrip('0') or 0}.png" for i in ids]
        reasons = [None] * 9 + ["too small", "too small", "blurred", "unreadable"]
        table = {
            "id": ids,
            "key": ids,
            "path": paths,
            "kept": [reason is None for reason in reasons],
            "reason": reasons,
            "got": ["3"] * 13,
            "limit": ["9"] * 13,
        }
        pq.write_table(pa.table(table), step.path / "verdicts.parquet")
        outputs = {"selection": "selection.json", "verdicts": "verdicts.parquet"}
        self.finish(step, outputs, pictures=13)

    def fit(self) -> None:
        step = self.step(
            "fit", "fit", collection="collect", selection="curate", batch=8, method={"kind": "lora"}
        )
        with TrainLog(step.path / "log") as log:
            for images in range(0, 801, 40):
                figures = {"loss": 1 / (1 + images), "lr": 1e-4, "grad_norm": 0.5}
                log.scalars(images, figures)
                if images % 200 == 0:
                    values = {"validation/mse": 0.3 - images / 9999, "stable/mse": 0.25}
                    log.scalars(images, {**values, "validation/mse_t0.05": 0.9})
        self.finish(step, {"log": "log"}, 64.0, images=800, steps=100)

    def generate(self, name: str, missing: str | None = None) -> None:
        step = self.step(name, "generate")
        folder = step.path / "samples"
        folder.mkdir()
        random = np.random.default_rng(len(name))
        for prompt, text in PROMPTS.items():
            file = f"{prompt}_00.png"
            if prompt != missing:
                pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / file)
            shown = HOSTILE if prompt == "p03" else text
            jsonl.append(
                folder / "samples.jsonl", to_json(Sample(name, prompt, shown, 0, 1, "s", file))
            )
        self.finish(step, {"samples": "samples"}, 10.0, pictures=len(PROMPTS))

    def evaluate(self, **changes: object) -> None:
        step = self.step("evaluate", "evaluate", before="before", after="after")
        summary = {
            "prompts": 30,
            "prompts_seen_in_training": 0,
            "pictures": {"before": 30, "after": 30},
            "missing": {"before": 0, "after": 0},
            "style": "ink",
            "level": 0.95,
            "scores": [
                line("style_share", "share", 0.41, 0.92),
                line("image_text", "cosine", 0.30, 0.31),
            ],
            "judges": {"style": {"accuracy": interval(0.97, 0.02), "fitted_on": 40}},
            "notes": [],
            **changes,
        }
        write_json(step.path / "scores" / "summary.json", summary)
        facts = {"sample_index": 0, "version": "1", "backbone": "n", "preprocessing": "p"}
        rows = [
            {"model": model, "prompt_id": prompt, "file": "f", "scorer": "style", "unit": "margin"}
            | facts
            | {"value": n - 25.0 if model == "before" else 3.0 - n % 5}
            for model in ("before", "after")
            for n, prompt in enumerate(PROMPTS)
        ]
        write_scores(step.path / "scores" / "scores.parquet", rows)
        self.finish(step, {"scores": "scores"})

    def whole(self) -> "Run":
        self.facts()
        self.collect()
        self.curate()
        self.fit()
        self.generate("before")
        self.generate("after")
        self.evaluate()
        return self

    def page(self) -> str:
        return write_report(self.folder).read_text(encoding="utf-8")


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
    for name in ("difference", "better", "worse", "same", "p"):
        del alone[name]
    alone["models"] = {"after": interval(0.9)}
    run.evaluate(scores=[alone], style="@style")
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
