"""The scheduler: a thread a worker takes pieces of shards, and starts the worker anew when it dies.

A worker has one request at a time, and its thread waits for the answer before it sends the next.
So a death belongs to one piece, and a large request never meets a large answer in the same pipe.
The threads go on while the caller of the engine does something else with what is ready.
"""

import atexit
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tastemaker.engine.answers import pack, portable, read
from tastemaker.engine.trial import Attempt, Piece, RowsDone, Trial
from tastemaker.engine.worker import Worker, WorkerDied
from tastemaker.errors import TastemakerError

_MOST_FALSE_STARTS = 3
_MOST_DEATHS_IN_A_ROW = 100
_JOIN_S = 30.0


class Crew:
    """Workers, and the shards they have before them.

    Args:
        new_worker: makes the worker of a place, `0 .. count - 1`, for one life.
        count: number of workers; each comes up when there is work for it.
        row_timeout_s: seconds a row after which a worker is killed, or None.
    """

    def __init__(
        self, new_worker: Callable[[int], Worker], count: int, row_timeout_s: float | None
    ) -> None:
        self._new_worker, self._row_timeout_s = new_worker, row_timeout_s
        lock = threading.Lock()
        self._work, self._news = threading.Condition(lock), threading.Condition(lock)
        self._todo: deque[Piece[Any, Any]] = deque()
        self._done: dict[int, RowsDone[Any, Any]] = {}
        self._alive: set[Worker] = set()
        self._starting: set[Worker] = set()
        self._idle = self._deaths_in_a_row = 0
        self._failure: BaseException | None = None
        self._closing = False
        # Daemons: a run that nobody closed must not keep the interpreter from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(place,), name=f"worker {place}", daemon=True)
            for place in range(count)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self._abandon)

    def add(self, trial: Trial[Any, Any]) -> None:
        """Give a shard.

        Raises:
            Exception: the work has failed as a whole.
        """
        with self._work:
            self._check()
            self._queue(trial, trial.pieces(), first=False)

    def take(self, index: int | None) -> RowsDone[Any, Any]:
        """Wait for the shard of that index, or for any.

        Raises:
            Exception: the work has failed as a whole.
        """
        with self._news:
            while True:
                self._check()
                if index is None and self._done:
                    return self._done.pop(next(iter(self._done)))
                if index in self._done:
                    return self._done.pop(index)
                self._news.wait()

    def close(self, *, at_once: bool) -> None:
        """End all workers; `at_once` whatever they are at, else they are idle by now."""
        with self._work:
            self._closing = True
            doomed = list(self._alive if at_once else self._starting)
            self._work.notify_all()
        for worker in doomed:
            worker.kill()
        for thread in self._threads:
            thread.join(_JOIN_S)
        atexit.unregister(self._abandon)

    def _abandon(self) -> None:
        # Before the interpreter waits for its processes, which wait for requests.
        self.close(at_once=True)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _queue(self, trial: Trial[Any, Any], pieces: list[Piece[Any, Any]], *, first: bool) -> None:
        if first:
            self._todo.extendleft(reversed(pieces))
        else:
            self._todo.extend(pieces)
        self._work.notify_all()
        done = trial.done()
        if done is not None:
            self._done[done.index] = done
            self._news.notify_all()

    def _serve(self, place: int) -> None:
        """The thread of one place: worker after worker, until all is done or has failed."""
        try:
            while (worker := self._hire(place)) is not None:
                try:
                    self._employ(worker)
                finally:
                    self._dismiss(worker)
        except BaseException as error:
            with self._work:
                # What ends by force while closing is no news.
                if not self._closing:
                    self._failure = self._failure or error
                self._closing = True
                self._work.notify_all()
                self._news.notify_all()

    def _hire(self, place: int) -> Worker | None:
        """A started worker, once there is more work than others will take; None at the end."""
        why = ""
        for _ in range(_MOST_FALSE_STARTS):
            with self._work:
                while not self._closing and len(self._todo) <= len(self._starting) + self._idle:
                    self._work.wait()
                if self._closing:
                    return None
                worker = self._new_worker(place)
                self._alive.add(worker)
                self._starting.add(worker)
            try:
                worker.start()
                return worker
            except WorkerDied as death:
                why = str(death)
                self._dismiss(worker)
            except BaseException:
                self._dismiss(worker)
                raise
            finally:
                with self._work:
                    self._starting.discard(worker)
        raise TastemakerError(
            f"a worker died {_MOST_FALSE_STARTS} times before it was ready to work ({why}): out of "
            "memory, a crash in a native library, or a script that starts the work without "
            '`if __name__ == "__main__":`. What it wrote to stderr says more.'
        )

    def _employ(self, worker: Worker) -> None:
        """Piece after piece, until the worker dies or there is no more to come."""
        while (piece := self._next()) is not None:
            rows = piece.rows
            try:
                request = pack(rows)
            except Exception as error:  # a row does not pickle
                self._settle(piece, Attempt(error=portable(error)))
                continue
            limit = None if self._row_timeout_s is None else self._row_timeout_s * len(rows)
            try:
                found = read(worker.ask(request, limit))
            except WorkerDied as death:
                self._bury(piece, death)
                return
            self._settle(piece, found)

    def _next(self) -> Piece[Any, Any] | None:
        with self._work:
            self._idle += 1
            while not self._closing and not self._todo:
                self._work.wait()
            self._idle -= 1
            return None if self._closing else self._todo.popleft()

    def _settle(self, piece: Piece[Any, Any], found: Attempt) -> None:
        with self._work:
            self._deaths_in_a_row = 0
            self._queue(piece.trial, piece.trial.settle(piece, found), first=True)

    def _bury(self, piece: Piece[Any, Any], death: WorkerDied) -> None:
        with self._work:
            if self._closing:
                return
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= _MOST_DEATHS_IN_A_ROW:
                raise TastemakerError(
                    f"{self._deaths_in_a_row} workers in a row died without finishing anything "
                    f"({death}): this is no matter of single rows"
                )
            if death.idle:
                more = [piece]
            else:
                more = piece.trial.died(piece, str(death), overdue=death.overdue)
            self._queue(piece.trial, more, first=True)

    def _dismiss(self, worker: Worker) -> None:
        worker.stop()
        with self._work:
            self._alive.discard(worker)
