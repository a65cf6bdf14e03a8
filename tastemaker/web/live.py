"""The pages of runs: steps, curves and samples as they come, and what happened."""

import time
from collections.abc import Sequence
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import APIRouter, HTTPException, Response

from tastemaker.store import jsonl
from tastemaker.store.samples import SAMPLES
from tastemaker.web.library import Library, Step, Thing, stamp_of
from tastemaker.web.pages import Pages
from tastemaker.web.sample_lines import SampleLines, left_out, read_sample_lines
from tastemaker.web.thumbs import Thumbnails

MOST_POINTS = 600
"""Of one curve (ours): more than a chart has pixels for."""

MOST_EVENTS = 80
MOST_SAMPLES = 48
_QUIET_SECONDS = 120.0


def live_routes(library: Library, pages: Pages, thumbs: Thumbnails) -> APIRouter:
    """The routes below `/runs` and `/run/ID`."""
    router = APIRouter()
    sets = _Sets()

    def run_of(id_: str) -> Thing:
        thing = library.find(id_, "run")
        if thing is None:
            raise HTTPException(404, "There is no such run.")
        return thing

    @router.get("/runs")
    def runs() -> Response:
        lines = [
            {"thing": t, **summary_of(t.path, library.steps(t.path))} for t in library.all("run")
        ]
        lines.sort(key=lambda line: -(line["last"] or 0))
        return pages.page("runs.html.j2", runs=lines)

    @router.get("/run/{id_}")
    def page(id_: str) -> Response:
        thing = run_of(id_)
        return pages.page("run.html.j2", settings={"base": f"/run/{id_}"}, thing=thing)

    @router.get("/run/{id_}/state")
    def state(id_: str, known: str = "") -> dict[str, Any]:
        thing = run_of(id_)
        steps = library.steps(thing.path)
        summary = summary_of(thing.path, steps)
        # A page asks every few seconds; where nothing was written there is nothing to tell.
        stamp = _stamp(thing.path, steps, summary["status"])
        if stamp == known:
            return {"stamp": stamp}
        problems: list[str] = []
        return {
            **summary,
            "stamp": stamp,
            "steps": [_step(step) for step in steps],
            "curves": [curve for step in steps for curve in curves_of(step, problems)],
            "events": _events(thing.path, problems)[-MOST_EVENTS:][::-1],
            "samples": [_samples(step, sets, problems) for step in steps
                        if (step.path / "samples" / SAMPLES).exists()],
            "problems": problems,
        }  # fmt: skip

    @router.get("/run/{id_}/t/{key}/{number}")
    def sample(id_: str, key: str, number: int) -> Response:
        steps = {_key(step): step for step in library.steps(run_of(id_).path)}
        if key not in steps:
            raise HTTPException(404, "no such step")
        folder = steps[key].path / "samples"
        files = sets.of(folder / SAMPLES).columns["file"]
        if not 0 <= number < len(files) or not library.holds(folder / files[number]):
            raise HTTPException(404, "no such picture")
        return thumbs.answer(folder / files[number])

    return router


class _Sets:
    """The sample sets that pages look at, read anew when they have changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, SampleLines]] = {}
        self._lock = Lock()

    def of(self, path: Path) -> SampleLines:
        with self._lock:
            stamp = stamp_of(path)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = self._known[path] = (stamp, read_sample_lines(path))
            return known[1]


def curves_of(step: Step, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """The curves of a step's `metrics.jsonl`: name, images seen, values; thinned out evenly."""
    file, damaged = step.path / "log" / "metrics.jsonl", []
    rows = [row for _, row in jsonl.numbered(file, damaged)]
    _tell(problems, step.name, left_out(file, damaged))
    found: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        x = row.get("images")
        for name, y in row.items():
            if name != "images" and _is_number(x) and _is_number(y):
                found.setdefault(name, []).append((x, y))
    curves = []
    for name, points in found.items():
        if len(points) > MOST_POINTS:
            stride = (len(points) - 1) / (MOST_POINTS - 1)
            points = [points[round(i * stride)] for i in range(MOST_POINTS)]
        x, y = zip(*points, strict=True)
        curves.append({"step": step.name, "name": name, "x": x, "y": y})
    return curves


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _tell(problems: list[str] | None, name: str, problem: str) -> None:
    if problem and problems is not None:
        problems.append(f"{name}: {problem}" if name else problem)


def _key(step: Step) -> str:
    """What an address calls a step: other content, another address, so that none is out of date."""
    return blake2b(step.path.as_posix().encode(errors="surrogateescape"), digest_size=6).hexdigest()


def _stamp(run: Path, steps: Sequence[Step], status: str) -> str:
    files = [run / "events.jsonl", run / "steps.json"]
    for step in steps:
        files += [step.path / "log" / "metrics.jsonl", step.path / "samples" / SAMPLES]
        files += [step.path / "manifest.json"]
    told = repr((status, [stamp_of(file) for file in files]))
    return blake2b(told.encode(), digest_size=8).hexdigest()


def _step(step: Step) -> dict[str, Any]:
    counts = dict(step.manifest.counts) if step.manifest else {}
    is_begun = step.path.exists()
    status = "done" if step.manifest else "under way" if is_begun else "to come"
    return {"name": step.name, "stage": step.stage, "status": status, "counts": counts}


def _samples(step: Step, sets: _Sets, problems: list[str]) -> dict[str, Any]:
    lines = sets.of(step.path / "samples" / SAMPLES)
    _tell(problems, step.name, lines.problem)
    prompts = lines.columns["prompt"]
    first = max(0, len(prompts) - MOST_SAMPLES)
    latest = [
        {"number": first + place, "prompt": prompt or ""}
        for place, prompt in enumerate(prompts[first:])
    ]
    return {"key": _key(step), "name": step.name, "count": len(prompts), "latest": latest[::-1]}


def _events(run: Path, problems: list[str]) -> list[dict[str, Any]]:
    file, damaged = run / "events.jsonl", []
    events = [event for _, event in jsonl.numbered(file, damaged)]
    _tell(problems, "", left_out(file, damaged))
    return events


def summary_of(run: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """Whether a run goes on, how many of its steps are done, and when it last wrote something."""
    events = run / "events.jsonl"
    last = events.stat().st_mtime if events.exists() else None
    done = sum(step.manifest is not None for step in steps)
    is_busy = done < len(steps) and last is not None and time.time() - last < _QUIET_SECONDS
    status = "done" if steps and done == len(steps) else "under way" if is_busy else "stopped"
    return {"status": status, "done": done, "of": len(steps), "last": last}
