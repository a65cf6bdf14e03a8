"""Marks to keep or reject, as pages give and show them."""

import time
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tastemaker.store.marks import FILE, Mark, add_mark, read_marks
from tastemaker.web.library import stamp_of
from tastemaker.web.sample_lines import left_out


class Marks(NamedTuple):
    """The marks of a folder: picture -> mark, and what could not be read, for people."""

    given: dict[str, Mark]
    problem: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each."""
        marks = list(self.given.values())
        return {"keep": marks.count("keep"), "reject": marks.count("reject")}


class Marking:
    """The marks that pages look at; read anew when somebody has given one."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, Marks]] = {}
        self._lock = Lock()

    def of(self, folder: Path) -> Marks:
        """The marks in a folder as they are now."""
        with self._lock:
            stamp = stamp_of(folder / FILE)
            known = self._known.get(folder)
            if known is None or known[0] != stamp:
                damaged: list[int] = []
                given = read_marks(folder, damaged)
                marks = Marks(given, left_out(folder / FILE, damaged))
                known = self._known[folder] = (stamp, marks)
            return known[1]

    def give(self, folder: Path, picture: str, mark: Mark | None) -> dict[str, int]:
        """Add a mark, or with None take it back; how many of each there are then."""
        add_mark(folder, picture, mark, now=time.time())
        return self.of(folder).counts
