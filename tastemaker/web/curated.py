"""Curations of a collection: their verdicts, and what another limit would keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.curation.facts import Facts
from tastemaker.curation.judgement import FindCopies, Rule
from tastemaker.curation.rules import Readable, needed_columns
from tastemaker.curation.what_if import Sweep, survivors_along
from tastemaker.errors import InputError, TastemakerError
from tastemaker.recipe.values import build_config
from tastemaker.records.run import Artefact
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.column_files import read_manifest
from tastemaker.store.facts import FilledColumn, known_addresses, read_facts
from tastemaker.web.library import Library, Step, Thing

POINTS = 41
"""Limits that a slider can stand at (ours)."""


@dataclass(frozen=True)
class Curation:
    """A finished curate step of a collection.

    Attributes:
        name: run and step, for people.
        run: the run's folder.
        step: the step.
        verdicts: its `verdicts.parquet`.
    """

    name: str
    run: Path
    step: Step
    verdicts: Path


def curations_of(collection: Path, library: Library) -> list[Curation]:
    """The curations of a collection under the studio's folder, the newest first."""
    found = []
    for run in library.all("run"):
        for step in library.steps(run.path):
            verdicts = step.path / "verdicts.parquet"
            if step.stage != "curate" or step.manifest is None or not verdicts.exists():
                continue
            place = _collection_of(run, step, library)
            if place is not None and place.resolve() == collection.resolve():
                found.append(Curation(f"{run.name}: {step.name}", run.path, step, verdicts))
    return sorted(found, key=lambda one: -one.verdicts.stat().st_mtime)


def addresses_of(collection: Path) -> list[str]:
    """Addresses of all columns of numbers that a limit can be set for."""
    catalogue = Catalogue(collection)
    fields = {name: column.fields for name, column in _finished(catalogue).items()}
    known = known_addresses(catalogue, fields)
    return sorted(
        name for name, kind in known.items() if kind == "number" and ".cluster" not in name
    )


def swept(
    collection: Path, curation: Curation | None, address: str, library: Library
) -> dict[str, Any]:
    """What every limit of a column would keep, with all other rules as they are.

    Args:
        collection: its folder.
        curation: whose rules; None: readable pictures only.
        address: the column, as in rules.
        library: where the curation's inputs are found.

    Raises:
        InputError: the column is not known, or the curation's inputs are gone.
    """
    catalogue = Catalogue(collection)
    finished = _finished(catalogue)
    rules, flags, find = _rules(collection, curation, library)
    if address not in addresses_of(collection):
        raise InputError("column", repr(address), "a column of numbers", "Choose one of the list.")
    facts = read_facts(catalogue, finished, [*needed_columns(rules), address], flags)
    values = facts.numbers(address)
    values = values[np.isfinite(values)]
    if len(values) == 0 or values.min() == values.max():
        raise InputError("column", f"{address}, which is the same everywhere or unknown",
                         "a column with different values", "Choose another one.")  # fmt: skip
    sweep = Sweep(address, float(values.min()), float(values.max()), POINTS)
    found = survivors_along(facts, rules, sweep, find(facts) if find else None)
    heights, edges = np.histogram(values, bins=POINTS - 1)
    return {
        "column": address,
        "side": found.side,
        "today": found.today,
        "added": found.added,
        "count": found.count,
        "now": found.now,
        "points": [
            {"limit": p.threshold, "kept": p.kept, "gained": p.gained, "lost": p.lost}
            for p in found.points
        ],
        "histogram": {"heights": heights.tolist(), "edges": edges.tolist()},
    }


def _collection_of(run: Thing, step: Step, library: Library) -> Path | None:
    told = step.manifest.results.get("collection") if step.manifest else None
    if isinstance(told, str) and (step.path / told).is_dir():
        return step.path / told
    return library.output_named(run.path, step.config.get("collection"), "collection")


def _finished(catalogue: Catalogue) -> dict[str, FilledColumn]:
    """Name -> the finished column that queries see: the highest version, the last one made."""
    best: dict[str, tuple[tuple[int, int], FilledColumn]] = {}
    for path in (catalogue.path / "catalog" / "col").glob("*/manifest.json"):
        told = read_manifest(path)
        if "fields" not in told:
            continue
        key = ColumnKey(told["op"], told["version"], told.get("params", {}))
        rank = (told["version"], path.stat().st_mtime_ns)
        if key.op not in best or rank > best[key.op][0]:
            best[key.op] = (rank, FilledColumn(key, told["fields"]))
    return {name: column for name, (_, column) in best.items()}


def _rules(
    collection: Path, curation: Curation | None, library: Library
) -> tuple[tuple[Rule, ...], Mapping[str, Any], Any]:
    """The rules of a curation, the flags that they ask for, and what finds duplicates."""
    if curation is None:
        return (Readable(),), {}, None
    from tastemaker.stages import curate

    given = curation.step.config
    values = {key: value for key, value in given.items() if key in curate.Config.model_fields}
    config, problems = build_config(curate.Config, values, lambda path: ".".join(map(str, path)))
    if config is None:
        raise problems[0]
    inputs = {"collection": Artefact("collection", collection, "")}
    for name, kind in (("within", "selection"), ("marks", "marks")):
        if given.get(name) is not None:
            place = library.output_named(curation.run, given[name], kind)
            if place is None:
                told = f"'{given[name]}', which is gone"
                raise InputError(name, told, f"{kind} that is there", "Curate again.")
            inputs[name] = Artefact(kind, place, "")
    bench, _ = curate.open_bench(config, inputs)

    def find(facts: Facts) -> FindCopies:
        return bench.find_copies(facts)

    return tuple(bench.rules), bench.flags, find


def readable(problem: TastemakerError) -> str:
    """What to tell a person."""
    return f"{problem.got}. {problem.todo}" if isinstance(problem, InputError) else str(problem)
