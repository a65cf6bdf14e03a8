"""A folder for the studio: a collection with verdicts, a run with samples and scores, a study."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tastemaker.records.ballot import QUESTIONS, Contender, Study
from tastemaker.records.generation import Prompt
from tastemaker.records.run import Artefact, Manifest
from tastemaker.stages import collect, curate
from tastemaker.store.rundir import RunDir, StepDir, StepEntry
from tastemaker.store.scores import write_scores
from tastemaker.store.studies import identified, write_study

HILLS = ("sunrise", "noon", "dusk", "night")


def scene(seed: int, side: int = 96, noise: float = 0.0) -> np.ndarray:
    """Hills under a sky, uint8 `[side, side, 3]`; the same seed gives the same hills."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    top, bottom = rng.uniform(0.1, 0.9, 3), rng.uniform(0.5, 1.0, 3)
    picture = top + (bottom - top) * y[..., None]
    sun = np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.15, 0.4)) < rng.uniform(0.05, 0.12)
    picture[sun] = (1.0, 0.93, 0.75)
    for depth in range(3):
        wave, shift = rng.uniform(1.5, 4.0), rng.uniform(0, 6)
        edge = 0.5 + 0.15 * depth + 0.08 * np.sin(6.28 * wave * x + shift)
        picture[y > edge] = rng.uniform(0.05, 0.6, 3) * (1 - 0.2 * depth)
    picture = picture + noise * rng.normal(size=picture.shape)
    return np.round(255 * picture.clip(0, 1)).astype(np.uint8)


def save_scene(path: Path, seed: int, side: int = 96, noise: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(seed, side, noise)).save(path)
    return path


def make_collection(folder: Path, count: int = 24, side: int = 96, **rules: Any) -> Path:
    """A run with a collection of hills and a curation of it; the collection's folder."""
    pictures = folder.parent / f"{folder.name}-pictures"
    for number in range(count):
        # Every fourth one is a blur of a few pixels, which a rule of sharpness drops.
        save_scene(pictures / f"{number:03}.png", number, side if number % 4 else side // 3)
        words = f"hills at {HILLS[number % 4]}, number {number}"
        (pictures / f"{number:03}.txt").write_text(words)
    steps = {
        "collect": {"stage": "collect", "sources": [str(pictures)]},
        "chosen": {
            "stage": "curate",
            "collection": "collect",
            "rules": [{"rule": "range", "column": "short_side", "least": side // 2}],
            **rules,
        },
    }
    with RunDir(folder) as run:
        made = _plan(run, steps)
        step = made["collect"]
        step.finish(collect.run(collect.Config(sources=(str(pictures),)), {}, step))
        collected = made["collect"].output("collection")
        config = {key: v for key, v in steps["chosen"].items() if key != "stage"}
        done = curate.run(
            curate.Config.model_validate(config), {"collection": collected}, made["chosen"]
        )
        made["chosen"].finish(done)
    return Path(collected.path)


def make_run(
    folder: Path, prompts: int = 12, models: Sequence[str] = ("before", "after"), side: int = 96
) -> Path:
    """A run with the pictures of some models for some prompts, their scores, and a curve."""
    steps: dict[str, dict[str, Any]] = {"fit": {"stage": "fit"}}
    steps |= {f"{name}_pictures": {"stage": "generate", "name": name} for name in models}
    sides = {
        key: f"{name}_pictures" for key, name in zip(("before", "after"), models, strict=False)
    }
    steps["scores"] = {"stage": "evaluate", **sides}
    with RunDir(folder) as run:
        made = _plan(run, steps)
        write_curve(made["fit"].path / "log" / "metrics.jsonl", 40)
        _finish(made["fit"], {"images": 640}, {})
        for number, name in enumerate(models):
            write_samples(made[f"{name}_pictures"].path / "samples", name, prompts, number, side)
            _finish(made[f"{name}_pictures"], {"pictures": prompts}, {"samples": "samples"})
        rows = [
            {
                "model": key, "prompt_id": f"p{p:04}", "sample_index": 0,
                "file": f"images/p{p:04}_00.png", "scorer": "image_text", "version": "1",
                "backbone": "tiny", "preprocessing": "-", "unit": "cosine",
                "value": 0.2 + 0.05 * n + 0.04 * float(np.sin(1.7 * p + 2 * n)),
            }
            for n, key in enumerate(list(sides))
            for p in range(prompts)
        ]  # fmt: skip
        write_scores(made["scores"].path / "scores" / "scores.parquet", rows)
        (made["scores"].path / "scores" / "summary.json").write_text('{"scores": []}')
        _finish(made["scores"], {"prompts": prompts}, {"scores": "scores"})
    return folder


def write_curve(path: Path, rows: int, start: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for row in range(start, start + rows):
            loss = 0.2 + 0.8 * float(np.exp(-row / 12)) + 0.03 * float(np.sin(row * 2.1))
            file.write(json.dumps({"images": 16 * (row + 1), "loss": loss, "lr": 1e-4}) + "\n")


def write_samples(folder: Path, model: str, prompts: int, number: int, side: int) -> None:
    """Pictures of one model; the same prompt has the same seed, and so the same hills."""
    lines = []
    for p in range(prompts):
        file = f"images/p{p:04}_00.png"
        save_scene(folder / file, 100 + p, side, noise=0.12 * (1 - number))
        lines.append(
            {
                "model": model, "prompt_id": f"p{p:04}",
                "prompt": f"a painting of hills at {HILLS[p % 4]}, version {p}",
                "sample_index": 0, "seed": 1000 + p, "settings": "s", "file": file,
            }
        )  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "samples.jsonl").write_text(text)


def make_study(folder: Path, run: Path, prompts: int = 12, **options: Any) -> Study:
    """A study of a run's two models."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = {step.name: step.path for step in RunDir(run).steps()}
    contenders = tuple(
        Contender(
            name,
            "a run",
            {f"p{p:04}": str((steps[f"{name}_pictures"] / "samples" / "images" / f"p{p:04}_00.png")
                             .resolve()) for p in range(prompts)},
            {},
        )
        for name in ("before", "after")
    )  # fmt: skip
    texts = tuple(
        Prompt(f"p{p:04}", f"a painting of hills at {HILLS[p % 4]}, version {p}",
               (("category", HILLS[p % 4]),))
        for p in range(prompts)
    )  # fmt: skip
    given: dict[str, Any] = {"votes": 3, "repeat": 0.0, "gold_share": 0.0, **options}
    study = identified(Study("", "hills", contenders, texts, (QUESTIONS["general"],), **given))
    write_study(folder, study)
    return study


def make_place(root: Path) -> dict[str, Path]:
    """All of it."""
    run = make_run(root / "paintings")
    make_study(root / "study", run, instructions="Look at both, then choose.")
    return {
        "collection": make_collection(root / "hills"),
        "run": run,
        "study": root / "study",
    }


def _plan(run: RunDir, steps: dict[str, dict[str, Any]]) -> dict[str, StepDir]:
    entries = [
        StepEntry(
            name, config["stage"], name.ljust(64, "0"), run.step_path(name, name.ljust(64, "0"))
        )
        for name, config in steps.items()
    ]
    run.save_plan(entries)
    named = [{"name": name, **config} for name, config in steps.items()]
    run.save_recipe(yaml.safe_dump({"about": "made by a test", "steps": named}, sort_keys=False))
    return {step.name: step for step in run.steps()}


def _finish(step: StepDir, counts: dict[str, int], outputs: dict[str, str]) -> Artefact | None:
    step.path.mkdir(parents=True, exist_ok=True)
    step.event("done")
    step.finish(
        Manifest(stage=step.stage, key=step.key, outputs=outputs, counts=counts, results={})
    )
    return None


def many_samples(folder: Path, count: int) -> Path:
    """A sample set of very many rows that share a few pictures."""
    for number in range(8):
        save_scene(folder / f"images/{number}.png", number, 64)
    head = '{"model": "many", "sample_index": 0, "settings": "s", "seed": 1, '
    lines = (
        f'{head}"prompt_id": "p{n:06}", "prompt": "prompt {n}", "file": "images/{n % 8}.png"}}\n'
        for n in range(count)
    )
    (folder / "samples.jsonl").write_text("".join(lines))
    return folder


def many_pictures(folder: Path, count: int) -> Path:
    """A collection of very many rows that share a few pictures, with a column of numbers."""
    import pyarrow as pa

    from tastemaker.store.base_table import PART_ROWS
    from tastemaker.store.catalogue import Catalogue, ColumnKey
    from tastemaker.store.catalogue_rows import base_schema

    for number in range(8):
        save_scene(folder / f"files/{number}.png", number, 64)
    repeated = {"source": "folder:x", "h": 64, "w": 64, "format": "PNG", "mode": "RGB",
                "frames": 1, "tags": [], "attributes": [], "status": "ok", "error": None,
                "bytes": 1, "modified_ns": 1}  # fmt: skip
    values = {
        "id": [f"{number:064x}" for number in range(count)],
        "path": [f"files/{number % 8}.png" for number in range(count)],
        "key": [f"{number:06}.png" for number in range(count)],
        "captions": [[f"hills number {number}"] for number in range(count)],
        **{name: [value] * count for name, value in repeated.items()},
    }
    schema = base_schema()
    catalogue = Catalogue(folder)
    catalogue.append_table(pa.table({name: values[name] for name in schema.names}, schema=schema))
    catalogue.close_base()
    key, fields, start = ColumnKey("rated", 1), {"score": "float32"}, 0
    score = pa.array(np.random.default_rng(0).random(count), pa.float32())
    for part in catalogue.parts():
        ids = pa.array(values["id"][start : start + PART_ROWS])
        own = pa.table({"id": ids, "score": score.slice(start, len(ids))})
        catalogue.write_table(key, part, own, fields)
        start += PART_ROWS
    catalogue.finish_column(key, fields)
    return folder
