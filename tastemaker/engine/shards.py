"""Run a function over shards, in this process or in a pool; one bad shard never stops the rest."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tastemaker.errors import InputError, StorageError, TastemakerError

S = TypeVar("S")
R = TypeVar("R")


class ShardCrashed(TastemakerError):
    """A worker process died on this shard, as often as it was tried."""


@dataclass(frozen=True)
class ShardResult(Generic[S, R]):
    """What became of one shard: a value, or the error of the last try.

    Attributes:
        index: place of the shard in the list given.
        shard: the shard itself.
        value: what the function returned; None when it failed.
        error: why it failed; None when it did not.
        tries: how often it was tried.
    """

    index: int
    shard: S
    value: R | None
    error: Exception | None
    tries: int

    def unwrap(self) -> R:
        """The value.

        Raises:
            Exception: the shard's error.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def run_shards(
    fn: Callable[[S], R], shards: Sequence[S], *, workers: int = 0, retries: int = 1
) -> Iterator[ShardResult[S, R]]:
    """Yield one result a shard, in the order of the shards, whatever the number of workers.

    An `InputError` is final at once (the same input fails again); any other error is tried again up
    to `retries` times. When a worker process dies, the shards then in flight are run one at a time
    in a fresh pool, so that the one that kills its worker is found and the others finish.

    Args:
        fn: the work; for workers > 0 a function at the top of a module, called with one shard.
        shards: what to work on; for workers > 0 they, and the values, must pickle.
        workers: number of processes; 0 runs in this process.
        retries: further tries after the first.

    Raises:
        StorageError: the disk is full; every further shard would fail alike.
    """
    results = (
        _in_process(fn, shards, retries) if workers <= 0 else _in_pool(fn, shards, workers, retries)
    )
    with contextlib.closing(results):
        for result in results:
            if isinstance(result.error, StorageError):
                raise result.error
            yield result


def _in_process(
    fn: Callable[[S], R], shards: Sequence[S], retries: int
) -> Generator[ShardResult[S, R], None, None]:
    for index, shard in enumerate(shards):
        for tries in range(1, retries + 2):
            value, error = _attempt(fn, shard)
            if error is None or _final(error) or tries > retries:
                yield ShardResult(index, shard, value, error, tries)
                break


def _in_pool(
    fn: Callable[[S], R], shards: Sequence[S], workers: int, retries: int
) -> Generator[ShardResult[S, R], None, None]:
    work = _PoolWork(fn, shards, workers, retries)
    try:
        for index in range(len(shards)):
            while index not in work.ready:
                work.launch(first=index)
                work.collect()
            yield work.ready.pop(index)
    finally:
        work.pool.stop()


class _PoolWork(Generic[S, R]):
    """Which shards wait, fly, are suspected of killing their worker, or are ready."""

    def __init__(
        self, fn: Callable[[S], R], shards: Sequence[S], workers: int, retries: int
    ) -> None:
        self.fn, self.shards, self.workers, self.retries = fn, shards, workers, retries
        self.pool = _Pool(workers)
        self.tries = [0] * len(shards)
        self.waiting: deque[int] = deque(range(len(shards)))
        self.suspects: deque[int] = deque()
        self.flying: dict[Future[Any], int] = {}
        self.ready: dict[int, ShardResult[S, R]] = {}

    def launch(self, first: int) -> None:
        """Send off what may fly now; `first` is the shard that the caller waits for."""
        if self.suspects:
            # A suspect flies alone, so that a crash is its own.
            if not self.flying:
                self._send(self.suspects.popleft())
            return
        # The second bound limits what is held back for the sake of the order.
        while (
            self.waiting
            and len(self.flying) < 2 * self.workers
            and self.waiting[0] <= first + 8 * self.workers
        ):
            self._send(self.waiting.popleft())

    def collect(self) -> None:
        """Wait for one or more shards and settle them."""
        done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
        alone = len(self.flying) == 1
        broken: list[int] = []
        for future in done:
            index = self.flying.pop(future)
            try:
                self._settle(index, *future.result())
            except BrokenProcessPool:
                broken.append(index)
            except Exception as error:  # the shard or its value does not pickle
                self._settle(index, None, error)
        if broken:
            broken += self.flying.values()
            self.flying.clear()
            self.pool.rebuild()
            self._suspect(sorted(broken), alone)

    def _suspect(self, broken: list[int], alone: bool) -> None:
        if alone:
            self._settle(broken[0], None, _crashed(self.tries[broken[0]]))
            return
        # Nobody knows which of them it was: none is charged with the try.
        for index in broken:
            self.tries[index] -= 1
            self.suspects.append(index)

    def _settle(self, index: int, value: R | None, error: Exception | None) -> None:
        tries = self.tries[index]
        if error is None or _final(error) or tries > self.retries:
            self.ready[index] = ShardResult(index, self.shards[index], value, error, tries)
        elif isinstance(error, ShardCrashed):
            self.suspects.appendleft(index)
        else:
            self.waiting.appendleft(index)

    def _send(self, index: int) -> None:
        self.tries[index] += 1
        try:
            future = self.pool.submit(self.fn, self.shards[index])
        except BrokenProcessPool as error:
            # The pool died between two calls: a future that says so takes the usual road.
            future = Future()
            future.set_exception(error)
        self.flying[future] = index


def _attempt(fn: Callable[[S], R], shard: S) -> tuple[R | None, Exception | None]:
    try:
        return fn(shard), None
    except Exception as error:
        return None, error


def _attempt_in_worker(fn: Callable[[S], R], shard: S) -> tuple[R | None, Exception | None]:
    value, error = _attempt(fn, shard)
    return value, None if error is None else _portable(error)


def _portable(error: Exception) -> Exception:
    """The error itself when it survives pickling, else its text; with the worker's traceback."""
    where = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In a worker process:\n{where}")
    return copy


def _final(error: Exception) -> bool:
    return isinstance(error, InputError | StorageError)


def _crashed(tries: int) -> ShardCrashed:
    times = "once" if tries == 1 else f"{tries} times"
    return ShardCrashed(
        f"the worker process died on it ({times}): out of memory or a crash in a native library"
    )


class _Pool:
    """A spawn pool that can be replaced after a crash, and stopped at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Spawn, not fork: a forked copy of a process with threads (torch, arrow) can hang.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_start_worker)

    def submit(self, fn: Callable[[S], R], shard: S) -> Future[Any]:
        return self._pool.submit(_attempt_in_worker, fn, shard)

    def rebuild(self) -> None:
        self.stop()
        self._pool = self._new()

    def stop(self) -> None:
        """End the workers now: what they are at will be done again by the next run."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(timeout=10)


def _start_worker() -> None:
    # Ctrl-C goes to the whole group of processes; the parent alone decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def follow() -> None:
        # A worker whose parent was killed must not go on writing.
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
