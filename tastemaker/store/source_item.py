"""What every source of pictures gives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tastemaker.records.preference import Preference
from tastemaker.records.size import Size

Where = Mapping[str, Sequence[str]]
"""Attribute name -> values that are wanted; each named attribute must have one of its values."""


@dataclass(frozen=True)
class SourceItem:
    """One picture as its source knows it; it has not been decoded.

    Attributes:
        key: the source's own stable name for it (relative path, code point); no other item of the
            source has it.
        path: where the file lies, when it can be used in place; for a member of a tar the address
            of its bytes (`store.archives`).
        data: the file's bytes, when there is no file to use in place.
        suffix: ending for a file made of `data`, with the dot.
        captions: natural-language captions, best first.
        tags: tags, most specific first.
        attributes: further facts, as name-value pairs.
        problem: why it cannot be used (a path outside the folder, broken text beside it), or None.
        stamp: for `data`: its length in bytes and the time (ns) of the file it was read from, so
            that unchanged data need not be decoded again.
        kind: `latent` for a file that holds a latent instead of pixels.
        size: for a latent, of the picture that it was made from.
    """

    key: str
    path: Path | None = None
    data: bytes | None = None
    suffix: str = ""
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    problem: str | None = None
    stamp: tuple[int, int] | None = None
    kind: Literal["picture", "latent"] = "picture"
    size: Size | None = None


class Source(Protocol):
    """A place that pictures come from."""

    spec: str
    """What it was opened with; recorded with every picture."""

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures in a fixed order, those that pass `where`; nothing else is rendered or read.

        What cannot be used is an item too, with its `problem`.

        Raises:
            InputError: there are none, or the place is not there.
        """
        ...

    def count(self, where: Where | None = None) -> int:
        """How many `items` will give."""
        ...

    def preferences(self) -> Iterator[Preference]:
        """The comparisons of two of its pictures that the source holds; most hold none."""
        ...

    def describe(self) -> dict[str, str]:
        """Name, licence and attribution, for reports, and what was found beside the pictures."""
        ...

    def fingerprint(self) -> str:
        """Hash that changes when the source does; cheap, from names, sizes, times and versions."""
        ...


def passes(attributes: Sequence[tuple[str, str]], where: Where | None) -> bool:
    """Whether some attributes fulfil `where`."""
    known = dict(attributes)
    return all(known.get(name) in values for name, values in (where or {}).items())
