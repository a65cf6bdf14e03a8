"""What loose picture files are: hash and size, found once and remembered in a step's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store import jsonl
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.images import check_picture, read_picture_file, reason_of


@dataclass(frozen=True)
class Identity:
    """A picture file.

    Attributes:
        id: hash of its bytes; empty where it cannot be used.
        size: height and width, upright.
        problem: why it cannot be used; empty where it can.
    """

    id: str
    size: Size
    problem: str = ""


class PictureIdentities:
    """Hashes and sizes of files; each is decoded once, to see that it is whole.

    A file is looked at again when its size or time has changed.

    Args:
        memory: a JSONL file that keeps them, so that a killed step goes on; None for none.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, tuple[list[int], Identity]] = {}
        for line in jsonl.read(memory) if memory is not None else ():
            found = Identity(line["id"], Size(*line["size"]), line["problem"])
            self._known[line["path"]] = (line["stamp"], found)

    def of(self, path: Path) -> Identity:
        """What a file is."""
        name = str(path)
        try:
            status = path.stat()
        # A null byte in the name is no system's error.
        except (OSError, ValueError):
            return Identity("", Size(0, 0), "no such file")
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = _look(path)
        self._known[name] = (stamp, found)
        if self._memory is not None:
            line: dict[str, Any] = {"path": name, "stamp": stamp, "id": found.id}
            jsonl.append(self._memory, {**line, "size": list(found.size), "problem": found.problem})
        return found


def _look(path: Path) -> Identity:
    try:
        data = read_picture_file(path)
        facts = check_picture(data, name=str(path))
    except PictureError as error:
        return Identity("", Size(0, 0), reason_of(error))
    return Identity(hash_bytes(data), facts.size)
