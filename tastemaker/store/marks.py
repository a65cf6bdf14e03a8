"""Keep and reject marks that somebody gave to pictures: one JSON line a mark, the last one counts.

Each line is `{"picture", "mark", "time"}`; `mark` is `keep`, `reject` or null, which takes it back.
In a collection `picture` is the id of a picture.
"""

from pathlib import Path
from typing import Literal

from tastemaker.store import jsonl

FILE = "marks.jsonl"

Mark = Literal["keep", "reject"]


def read_marks(place: Path | str, damaged: list[int] | None = None) -> dict[str, Mark]:
    """Picture -> its mark, in the order in which they were first given.

    Args:
        place: the folder, or the file itself.
        damaged: numbers of damaged lines are added to it; None raises.

    Raises:
        CorruptFile: a whole line of the file is not JSON.
    """
    path = Path(place)
    marks: dict[str, Mark | None] = {}
    for _, line in jsonl.numbered(path / FILE if path.is_dir() else path, damaged):
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
