"""The pages of runs: steps, curves and samples as they come, and what happened."""

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response

from tastemaker.errors import TastemakerError
from tastemaker.store import jsonl
from tastemaker.store.rundir import RunDir
from tastemaker.store.samples import SAMPLES
from tastemaker.web.gallery_rows import sample_columns
from tastemaker.web.library import Library, Step, Thing, steps_of
from tastemaker.web.pages import Pages
from tastemaker.web.thumbs import Thumbnails

MOST_POINTS = 600
"""Of one curve (ours): more than a chart has pixels for."""

MOST_EVENTS = 80
MOST_SAMPLES = 48
_QUIET_SECONDS = 120.0


def live_routes(library: Library, pages: Pages, thumbs: Thumbnails) -> APIRouter:
    """The routes below `/runs` and `/run/ID`."""
    router = APIRouter()

    def run_of(id_: str) -> Thing:
        thing = library.find(id_, "run")
        if thing is None:
            raise HTTPException(404, "There is no such run.")
        return thing

    @router.get("/runs")
    def runs() -> Response:
        lines = [{"thing": thing, **_summary(thing.path)} for thing in library.all("run")]
        lines.sort(key=lambda line: -(line["last"] or 0))
        return pages.page("runs.html.j2", runs=lines)

    @router.get("/run/{id_}")
    def page(id_: str) -> Response:
        thing = run_of(id_)
        return pages.page("run.html.j2", settings={"base": f"/run/{id_}"}, thing=thing)

    @router.get("/run/{id_}/state")
    def state(id_: str) -> dict[str, Any]:
        thing = run_of(id_)
        steps = steps_of(thing.path)
        return {
            **_summary(thing.path),
            "steps": [_step(step) for step in steps],
            "curves": [curve for step in steps for curve in curves_of(step)],
            "events": _events(thing.path)[-MOST_EVENTS:][::-1],
            "samples": [_samples(number, step) for number, step in enumerate(steps)
                        if (step.path / "samples" / SAMPLES).exists()],
        }  # fmt: skip

    @router.get("/run/{id_}/t/{step}/{number}")
    def sample(id_: str, step: int, number: int) -> Response:
        steps = steps_of(run_of(id_).path)
        if not 0 <= step < len(steps):
            raise HTTPException(404, "no such step")
        folder = steps[step].path / "samples"
        files = sample_columns(folder / SAMPLES)["file"]
        if not 0 <= number < len(files):
            raise HTTPException(404, "no such picture")
        return thumbs.answer(folder / files[number])

    return router


def curves_of(step: Step) -> list[dict[str, Any]]:
    """The curves of a step's `metrics.jsonl`: name, images seen, values; thinned out evenly."""
    try:
        rows = list(jsonl.read(step.path / "log" / "metrics.jsonl"))
    except TastemakerError:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row if name != "images"))
    curves = []
    for name in names:
        points = [(row.get("images"), row[name]) for row in rows if name in row]
        points = [p for p in points if all(isinstance(part, int | float) for part in p)]
        if not points:
            continue
        if len(points) > MOST_POINTS:
            stride = (len(points) - 1) / (MOST_POINTS - 1)
            points = [points[round(i * stride)] for i in range(MOST_POINTS)]
        x, y = zip(*points, strict=True)
        curves.append({"step": step.name, "name": name, "x": x, "y": y})
    return curves


def _step(step: Step) -> dict[str, Any]:
    counts = dict(step.manifest.counts) if step.manifest else {}
    is_begun = step.path.exists()
    status = "done" if step.manifest else "under way" if is_begun else "to come"
    return {"name": step.name, "stage": step.stage, "status": status, "counts": counts}


def _samples(number: int, step: Step) -> dict[str, Any]:
    prompts = sample_columns(step.path / "samples" / SAMPLES)["prompt"]
    first = max(0, len(prompts) - MOST_SAMPLES)
    latest = [
        {"number": first + place, "prompt": prompt} for place, prompt in enumerate(prompts[first:])
    ]
    return {"step": number, "name": step.name, "count": len(prompts), "latest": latest[::-1]}


def _events(run: Path) -> list[dict[str, Any]]:
    try:
        return list(RunDir(run).events())
    except TastemakerError:
        return []


def _summary(run: Path) -> dict[str, Any]:
    steps = steps_of(run)
    events = run / "events.jsonl"
    last = events.stat().st_mtime if events.exists() else None
    done = sum(step.manifest is not None for step in steps)
    is_busy = done < len(steps) and last is not None and time.time() - last < _QUIET_SECONDS
    status = "done" if steps and done == len(steps) else "under way" if is_busy else "stopped"
    return {"status": status, "done": done, "of": len(steps), "last": last}
