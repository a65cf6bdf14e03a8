"""Fill columns of a collection: a picture is decoded once for all operations of a pass.

Every finished shard is written at once, so a killed pass loses at most the shards in flight, and
the next one goes on with the rows that have no value yet.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tastemaker.engine.column_work import PASSING, Opener, Task
from tastemaker.engine.config import Engine
from tastemaker.engine.progress import Progress
from tastemaker.engine.rows import Outcome, RowQuarantined, run_rows
from tastemaker.errors import InputError
from tastemaker.models.locate import locate
from tastemaker.records.image import ImageRecord
from tastemaker.scorers.operation import Operation, Values
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.hashing import hash_json, hash_model
from tastemaker.store.rundir import StepDir

SHARD_ROWS = 256
"""Pictures of a shard (ours): what a worker works on, and what a kill can cost."""


@dataclass(frozen=True)
class Column:
    """An operation with the models that it needs, and the column that it fills.

    Attributes:
        operation: what is measured.
        places: field of the operation -> where that model lies.
        hashes: field of the operation -> hash of that model.
        key: the column; it changes with whatever changes a value.
    """

    operation: Operation
    places: Mapping[str, Path]
    hashes: Mapping[str, str]
    key: ColumnKey


def resolve(operations: Sequence[Operation]) -> list[Column]:
    """Find the models of operations and the columns that they fill, in an order that can be done.

    Raises:
        InputError: two operations fill one column, or one reads a column that none fills.
        MissingModel: a model is nowhere.
    """
    done: dict[str, Column] = {}
    for operation in _in_order(operations):
        places = find_models(operation)
        hashes = {name: hash_model(place) for name, place in places.items()}
        params = operation.params(places, hashes)
        read = {name: done[name] for name in operation.reads}
        if read:
            params["reads"] = {name: column.key.folder for name, column in read.items()}
        for other in read.values():
            _check_same_model(operation, hashes, other)
        key = ColumnKey(operation.column, operation.VERSION, params)
        done[operation.column] = Column(operation, places, hashes, key)
    return list(done.values())


def find_models(operation: Operation) -> dict[str, Path]:
    """Field of an operation -> where the model that it names lies.

    Raises:
        MissingModel: it is nowhere.
    """
    return {
        name: locate(str(reference), kind)  # type: ignore[arg-type]
        for name, kind in operation.MODELS.items()
        if (reference := getattr(operation, name)) is not None
    }


def fill_columns(
    catalogue: Catalogue,
    columns: Sequence[Column],
    step: StepDir,
    *,
    engine: Engine,
    wanted: Collection[str] | None = None,
    again: bool = False,
    label: str = "",
) -> Counter[str]:
    """Measure whatever these columns lack of the wanted pictures, and write it.

    Args:
        catalogue: the collection.
        columns: what `resolve` gave.
        step: for progress and events.
        engine: where the work is done; the result does not depend on it.
        wanted: ids; None means all pictures that can be read.
        again: whether rows that hold an error are measured again.
        label: what the progress is called.

    Returns:
        Counts of what was done: `measured COLUMN`, and `COLUMN: ERROR` by kind of error.

    Raises:
        InputError: an operation cannot work at all (a wrong model, no access to an endpoint).
    """
    wanted = None if wanted is None else frozenset(wanted)
    lacking = _Lacking(catalogue, columns, wanted, again)
    counts: Counter[str] = Counter()
    total, needed = lacking.count()
    if total:
        opener = Opener(tuple((n, columns[n].operation, columns[n].places) for n in needed))
        if any(columns[number].places for number in needed):
            engine = engine.for_models()
        name = label or step.name
        with Progress(step, total, "pictures", name, in_portions=True) as progress:
            # Parts are looked at as they are needed: a million tasks do not fit well in memory.
            sent: dict[int, tuple[str, list[Task]]] = {}
            shards = lacking.shards(sent)
            # In any order: where a shard's values go does not depend on it.
            with closing(run_rows(opener, shards, engine, ordered=False)) as results:
                for result in results:
                    part, shard = sent.pop(result.index)
                    _tell_quarantined(step, shard, result.outcomes)
                    found = _values_of(shard, result.outcomes)
                    for number in needed:
                        counts += _write(catalogue, columns[number], part, shard, found, number)
                    progress.advance(len(shard))
    for column in columns:
        catalogue.finish_column(column.key, column.operation.FIELDS)
    return counts


def _write(
    catalogue: Catalogue,
    column: Column,
    part: str,
    shard: Sequence[Task],
    found: Sequence[Mapping[int, Values]],
    number: int,
) -> Counter[str]:
    """Write one column's values of a shard; gives their number, and errors by kind."""
    needs_words = column.operation.needs_words
    rows = {
        task.id: {**values[number], **({"words_hash": _words(task)} if needs_words else {})}
        for task, values in zip(shard, found, strict=True)
        if number in values
    }
    if not rows:
        return Counter()
    lasting = {id_: values for id_, values in rows.items() if not _may_pass(values.get("error"))}
    if lasting:
        catalogue.write_rows(column.key, part, lasting, column.operation.FIELDS)
    name = column.operation.column
    errors = [str(values["error"]) for values in rows.values() if "error" in values]
    counts = Counter(f"{name}: {error.split(' (')[0]}" for error in errors)
    counts[f"measured {name}"] = len(rows) - len(errors)
    return counts


def _may_pass(error: str | None) -> bool:
    """Whether it may be gone the next time: then nothing is kept, and the picture tried again."""
    return (error or "").startswith(PASSING)


def _tell_quarantined(
    step: StepDir, shard: Sequence[Task], outcomes: Sequence[Outcome[Any]]
) -> None:
    for task, outcome in zip(shard, outcomes, strict=True):
        if isinstance(outcome.error, RowQuarantined):
            step.event("quarantined", picture=task.id, path=task.path, error=str(outcome.error))


def pictures_to_do(
    catalogue: Catalogue, columns: Sequence[Column], wanted: Collection[str] | None = None
) -> dict[str, int]:
    """Column -> how many wanted pictures it has no value of."""
    wanted = None if wanted is None else frozenset(wanted)
    lacking = _Lacking(catalogue, columns, wanted, again=False)
    counts = dict.fromkeys((column.operation.column for column in columns), 0)
    for part in catalogue.parts():
        for column, ids in zip(columns, lacking.of_part(part), strict=True):
            counts[column.operation.column] += len(ids)
    return counts


@dataclass(frozen=True)
class _Lacking:
    """What columns lack of the wanted pictures, part by part."""

    catalogue: Catalogue
    columns: Sequence[Column]
    wanted: frozenset[str] | None
    again: bool

    def count(self) -> tuple[int, list[int]]:
        """How many pictures lack something, and the numbers of the operations concerned."""
        total, needed = 0, set()
        for part in self.catalogue.parts():
            missing = self.of_part(part)
            total += len(frozenset().union(*missing))
            needed |= {number for number, ids in enumerate(missing) if ids}
        return total, sorted(needed)

    def shards(self, sent: dict[int, tuple[str, list[Task]]]) -> Iterator[list[Task]]:
        """Shards in order; each is noted with its part in `sent`, by its number."""
        number = 0
        for part in self.catalogue.parts():
            tasks = self._tasks(part)
            while shard := list(islice(tasks, SHARD_ROWS)):
                sent[number] = (part, shard)
                number += 1
                yield shard

    def of_part(self, part: str) -> list[frozenset[str]]:
        """Ids that each column lacks of one part."""
        ids = None
        if self.wanted is not None:
            ids = [id_ for id_ in self.catalogue.ids(part) if id_ in self.wanted]
        words = None
        if any(column.operation.needs_words for column in self.columns):
            words = {row.record.id: _words(row.record) for row in self.catalogue.rows(part)}
        return [
            frozenset(
                self.catalogue.missing_rows(
                    column.key,
                    part,
                    ids,
                    errors_too=self.again,
                    words=words if column.operation.needs_words else None,
                )
            )
            for column in self.columns
        ]

    def _tasks(self, part: str) -> Iterator[Task]:
        missing = self.of_part(part)
        if not any(missing):
            return
        known = _known(self.catalogue, part, self.columns, missing)
        for row in self.catalogue.rows(part):
            numbers = tuple(n for n, ids in enumerate(missing) if row.record.id in ids)
            if numbers:
                yield _task(self.catalogue, row.record, known, numbers)


def _words(about: ImageRecord | Task) -> str:
    """What a picture's captions and tags are, as 16 hex digits."""
    return hash_json([list(about.captions), list(about.tags)])[:16]


def _task(
    catalogue: Catalogue,
    record: ImageRecord,
    known: Mapping[str, Mapping[str, Mapping[str, Any]]],
    numbers: tuple[int, ...],
) -> Task:
    values = {name: rows[record.id] for name, rows in known.items() if record.id in rows}
    path = str(catalogue.picture_path(record))
    return Task(record.id, path, record.captions, record.tags, values, numbers)


def _known(
    catalogue: Catalogue,
    part: str,
    columns: Sequence[Column],
    missing: Sequence[frozenset[str]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Values that are there already and that an operation with work to do reads."""
    read = {
        name
        for column, ids in zip(columns, missing, strict=True)
        if ids
        for name in column.operation.reads
    }
    return {
        column.operation.column: {
            id_: {name: values[name] for name in column.operation.FIELDS}
            for id_, values in catalogue.column_part(column.key, part).items()
            if values["status"] == "ok"
        }
        for column in columns
        if column.operation.column in read
    }


def _values_of(shard: Sequence[Task], outcomes: Sequence[Outcome[Any]]) -> list[dict[int, Values]]:
    found = []
    for task, outcome in zip(shard, outcomes, strict=True):
        if outcome.error is not None:
            found.append({number: {"error": _said(outcome.error)} for number in task.todo})
        elif isinstance(outcome.value, InputError):
            raise outcome.value
        else:
            found.append(outcome.value)
    return found


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _check_same_model(operation: Operation, hashes: Mapping[str, str], read: Column) -> None:
    """Refuse to compare texts of one model with embeddings of another: both have numbers."""
    if {"model"} <= hashes.keys() & read.hashes.keys() and hashes["model"] != read.hashes["model"]:
        raise InputError(
            f"columns.{operation.column}.model",
            f"another model than that of the column '{read.operation.column}' that it reads",
            "the same one",
            "Name the same model in both, or leave the embedding out.",
        )


def _in_order(operations: Sequence[Operation]) -> list[Operation]:
    """What is read before what reads it; pictures first, so that they are decoded once."""
    by_name: dict[str, Operation] = {}
    for operation in operations:
        if operation.column in by_name:
            raise InputError(
                "columns",
                f"two operations for the column '{operation.column}'",
                "one for each column",
                "Give one of them another `name`.",
            )
        by_name[operation.column] = operation
    waiting, ordered = list(operations), []
    while waiting:
        ready = [o for o in waiting if all(name in {d.column for d in ordered} for name in o.reads)]
        if not ready:
            first = waiting[0]
            lacking = [name for name in first.reads if name not in by_name]
            raise InputError(
                f"columns.{first.column}",
                f"it reads the column '{(lacking or first.reads)[0]}'",
                f"one of the columns {', '.join(by_name)}" if lacking else "no circle",
                "Add the operation that fills it: one that is done already costs nothing.",
            )
        ready.sort(key=lambda operation: not operation.needs_pixels)
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered
