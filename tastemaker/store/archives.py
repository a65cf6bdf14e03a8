"""Addresses of pictures inside a tar: `/x/00000.tar#tar=OFFSET+LENGTH`, both in bytes.

A tar is not compressed, so that a member is a piece of the file and can be read without unpacking
anything, by any process, in any order.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_ADDRESS = re.compile(r"(?P<file>.+)#tar=(?P<offset>[0-9]{1,18})\+(?P<length>[0-9]{1,18})", re.S)


@dataclass(frozen=True)
class Slice:
    """A piece of a file.

    Attributes:
        file: the tar.
        offset: of the piece's first byte.
        length: of the piece, in bytes.
    """

    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Its bytes; fewer than `length` when the file ends before.

        Raises:
            OSError: the file cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def slice_address(file: Path, offset: int, length: int) -> Path:
    """What stands in the catalogue for a piece of a file."""
    return Path(f"{file}#tar={offset}+{length}")


def slice_of(path: Path | str) -> Slice | None:
    """The piece that an address means; None for a path of a whole file.

    A file that really has such a name is itself.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None or _is_there(Path(path)):
        return None
    return Slice(Path(found["file"]), int(found["offset"]), int(found["length"]))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
