"""Keep and reject marks that somebody gave to pictures: one JSON line a mark, the last one counts.

Each line is `{"picture", "mark", "time"}`; `mark` is `keep`, `reject` or null, which takes it back.
"""

from pathlib import Path
from typing import Literal

from tastemaker.store import jsonl

FILE = "marks.jsonl"

Mark = Literal["keep", "reject"]


def read_marks(folder: Path | str) -> dict[str, Mark]:
    """Picture -> its mark, in the order in which they were first given.

    Raises:
        CorruptFile: a whole line of the file is not JSON.
    """
    marks: dict[str, Mark | None] = {}
    for line in jsonl.read(Path(folder) / FILE):
        mark = line.get("mark")
        marks[str(line.get("picture"))] = mark if mark in ("keep", "reject") else None
    return {picture: mark for picture, mark in marks.items() if mark is not None}


def add_mark(folder: Path | str, picture: str, mark: Mark | None, *, now: float) -> None:
    """Give a picture a mark, or take it back.

    Raises:
        StorageError: the disk is full.
    """
    line = {"picture": picture, "mark": mark, "time": round(now, 3)}
    jsonl.append(Path(folder) / FILE, line)
