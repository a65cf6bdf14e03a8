"""The members of a tar, from its headers alone; a tar from elsewhere may be hostile.

Nothing is unpacked, so a name cannot lead anywhere; a member that would escape a folder, a link, a
device, a second member of the same name and a member whose bytes are not all there are members with
a problem. What cannot be read up to the end is said, with the place in the file: Python's `tarfile`
alone takes a damaged header for the end of the tar.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

_BLOCK = tarfile.BLOCKSIZE
_MOST_HEADER_BYTES = 1 << 20
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
_AFTER_THE_END = 1 << 16
_DRIVE = re.compile(r"[A-Za-z]:/")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member, or the place where reading stopped.

    Attributes:
        name: without a leading `./`; empty for a problem of the tar itself. Names that are not
            UTF-8 have surrogates.
        header: offset of its header in the file, bytes.
        offset: of its first byte.
        size: in bytes.
        problem: why it cannot be used, or None.
    """

    name: str
    header: int
    offset: int = 0
    size: int = 0
    problem: str | None = None


def tar_members(path: Path) -> Iterator[TarMember]:
    """All members but folders, in their order, then what is wrong with the tar's end, if anything.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = path.stat().st_size
        headers = _Headers(file)
        names: set[str] = set()
        reached = 0
        tar = None
        while True:
            # Headers of a damaged or hostile tar fail in many ways (recursion, huge numbers); each
            # means that the rest cannot be read.
            try:
                tar = tar or tarfile.TarFile(fileobj=cast(IO[bytes], headers), mode="r")
                found = tar.next()
            except Exception as error:
                at = tar.offset if tar else 0
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                yield _cut(at, length, reason)
                return
            if found is None:
                break
            cast(Any, tar).members.clear()  # a million of them would be kept otherwise
            if found.size < 0 or tar.offset <= reached:
                yield _cut(reached, length, "a negative size")
                return
            reached = tar.offset
            if not found.isdir():
                member = _member(found, length, names)
                names.add(_written(member.name))
                yield member
        problem = _end(file, tar.offset, length)
        if problem:
            yield TarMember("", tar.offset, problem=problem)


def leads_out_of_tar(name: str) -> bool:
    """Whether a member's name would lead out of the folder that the tar is unpacked in."""
    flat = name.replace("\\", "/")
    return flat.startswith("/") or ".." in flat.split("/") or bool(_DRIVE.match(flat))


class _Headers:
    """A file of which only headers are read: no header may ask for a gigabyte.

    Long runs of digits are refused too: the standard library searches them in quadratic time.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        data = self._file.read(size)
        if size > _BLOCK and _MANY_DIGITS.search(data):
            raise tarfile.ReadError("a header with a number of more than 255 digits")
        return data

    def __getattr__(self, name: str) -> Any:
        if name in ("seek", "tell"):
            return getattr(self._file, name)
        raise AttributeError(name)


def _member(found: tarfile.TarInfo, length: int, names: set[str]) -> TarMember:
    name, shown = _plain(found.name), _shown(found.name)
    problem = None
    if leads_out_of_tar(found.name) or not name:
        problem = f"a name that leads out of the tar ({shown})"
    elif found.issym() or found.islnk():
        problem = f"a link, which is not followed ({shown} to {_shown(found.linkname)})"
    elif found.issparse():
        problem = f"a sparse member ({shown}; pack it again without holes)"
    elif not found.isreg():
        problem = f"no regular file ({shown}, a device or something unknown)"
    elif _written(name) in names:
        problem = f"a second member with the same name ({shown})"
    elif found.offset_data + found.size > length:
        there = max(0, length - found.offset_data)
        problem = f"truncated or damaged ({shown}: {there:,} of its {found.size:,} bytes are there)"
    return TarMember(name, found.offset, found.offset_data, found.size, problem)


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _written(name: str) -> str:
    """The name as it is written down; two names may look the same only then."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(name: str) -> str:
    return ascii(name[:200])


def _cut(at: int, length: int, reason: str) -> TarMember:
    if at >= length:
        return TarMember("", at, problem=_no_end(length))
    rest = f"the {length - at:,} bytes from there on are not read"
    return TarMember("", at, problem=f"a damaged tar (at byte {at:,}: {reason}; {rest})")


def _no_end(length: int) -> str:
    return f"a truncated tar (it ends at byte {length:,} without an end mark)"


def _end(file: IO[bytes], at: int, length: int) -> str | None:
    """What is wrong where the members end; None when the end mark is there and nothing after it."""
    file.seek(at)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        return _no_end(length)
    if any(block):
        return _cut(at, length, "no header there").problem
    if any(file.read(_AFTER_THE_END)):
        after = length - at - _BLOCK
        return f"more after the end of the tar (at byte {at:,}; {after:,} bytes are not read)"
    return None
