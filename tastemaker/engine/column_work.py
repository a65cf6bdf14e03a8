"""What a worker does with pictures whose columns lack values: decode once, then measure.

Axes: pixels are uint8 `[H, W, 3]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError, PictureError, StorageError
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.images import load_image, read_picture_file

PASSING = ("no such file", "not readable", "changed since")
"""How errors begin that say nothing of the picture itself: a disk that is away, for example."""


@dataclass(frozen=True)
class Task:
    """What is to be measured of one picture.

    Attributes:
        id: the picture.
        path: where it lies.
        captions: as in the catalogue.
        tags: as in the catalogue.
        known: values of columns that operations read, by column.
        todo: numbers of the operations that have no value for it.
    """

    id: str
    path: str
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    todo: tuple[int, ...] = ()


@dataclass(frozen=True)
class Opener:
    """Opens operations in a worker; crosses process borders."""

    operations: tuple[tuple[int, Operation, Mapping[str, Path]], ...]

    def __call__(self, device: str) -> "MeasureTasks":
        """Load what the operations need."""
        return MeasureTasks(
            [(number, one, one.open(places, device)) for number, one, places in self.operations]
        )


class MeasureTasks:
    """Measures shards of pictures with operations that are open.

    Args:
        opened: number, operation and its function, in an order in which each finds what it reads.
    """

    def __init__(self, opened: Sequence[tuple[int, Operation, Measure]]) -> None:
        self._groups: list[list[tuple[int, Operation, Measure]]] = []
        for one in opened:
            if self._groups and self._groups[-1][0][1].needs_pixels == one[1].needs_pixels:
                self._groups[-1].append(one)
            else:
                self._groups.append([one])

    def __call__(self, tasks: Sequence[Task]) -> list["dict[int, Values] | InputError"]:
        """Number of operation -> values, for each task; an error that is no picture's fault is all.

        Decoded pictures are large: a few at a time are in memory.
        """
        found: list[dict[int, Values]] = [{} for _ in tasks]
        try:
            for group in self._groups:
                size = min(operation.BATCH for _, operation, _ in group)
                for first in range(0, len(tasks), size):
                    some = slice(first, first + size)
                    self._do(tasks[some], group, found[some])
        except InputError as error:
            return [error for _ in tasks]
        return list(found)

    def _do(
        self,
        tasks: Sequence[Task],
        group: Sequence[tuple[int, Operation, Measure]],
        found: Sequence[dict[int, Values]],
    ) -> None:
        busy = [
            (task, values)
            for task, values in zip(tasks, found, strict=True)
            if any(number in task.todo for number, *_ in group)
        ]
        pixels: dict[str, Any] = {}
        if group[0][1].needs_pixels:
            for task, _ in busy:
                pixels[task.id] = _decode(task)
        names = {number: op.column for g in self._groups for number, op, _ in g}
        for number, operation, measure in group:
            subjects, targets = [], []
            for task, values in busy:
                if number not in task.todo:
                    continue
                picture = pixels.get(task.id)
                if isinstance(picture, str):
                    values[number] = {"error": picture}
                    continue
                fresh = {names[n]: v for n, v in values.items()}
                columns = {**task.known, **fresh}
                missing = [name for name in operation.reads if "error" in _ok(columns, name)]
                if missing:
                    why = str(columns.get(missing[0], {}).get("error", ""))
                    if not why.startswith(PASSING):
                        why = f"no value in column '{missing[0]}'"
                    values[number] = {"error": why}
                    continue
                subjects.append(Subject(task.id, picture, task.captions, task.tags, columns))
                targets.append(values)
            for values, new in zip(targets, _measure(operation, measure, subjects), strict=True):
                values[number] = new


def _measure(
    operation: Operation, measure: Measure, subjects: Sequence[Subject]
) -> Iterator[Values]:
    """Values of all subjects; one that the operation cannot do does not cost the others theirs."""
    if not subjects:
        return
    try:
        yield from _checked(operation, measure(subjects), len(subjects))
    except Exception as error:
        if _concerns_all(error):
            raise
        for subject in subjects:
            try:
                yield from _checked(operation, measure([subject]), 1)
            except Exception as own:
                if _concerns_all(own):
                    raise
                yield {"error": _said(operation, own)}


def _concerns_all(error: Exception) -> bool:
    """Whether others would fail alike: a wrong model, no access to a server, a full disk."""
    return isinstance(error, InputError | StorageError) and not isinstance(error, PictureError)


def _said(operation: Operation, error: Exception) -> str:
    if isinstance(error, PictureError):
        return str(error.got)
    text = (str(error) or type(error).__name__).splitlines()[0][:300]
    return f"{operation.kind} failed ({type(error).__name__}: {text})"


def _checked(operation: Operation, values: list[Values], count: int) -> list[Values]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values for {count} pictures")
    for one in values:
        if "error" not in one and set(one) != set(operation.FIELDS):
            raise ValueError(f"fields {sorted(one)}, not {sorted(operation.FIELDS)}")
    return values


def _decode(task: Task) -> Any:
    """Pixels, or in words why there are none."""
    try:
        data = read_picture_file(Path(task.path))
        if hash_bytes(data) != task.id:
            return "changed since it was collected"
        return load_image(data, name=task.path).pixels
    except PictureError as error:
        return str(error.got)


def _ok(columns: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return columns.get(name, {"error": "missing"})
