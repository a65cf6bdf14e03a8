"""Reading what the next steps need while this one computes; it changes the time, nothing else."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, TypeVar

from tastemaker.records.run import Visit

T = TypeVar("T")
_Use = tuple[str, int]
"""Sample id and visit."""


class ReadAhead(Generic[T]):
    """A `read` whose answers to announced visits are prepared in threads.

    What was not announced, is not ready, or failed in a thread is read by the caller himself, so
    every call gives what `read` gives, or raises what it raises. Each announced visit is prepared
    once and forgotten when it was asked for.

    Use it as a context, or call `close`.
    """

    def __init__(self, read: Callable[[str, int], T], most: int, threads: int = 1) -> None:
        """Start the threads.

        Args:
            read: sample id, visit -> what training needs; a pure function, safe in threads.
            most: most answers that lie ready at a time.
            threads: how many read.
        """
        self._read, self._most = read, most
        self._change = Condition()
        self._waiting: dict[_Use, None] = {}
        self._reading: set[_Use] = set()
        self._ready: dict[_Use, T] = {}
        self._expected: set[_Use] = set()
        self._open = True
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def expect(self, visits: Sequence[Visit]) -> None:
        """Say what will be asked for next, in order; what was announced before is forgotten."""
        with self._change:
            uses = [(visit.sample_id, visit.visit) for visit in visits]
            self._expected = set(uses)
            self._ready = {use: got for use, got in self._ready.items() if use in self._expected}
            begun = self._ready.keys() | self._reading
            self._waiting = {use: None for use in uses if use not in begun}
            self._change.notify_all()

    def __call__(self, sample_id: str, visit: int) -> T:
        """What `read` gives."""
        asked = (sample_id, visit)
        with self._change:
            self._change.wait_for(lambda: asked not in self._reading)
            self._waiting.pop(asked, None)
            self._expected.discard(asked)
            if asked in self._ready:
                found = self._ready.pop(asked)
                self._change.notify_all()
                return found
        return self._read(sample_id, visit)

    def close(self) -> None:
        """End the threads; calls still work."""
        with self._change:
            self._open = False
            self._waiting, self._ready, self._expected = {}, {}, set()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "ReadAhead[T]":
        """The object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the threads."""
        self.close()

    def _work(self) -> None:
        while (use := self._next()) is not None:
            found: list[T] = []
            # Whoever asks for it reads it again, and gets the error; a thread that ended here would
            # be waited for in vain.
            with suppress(BaseException):
                found.append(self._read(*use))
            with self._change:
                self._reading.discard(use)
                if found and use in self._expected:
                    self._ready[use] = found[0]
                self._change.notify_all()

    def _next(self) -> _Use | None:
        """The first one that waits, once there is room for its answer; None at the end."""
        with self._change:
            self._change.wait_for(lambda: not self._open or (self._waiting and self._has_room()))
            if not self._open:
                return None
            use = next(iter(self._waiting))
            del self._waiting[use]
            self._reading.add(use)
            return use

    def _has_room(self) -> bool:
        return len(self._ready) + len(self._reading) < self._most
