"""Work for the tests of the engine's runners, in a module that every worker can import."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import PictureError, StorageError


class Unportable(Exception):
    """Cannot be unpickled: its maker wants two arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Doubled(Exception):
    """Unpickles, but with another text."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


def rows(*kinds: str | None) -> list[dict]:
    return [{"n": n, "kind": kind} for n, kind in enumerate(kinds)]


def in_shards(given: list[dict], size: int) -> list[list[dict]]:
    return [given[start : start + size] for start in range(0, len(given), size)]


@dataclass(frozen=True)
class Toys:
    """Opens a function that does to each row what its kind says.

    `folder` is where workers leave their pids and markers of what was tried before.
    """

    folder: Path
    at_opening: str | None = None

    def __call__(self, device: str) -> Callable[[Sequence[dict]], list[Any]]:
        (self.folder / f"pid-{os.getpid()}").touch()
        if self.at_opening is not None:
            self.do({"n": 0, "kind": self.at_opening}, device)

        def work(rows: Sequence[dict]) -> list[Any]:
            given = [self.do(row, device) for row in rows]
            return [value for value in given if value != "nothing"]

        return work

    def pids(self) -> list[int]:
        return [int(path.name.split("-")[1]) for path in self.folder.glob("pid-*")]

    def first_time(self, row: dict) -> bool:
        marker = self.folder / f"marker-{row['n']}"
        known = marker.exists()
        marker.touch()
        return not known

    def do(self, row: dict, device: str) -> Any:
        kind = row.get("kind") or ""
        if kind.startswith("once "):
            kind = kind.removeprefix("once ") if self.first_time(row) else ""
        if kind in _FAULTS:
            _FAULTS[kind](row)
        if kind == "device":
            return device
        if kind == "nothing":
            return "nothing"
        if kind == "large":
            return bytes(len(row["data"]))
        if kind == "lambda":
            return lambda: 0
        return row["n"] ** 2


def _raise(make: Callable[[dict], BaseException]) -> Callable[[dict], None]:
    def fault(row: dict) -> None:
        raise make(row)

    return fault


_FAULTS: dict[str, Callable[[dict], Any]] = {
    "raise": _raise(lambda row: ValueError(f"no good: {row['n']}")),
    "picture": _raise(lambda row: PictureError(row["n"], "truncated", "a whole file", "Again.")),
    "odd": _raise(lambda row: Unportable(1, 2)),
    "doubled": _raise(lambda row: Doubled("value")),
    "full": _raise(lambda row: StorageError("the disk is full")),
    "die": lambda row: os._exit(9),
    "kill": lambda row: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda row: sys.exit(0),
    "crash": lambda row: ctypes.string_at(0),
    "nap": lambda row: time.sleep(0.02),
    "slow": lambda row: time.sleep(0.2),
    "hang": lambda row: time.sleep(600),
}


def sleeps(pid: int) -> bool:
    """Whether a process waits for something, now and 50 ms later."""
    states = []
    for _ in range(2):
        states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.05)
    return states == ["S", "S"]


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that still run (a zombie does not)."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            running.append(pid)
    return running


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def said(done: Sequence[Any]) -> list[tuple[Any, str]]:
    """Value, class and text of the error of every row: what must not depend on the runner."""
    return [
        (outcome.value, "" if outcome.error is None else f"{type(outcome.error)} {outcome.error}")
        for shard in done
        for outcome in shard.outcomes
    ]
