"""Workers that are processes of this machine, spawned, each with a pipe of its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from tastemaker.engine.answers import answer, check_opened, open_work
from tastemaker.engine.worker import WorkerDied

_LOOK_S = 1.0
_GOODBYE_S = 5.0


class ProcessWorker:
    """A `Worker` in a process.

    Args:
        opener: the pickled opener.
        device: where it is to work.
        cpus: most threads of torch.
    """

    def __init__(self, opener: bytes, device: str, cpus: float) -> None:
        self._given = (opener, device, cpus)
        self._lock = threading.Lock()
        self._doomed = False
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        """See `Worker`."""
        # Spawn, not fork: a forked copy of a process with threads (torch, arrow) can hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        with self._lock, theirs:
            if self._doomed:
                raise WorkerDied("stopped")
            process = context.Process(target=_serve, args=(theirs, *self._given, os.getpid()))
            with _no_interrupt():
                process.start()
            self._process = process
        # Our copy of their end is closed here: so the pipe ends when the worker does.
        check_opened(self._receive(None))

    def ask(self, request: bytes, timeout_s: float | None) -> bytes:
        """See `Worker`. It is waiting for a request, so sending a large one cannot block."""
        # It has nothing to say now; what can be read is the end of the pipe.
        if self._pipe.poll() or not self._process.is_alive():
            raise self._death(idle=True)
        try:
            self._pipe.send_bytes(request)
        except OSError:
            raise self._death() from None
        return self._receive(timeout_s)

    def stop(self) -> None:
        """See `Worker`. The end of the pipe tells an idle worker to go, by the usual way out."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is None:
            return
        self._process.join(_GOODBYE_S)
        self.kill()
        self._process.join(_GOODBYE_S)
        with self._lock, contextlib.suppress(ValueError):  # one that cannot be killed stays
            self._process.close()
            self._process = None

    def kill(self) -> None:
        """See `Worker`."""
        with self._lock:
            self._doomed = True
            if self._process is not None:
                self._process.kill()

    def _receive(self, timeout_s: float | None) -> bytes:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            # A look now and then: a child of the worker may hold its pipes open after its death.
            pause = _LOOK_S if end is None else min(_LOOK_S, max(end - time.monotonic(), 0))
            wait([self._pipe, self._process.sentinel], pause)
            # What it wrote before it died still counts.
            if self._pipe.poll():
                try:
                    return self._pipe.recv_bytes()
                except (EOFError, OSError):
                    raise self._death() from None
            if not self._process.is_alive():
                raise self._death()
            if end is not None and time.monotonic() >= end:
                self.kill()
                raise WorkerDied(f"killed after {timeout_s:g} s", overdue=True)

    def _death(self, *, idle: bool = False) -> WorkerDied:
        self._process.join(_GOODBYE_S)
        code = self._process.exitcode
        if code is None:
            return WorkerDied("it closed its pipe", idle=idle)
        if code >= 0:
            return WorkerDied(f"exit code {code}", idle=idle)
        known = {number.value: number.name for number in signal.Signals}
        return WorkerDied(f"signal {known.get(-code, -code)}", idle=idle)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started within never sees Ctrl-C, not even before its first line of Python."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its own start, which the first process would bring about, lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, opener: bytes, device: str, cpus: float, driver: int) -> None:
    """All that a worker does."""
    # Ctrl-C goes to the whole group of processes; the driver alone decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(driver,), daemon=True).start()
    work, reply = open_work(opener, device, cpus)
    try:
        pipe.send_bytes(reply)
        while work is not None:
            request = pipe.recv_bytes()
            reply = answer(work, request)
            pipe.send_bytes(reply)
    except (EOFError, OSError):
        return  # the driver has closed its end, or is dead


def _follow(driver: int) -> None:
    # In the midst of a long call the end of the pipe goes unseen: a killed driver would leave us.
    while os.getppid() == driver:
        time.sleep(_LOOK_S / 2)
    os._exit(1)
