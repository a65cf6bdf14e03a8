"""What every source of pictures gives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Where = Mapping[str, Sequence[str]]
"""Attribute name -> values that are wanted; each named attribute must have one of its values."""


@dataclass(frozen=True)
class SourceItem:
    """One picture as its source knows it; it has not been decoded.

    Attributes:
        key: the source's own stable name for it (relative path, code point).
        path: where the file lies, when it can be used in place.
        data: the file's bytes, when there is no file to use in place.
        suffix: ending for a file made of `data`, with the dot.
        captions: natural-language captions, best first.
        tags: tags, most specific first.
        attributes: further facts, as name-value pairs.
        problem: why it cannot be used (a path outside the folder, broken text beside it), or None.
    """

    key: str
    path: Path | None = None
    data: bytes | None = None
    suffix: str = ""
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    problem: str | None = None


class Source(Protocol):
    """A place that pictures come from."""

    spec: str
    """What it was opened with; recorded with every picture."""

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures in a fixed order, those that pass `where`; nothing else is rendered or read.

        Raises:
            InputError: there are none, or the place is not there.
        """
        ...

    def count(self, where: Where | None = None) -> int:
        """How many `items` will give."""
        ...

    def describe(self) -> dict[str, str]:
        """Name, licence and attribution, for reports."""
        ...

    def fingerprint(self) -> str:
        """Hash that changes when the source does; cheap, from names, sizes, times and versions."""
        ...


def passes(attributes: Sequence[tuple[str, str]], where: Where | None) -> bool:
    """Whether some attributes fulfil `where`."""
    known = dict(attributes)
    return all(known.get(name) in values for name, values in (where or {}).items())
