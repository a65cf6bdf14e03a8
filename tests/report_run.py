"""A run folder that is filled step by step, without running anything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
        "about": {"style_share": "style", "image_text": "text"}[name],
        "models": {"before": interval(before), "after": interval(after)},
        "against": {
            "after": {
                "difference": interval(after - before),
                "win_rate": interval(0.77),
                "better": 20,
                "worse": 4,
                "same": 6,
                "p": 0.01,
            }
        },
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
            "sides": ["before", "after"],
            "reference": "before",
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
