"""The base table of a catalogue: parts of at most `PART_ROWS` rows, one row a picture.

The last part is open while pictures are collected: rows are added to it, each time as a whole new
file in place of the old one, until it is full or closed. So little is lost by a kill, and yet the
parts are large. Which rows a part has does not depend on how many pieces they came in.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tastemaker.errors import CorruptFile, InputError
from tastemaker.store.atomic import write_json
from tastemaker.store.catalogue_rows import base_schema, identity, places_of
from tastemaker.store.parquet_files import Footers, read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 4096
"""Rows of a part, at most. Ours, measured at a million rows: with half as many, queries cost 1.6
times as much; with twice as many, they cost two thirds, and an addition to the open part a third
more (benchmarks/catalogue.py)."""

MANIFEST = "manifest.json"

IDENTITY = "identity"
"""Under this name a part's footer keeps what columns depend on."""

_REPEATED = (
    *("source", "format", "mode", "status", "error", "tags.list.element"),
    *("attributes.list.element.name", "attributes.list.element.value"),
)


class BaseTable:
    """The base table in its folder; nothing is written before something is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._footers = Footers()

    def parts(self) -> list[str]:
        """Names of the parts, in order.

        Raises:
            CorruptFile: a part that the manifest names is gone.
        """
        names = sorted(path.name for path in self.folder.glob("part-*.parquet"))
        there = set(names)
        for name in self._listed():
            if name not in there:
                raise CorruptFile(f"{self.folder / name}: gone. Collect the pictures again.")
        return names

    def append(self, table: "pa.Table") -> list[str]:
        """Add rows to the open part, and to new ones when it is full; gives the parts written."""
        import pyarrow as pa

        if not len(table):
            return []
        rest = table.select(base_schema().names).cast(base_schema())
        parts = self.parts()
        number = _number(parts[-1]) + 1 if parts else 0
        written = []
        if parts and self._is_open(parts[-1]):
            room = PART_ROWS - self.rows(parts[-1])
            self._write(parts[-1], pa.concat_tables([self.read(parts[-1]), rest.slice(0, room)]))
            written.append(parts[-1])
            rest = rest.slice(room)
        while len(rest):
            written.append(f"part-{number:05d}.parquet")
            self._write(written[-1], rest.slice(0, PART_ROWS))
            rest, number = rest.slice(PART_ROWS), number + 1
        self._write_manifest(closed=False)
        return written

    def update(self, changed: "pa.Table") -> list[str]:
        """Replace rows, found by their id; order and number stay. Gives the parts written."""
        import pyarrow as pa

        changed = changed.select(base_schema().names).cast(base_schema())
        written = []
        for part in self.parts():
            found = places_of(self.read(part, ["id"])["id"], changed["id"])
            if (found < 0).all():
                continue
            old = self.read(part)
            # New rows first, old rows behind them: each row is taken from one or the other.
            both = pa.concat_tables([changed, old])
            places = np.where(found < 0, len(changed) + np.arange(len(old)), found)
            self._write(part, both.take(pa.array(places)))
            written.append(part)
        if written:
            self._write_manifest(closed=False)
        return written

    def close(self) -> None:
        """Close the open part: later rows start a new one."""
        if self.parts():
            self._write_manifest(closed=True)

    def read(self, part: str, names: Sequence[str] | None = None) -> "pa.Table":
        """The rows of one part, or some columns of them.

        Raises:
            CorruptFile: the part is damaged.
        """
        wanted = base_schema().names if names is None else list(names)
        # The names inside of lists differ between what was made and what was read.
        return read_parquet(self.folder / part, wanted).cast(_schema_of(wanted))

    def table(self, names: Sequence[str] | None = None) -> "pa.Table":
        """All rows in order, or some columns of them.

        Raises:
            InputError: there is no such column.
        """
        import pyarrow as pa

        wanted = base_schema().names if names is None else list(names)
        for name in wanted:
            if name not in base_schema().names:
                raise InputError(
                    "base table", name, f"one of {', '.join(base_schema().names)}", "Correct it."
                )
        pieces = [self.read(part, wanted) for part in self.parts()]
        return pa.concat_tables([_schema_of(wanted).empty_table(), *pieces])

    def rows(self, part: str) -> int:
        """Number of rows of one part; only its footer is read."""
        return self._footers.of(self.folder / part).rows

    def identity(self, part: str) -> str:
        """What columns depend on; only the footer is read, but of parts from older versions."""
        found = self._footers.of(self.folder / part).facts.get(IDENTITY)
        return found or identity(self.read(part, ["id", "status"]))

    def _is_open(self, part: str) -> bool:
        # A part that no manifest names yet was written just before a kill.
        listed = self._listed()
        is_closed = part in listed and not listed[part].get("open", False)
        return not is_closed and self.rows(part) < PART_ROWS

    def _write(self, part: str, table: "pa.Table") -> None:
        facts = {IDENTITY: identity(table)}
        write_parquet(self.folder / part, table, facts, _REPEATED)

    def _write_manifest(self, closed: bool) -> None:
        parts = self.parts()
        is_open = bool(parts) and not closed and self._is_open(parts[-1])
        entries = [
            {
                "file": part,
                "rows": self.rows(part),
                "identity": self.identity(part),
                "open": is_open and part == parts[-1],
            }
            for part in parts
        ]
        facts = {"format": 2, "parts": entries}
        if facts != self._manifest():
            write_json(self.folder / MANIFEST, facts)

    def _listed(self) -> dict[str, dict[str, Any]]:
        return {part["file"]: part for part in self._manifest().get("parts", [])}

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise CorruptFile(f"{path}: not a manifest ({error}). Remove it.") from error


def _number(part: str) -> int:
    return int(part.removeprefix("part-").split(".")[0])


def _schema_of(names: Sequence[str]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([base_schema().field(name) for name in names])
