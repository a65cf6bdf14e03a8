"""Append-only files with one JSON object a line; a line torn by a kill is dropped when reading."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tastemaker.errors import CorruptFile
from tastemaker.store.atomic import storage_errors


def append(path: Path | str, value: Mapping[str, Any]) -> None:
    """Add one line and flush it, in a single write; the folder is made when missing.

    A torn last line, left by a kill, is cut off first, so that it can never swallow the new one.

    Raises:
        StorageError: the disk is full.
        ValueError: a number is not finite.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(line.encode())
            file.flush()


def read(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file in order; a missing file has none; a torn last line is dropped.

    Raises:
        CorruptFile: a whole line is not a JSON object.
    """
    for _, value in numbered(path):
        yield value


def numbered(
    path: Path | str, damaged: list[int] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same with the numbers of the lines, from 1.

    Args:
        path: the file.
        damaged: numbers of damaged lines are added to it, and reading goes on; None raises.

    Raises:
        CorruptFile: a whole line is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            problem, value = "not a JSON object", None
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                problem = f"not JSON ({error})"
            if isinstance(value, dict):
                yield number, value
            elif damaged is not None:
                damaged.append(number)
            else:
                raise CorruptFile(f"{path}, line {number}: {problem}")


def _cut_torn_line(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    start = end
    while start > 0:
        step = min(4096, start)
        file.seek(start - step)
        newline = file.read(step).rfind(b"\n")
        if newline >= 0:
            file.truncate(start - step + newline + 1)
            return
        start -= step
    file.truncate(0)
