"""Several runs on one page: what differs between them, and what came of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.errors import TastemakerError
from tastemaker.report import words
from tastemaker.report.cards import Card, Shown
from tastemaker.report.comparison import Comparison, comparisons
from tastemaker.report.costs import cost_figures
from tastemaker.report.page import PAGE, main_comparison
from tastemaker.report.panel import Curve, Panel
from tastemaker.report.pictures import embedded
from tastemaker.report.plots import panel_svg, training_panels
from tastemaker.report.read import RunFacts, read_run
from tastemaker.report.svg import SERIES, Chart
from tastemaker.report.templates import rendered
from tastemaker.report.trainings import FITS, log_rows
from tastemaker.scorers.figures import Measured, Scored, figure_line, measured
from tastemaker.scorers.protocol import Origin
from tastemaker.store.atomic import write_text
from tastemaker.store.scores import read_scores

COMPARED = "compared.html"

_CARDS, _CARD_PX, _MOST_RUNS = 12, 240, 6


@dataclass(frozen=True)
class Entry:
    """One run as the page calls it, with its main evaluation."""

    name: str
    run: RunFacts
    main: Comparison | None


@dataclass(frozen=True)
class Cell:
    """One run's figure of one score, and how far it is from the first run's."""

    value: str
    interval: str
    difference: str
    difference_interval: str
    direction: str


@dataclass(frozen=True)
class Line:
    """One score of all runs; a run without it, or with another version of it, has None."""

    title: str
    meaning: str
    cells: tuple[Cell | None, ...]


def write_runs_page(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page that compares runs.

    Args:
        paths: run folders, at least two; the first one is what the others are compared with.
        out: the page; by default `compared.html` in the first run's folder.

    Returns:
        The path of the page.

    Raises:
        StorageError: it cannot be written.
    """
    out = out or Path(paths[0]) / COMPARED
    entries = _entries(paths)
    problems, comparable = _comparable(entries)
    context = {
        "entries": entries,
        "rows": [_run_row(entry, out) for entry in entries],
        "lines": _lines(comparable),
        "compared": [entry.name for entry in comparable],
        "problems": problems,
        "cards": _cards(comparable),
        "charts": _charts(entries),
        "changes": _changes(entries),
        "costs": _costs(entries),
    }
    write_text(out, rendered("runs.html.j2", ["page.css"], **context))
    return out


def _entries(paths: Sequence[Path]) -> list[Entry]:
    """Runs under their folder's name, longer where two have the same."""
    whole = [Path(path).resolve() for path in paths]
    names = [path.name for path in whole]
    twice = {name for name in names if names.count(name) > 1}
    found = []
    for path, name in zip(whole, names, strict=True):
        run = read_run(path)
        told = f"{path.parent.name}/{name}" if name in twice else name
        found.append(Entry(told, run, main_comparison(comparisons(run))))
    return found


def _run_row(entry: Entry, out: Path) -> dict[str, str]:
    """What the table of runs says of one."""
    facts, main = entry.run.facts, entry.main
    verdict = words.verdict(main.summary, main.focus) if main else None
    page = entry.run.path / PAGE
    address = os.path.relpath(page, out.resolve().parent) if page.exists() else ""
    return {
        "name": entry.name,
        "address": Path(address).as_posix() if address else "",
        "recipe": str(facts.get("recipe", "")),
        "hash": str(facts.get("recipe_hash", ""))[:12],
        "started": str(facts.get("started", ""))[:10],
        "headline": verdict.headline if verdict else "Nothing was compared.",
        "sentence": verdict.sentence if verdict else "",
        "tone": verdict.tone if verdict else "unclear",
    }


def _comparable(entries: Sequence[Entry]) -> tuple[list[str], list[Entry]]:
    """Why some runs cannot be compared prompt by prompt, and those that can."""
    first = next((entry for entry in entries if entry.main), None)
    if first is None or first.main is None:
        return ["No run has evaluated pictures."], []
    seeds = _seeds(first.main)
    problems, found = [], []
    for entry in entries:
        main = entry.main
        if main is None:
            problems.append(f"{entry.name} has evaluated no pictures.")
        elif _set_hash(main) != _set_hash(first.main):
            problems.append(f"{entry.name} has another prompt set than {first.name}.")
        elif _seeds(main) != seeds:
            problems.append(f"{entry.name} has other noise or other prompts than {first.name}.")
        else:
            found.append(entry)
    return problems, found if len(found) > 1 else []


def _set_hash(main: Comparison) -> object:
    return main.summary.get("prompt_set", {}).get("hash")


def _seeds(main: Comparison) -> dict[str, int | None]:
    return {row.prompt_id: row.seeds.get(main.focus) for row in main.rows}


def _lines(entries: Sequence[Entry]) -> list[Line]:
    """Scores that at least two runs have, each run's against the first one's."""
    if not entries:
        return []
    values = [_figures(entry) for entry in entries]
    lines = []
    for name, (line, own) in values[0].items():
        level = line["models"][_main(entries[0]).focus]["level"]
        found = [other.get(name) for other in values]
        same = [f if f and _origin(f[0]) == _origin(line) else None for f in found]
        if sum(f is not None for f in same) < 2:
            continue
        cells = [
            None if f is None else _cell(f[1], own, level, is_first=f is same[0]) for f in same
        ]
        label = words.label(line, _main(entries[0]).summary["style"])
        lines.append(Line(label.title, label.meaning, tuple(cells)))
    return lines


def _cell(one: Measured, first: Measured, level: float, *, is_first: bool) -> Cell:
    unit, mean = one.figure.unit, one.mean("run", level)
    shown = {"low": mean.low, "high": mean.high}
    value, interval = words.value(mean.estimate, unit), words.interval(shown, unit)
    if is_first:
        return Cell(value, interval, "", "", "same")
    both = replace(one, sides={"first": first.sides["run"], "run": one.sides["run"]})
    try:
        line = figure_line(both, "first", level=level)
    except ValueError:
        # One of the two has no opinion on some prompts: their means stand beside each other only.
        return Cell(value, interval, "", "", "same")
    change = line["against"]["run"]["difference"]
    return Cell(
        value,
        interval,
        words.value(change["estimate"], unit, signed=True),
        words.interval(change, unit, signed=True),
        words.moved(line, "run"),
    )


def _figures(entry: Entry) -> dict[str, tuple[Mapping[str, Any], Measured]]:
    """Name of a score -> its line and the values of the side in focus, as side `run`."""
    main = _main(entry)
    try:
        rows = read_scores(main.step.path / "scores" / "scores.parquet")
    except (OSError, ValueError, TastemakerError):
        return {}
    lines = {line["name"]: line for line in main.summary["scores"]}
    found = {}
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        own = [row for row in rows if row["scorer"] == scorer and row["model"] == main.focus]
        line = next((one for one in lines.values() if one["scorer"] == scorer), None)
        if line is None or not own:
            continue
        origin = Origin(
            scorer,
            line["version"],
            line["backbone"],
            line["preprocessing"],
            own[0]["unit"],
            line["higher_is_better"],
        )
        values = np.array([np.nan if row["value"] is None else row["value"] for row in own])
        ids = {"run": [row["prompt_id"] for row in own]}
        for one in measured(Scored(origin, {"run": values}), ids, line["about"]):
            if one.figure.name in lines:
                found[one.figure.name] = (lines[one.figure.name], one)
    return found


def _origin(line: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(line[key] for key in ("scorer", "version", "backbone", "preprocessing", "unit"))


def _cards(entries: Sequence[Entry]) -> list[Card]:
    """What the runs made of the same prompts, by lot; first of all the first run's reference."""
    if not entries:
        return []
    start = _main(entries[0])
    rows = [{row.prompt_id: row for row in _main(e).rows} for e in entries[:_MOST_RUNS]]
    found = []
    for row in start.by_lot(_CARDS):
        pictures = []
        if start.reference is not None:
            address = embedded(row.pictures.get(start.reference), _CARD_PX)
            pictures.append(Shown(f"{start.reference} of {entries[0].name}", address, None))
        for entry, own in zip(entries, rows, strict=False):
            other = own.get(row.prompt_id)
            file = other.pictures.get(_main(entry).focus) if other else None
            pictures.append(Shown(entry.name, embedded(file, _CARD_PX), None))
        found.append(Card(row.text, tuple(pictures)))
    return found


def _charts(entries: Sequence[Entry]) -> list[Chart]:
    """Curves on fixed grids, one line a run."""
    gathered: dict[str, list[Curve]] = {}
    for entry in entries[: len(SERIES)]:
        for step in entry.run.of_stage(*FITS)[-1:]:
            for panel in training_panels(log_rows(step)):
                for curve in panel.curves:
                    title = f"{panel.title}: {curve.label}" if curve.label else panel.title
                    gathered.setdefault(title, []).append(replace(curve, label=entry.name))
    return [
        Chart(title, "", panel_svg(Panel(title, "", tuple(curves)), f"r{number}"))
        for number, (title, curves) in enumerate(gathered.items())
        if len(curves) > 1 and "gradient" not in title
    ]


def _changes(entries: Sequence[Entry]) -> list[tuple[str, tuple[str, ...]]]:
    """Values of the resolved recipes that are not the same in all runs; long ones are cut."""
    steps = [{step.name: step for step in entry.run.steps} for entry in entries]
    every = list(dict.fromkeys(name for own in steps for name in own))
    common = [name for name in every if all(name in own for own in steps)]
    rows = [
        (name, tuple(own[name].stage if name in own else "–" for own in steps))
        for name in every
        if name not in common
    ]
    flat: list[dict[str, str]] = []
    for entry, own in zip(entries, steps, strict=True):
        values = {"seed": str(entry.run.facts.get("seed", ""))}
        for name in common:
            values |= _flat(name, {k: v for k, v in own[name].config.items() if k != "name"})
        flat.append(values)
    names = dict.fromkeys(name for values in flat for name in values)
    for name in names:
        if len({values.get(name) for values in flat}) > 1:
            rows.append((name, tuple(_cut(values.get(name, "–")) for values in flat)))
    return rows


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _flat(prefix: str, value: object) -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        parts: dict[str, str] = {}
        for key, part in value.items():
            parts |= _flat(f"{prefix}.{key}", part)
        return parts
    return {prefix: str(value)}


def _costs(entries: Sequence[Entry]) -> list[tuple[str, tuple[str, ...]]]:
    """One line a figure, one column a run."""
    tables = [dict(cost_figures(entry.run)) for entry in entries]
    names = dict.fromkeys(name for table in tables for name in table)
    return [(name, tuple(table.get(name, "–") for table in tables)) for name in names]


def _main(entry: Entry) -> Comparison:
    assert entry.main is not None
    return entry.main
