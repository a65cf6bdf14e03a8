"""One picture of a collection."""

from dataclasses import dataclass
from typing import Literal

from tastemaker.records.size import Size


@dataclass(frozen=True)
class ImageRecord:
    """A row of the catalogue's base table.

    Attributes:
        id: hash of the file's bytes, 64 hex digits.
        path: where the file lies, relative to the collection when inside it.
        source: the source it was read from, for example `folder` or `demo:twemoji`.
        key: the source's own stable name for the picture (relative path, code point).
        size: height and width after the EXIF orientation; None when unreadable.
        format: Pillow's name of the format; empty when unreadable.
        mode: colour mode in the file, before conversion to RGB; empty when unreadable.
        frames: number of frames; only the first is used.
        captions: natural-language captions, best first.
        tags: tags, most specific first.
        attributes: further facts from the source, as name-value pairs.
        status: `ok`, or `error` for a file that is kept as a row but not used.
        error: why not, when status is `error`.
    """

    id: str
    path: str
    source: str
    key: str
    size: Size | None
    format: str = ""
    mode: str = ""
    frames: int = 1
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    status: Literal["ok", "error"] = "ok"
    error: str | None = None

    def attribute(self, name: str) -> str | None:
        """The value of one attribute, or None."""
        return dict(self.attributes).get(name)


@dataclass(frozen=True)
class Keep:
    """A rule's verdict: the picture stays."""


@dataclass(frozen=True)
class Drop:
    """A rule's verdict: the picture goes, with what was found and what was asked."""

    reason: str
    got: str | float
    limit: str | float


Verdict = Keep | Drop


@dataclass(frozen=True)
class Selection:
    """A frozen list of picture ids, with the query that made it.

    Attributes:
        name: a short name.
        ids: the pictures, sorted.
        query: what chose them, in words or SQL.
        hash: hash of ids and query.
    """

    name: str
    ids: tuple[str, ...]
    query: str
    hash: str
