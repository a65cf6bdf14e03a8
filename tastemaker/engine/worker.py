"""What the scheduler knows of a worker, whether it is a process of this machine or a Ray actor."""

from typing import Protocol


class WorkerDied(Exception):
    """The worker is no more; only the scheduler sees this.

    Args:
        why: what is known of the cause.
        overdue: it was killed because it took too long.
        idle: it was dead before it was asked; so what it was to be asked is not charged with it.
    """

    def __init__(self, why: str, *, overdue: bool = False, idle: bool = False) -> None:
        super().__init__(why)
        self.overdue, self.idle = overdue, idle


class Worker(Protocol):
    """One life of one worker: it is started once, and a dead one is replaced by another.

    All but `kill` is called by one thread. Requests and answers are bytes (see `answers`).
    """

    def start(self) -> None:
        """Come up and open the function.

        Raises:
            WorkerDied: it died before the function was open.
            Exception: what the opener raised.
        """
        ...

    def ask(self, request: bytes, timeout_s: float | None) -> bytes:
        """Send one request and wait for its answer.

        Raises:
            WorkerDied: it died meanwhile, or was killed after `timeout_s`.
        """
        ...

    def stop(self) -> None:
        """End what is idle or dead, and let go of everything."""
        ...

    def kill(self) -> None:
        """End it now, from any thread, at any time, more than once; a call in progress dies."""
        ...
