"""Work for the tests of the engine, in a module that a spawned process can import."""

import os
import time
from pathlib import Path

from tastemaker.errors import PictureError, StorageError


class Unportable(Exception):
    """Cannot be unpickled: its maker wants two arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def work(shard: dict) -> int:
    """What the shard says; top level, so that it pickles."""
    kind = shard.get("kind")
    if kind == "die":
        os._exit(9)
    if kind == "raise":
        raise ValueError("no good")
    if kind == "picture":
        raise PictureError(shard["n"], "truncated", "a whole file", "Copy it again.")
    if kind == "odd":
        raise Unportable(1, 2)
    if kind == "full":
        raise StorageError("the disk is full")
    if kind == "lambda":
        return lambda: 0  # type: ignore[return-value]
    if kind == "once":
        marker = Path(shard["path"])
        if not marker.exists():
            marker.write_text("tried")
            raise OSError("a hiccup")
    if kind == "slow":
        time.sleep(0.2)
    return shard["n"] ** 2
