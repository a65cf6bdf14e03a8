"""Run a function over shards of rows, in this process, in a pool or on Ray: one outcome a row.

A bad row never stops the others: it is found by trying the rows of its shard one by one, and so is
a row that kills its worker.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from tastemaker.engine.answers import attempt, pack
from tastemaker.engine.config import IN_PROCESS, Engine
from tastemaker.engine.crew import Crew
from tastemaker.engine.processes import ProcessWorker
from tastemaker.engine.trial import Outcome, RowQuarantined, RowsDone, Trial
from tastemaker.engine.worker import Worker
from tastemaker.errors import InputError

__all__ = ["Opener", "Outcome", "RowQuarantined", "RowsDone", "run_rows"]

Row = TypeVar("Row")
Value = TypeVar("Value")

Opener = Callable[[str], Callable[[Sequence[Row]], Sequence[Value]]]
"""Called once in each worker with its device, `cpu` or `cuda:1`; what it gives is called with the
rows of a shard and gives as many values."""

_AHEAD = 4


def run_rows(
    opener: "Opener[Row, Value]",
    shards: Iterable[Sequence[Row]],
    engine: Engine = IN_PROCESS,
    *,
    ordered: bool = True,
) -> Generator[RowsDone[Row, Value], None, None]:
    """Yield each shard with the outcomes of its rows, the same for every engine.

    What can go wrong with a row becomes its outcome: an exception of the function, a value that
    does not pickle, the death of the worker (`RowQuarantined`); see `Trial` for how it is found. In
    this process nothing survives a death. Workers go on while the caller is at work; close the
    generator (`contextlib.closing`) where it may be left early, then they end at once.

    Args:
        opener: opens the function. With workers, it, the rows and the values must pickle, and their
            classes must be importable. Values must not depend on which other rows are in the call.
        shards: may be lazy: at most four shards a worker are pulled before they were yielded, and
            in this process one. An exception of it is raised after the shards before it.
        engine: where.
        ordered: in the order of the shards, or each as soon as it is done.

    Raises:
        StorageError: the function's: the disk is full, every further shard would fail alike.
        MissingExtra: Ray is not installed.
        InputError: no such cluster or accelerator.
        TastemakerError: workers die without getting ready, or again and again.
        Exception: what the opener raised.
    """
    if engine.kind == "ray":
        return _on_ray(opener, shards, engine, ordered)
    if engine.workers == 0:
        return _here(opener, shards, engine)
    return _in_pool(opener, shards, engine, ordered)


def _here(
    opener: "Opener[Row, Value]", shards: Iterable[Sequence[Row]], engine: Engine
) -> Generator[RowsDone[Row, Value], None, None]:
    work = None
    for index, rows in enumerate(shards):
        trial: Trial[Row, Value] = Trial(index, rows)
        todo = deque(trial.pieces())
        while todo:
            if work is None:
                work = opener(_devices(engine)[0])
            piece = todo.popleft()
            todo.extendleft(reversed(trial.settle(piece, attempt(work, piece.rows))))
        done = trial.done()
        assert done is not None
        yield done


def _in_pool(
    opener: "Opener[Row, Value]", shards: Iterable[Sequence[Row]], engine: Engine, ordered: bool
) -> Generator[RowsDone[Row, Value], None, None]:
    packed, devices = pack(opener), _devices(engine)

    def new_worker(place: int) -> Worker:
        return ProcessWorker(packed, devices[place % len(devices)], engine.cpus_per_worker)

    yield from _by_crew(new_worker, engine.workers, shards, engine, ordered)


def _on_ray(
    opener: "Opener[Row, Value]", shards: Iterable[Sequence[Row]], engine: Engine, ordered: bool
) -> Generator[RowsDone[Row, Value], None, None]:
    from tastemaker.engine.actors import ray_workers

    with ray_workers(engine, pack(opener)) as (new_worker, count):
        yield from _by_crew(new_worker, count, shards, engine, ordered)


def _by_crew(
    new_worker: Callable[[int], Worker],
    count: int,
    shards: Iterable[Sequence[Row]],
    engine: Engine,
    ordered: bool,
) -> Generator[RowsDone[Row, Any], None, None]:
    source, pulled, given = iter(shards), 0, 0
    ended, late = False, None
    crew = Crew(new_worker, count, engine.row_timeout_s)
    try:
        while True:
            while not ended and pulled - given < _AHEAD * count:
                try:
                    rows = next(source)
                except StopIteration:
                    ended = True
                except Exception as error:
                    ended, late = True, error
                else:
                    crew.add(Trial(pulled, rows))
                    pulled += 1
            if given == pulled:
                break
            done = crew.take(given if ordered else None)
            given += 1
            yield done
    except BaseException:
        crew.close(at_once=True)
        raise
    crew.close(at_once=False)
    if late is not None:
        raise late


def _devices(engine: Engine) -> list[str]:
    """Where the workers of this machine work, in turn."""
    if engine.gpus <= 0:
        return ["cpu"]
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise InputError(
            "engine: gpus_per_worker", "no accelerator on this machine", "at least one",
            "Set it to 0, or run where there is one.",
        )  # fmt: skip
    return [f"cuda:{place}" for place in range(count)]
