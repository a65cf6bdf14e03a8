"""A collection in memory: which pictures are shown, in which order, and what is known of each.

Axes: orders are int32 `[rows]`, places in the base table; masks are bool `[pictures]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.catalogue_rows import places_of

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "path", "source", "key", "h", "w", "format", "captions", "tags", "attributes")
THREADS = 2
"""Of one query, so that several pages at a time stay quick (ours)."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to see.

    Attributes:
        words: that captions, tags or the file's name must hold, all of them.
        expression: boolean SQL over the columns; empty for none.
        sort: name of a column of numbers; empty keeps the order of collecting.
        descending: the largest first.
        kept: only those that a curation kept (True) or dropped (False).
        rule: only those that this rule of the curation dropped.
    """

    words: str = ""
    expression: str = ""
    sort: str = ""
    descending: bool = True
    kept: bool | None = None
    rule: str = ""


@dataclass(frozen=True)
class Judged:
    """Verdicts of a curation, in the order of the base table.

    Attributes:
        kept: bool `[pictures]`; False also where the curation did not see a picture.
        seen: bool `[pictures]`.
        table: the rows of `verdicts.parquet`.
        places: int64 `[pictures]`: row of `table`, -1 where there is none.
    """

    kept: np.ndarray
    seen: np.ndarray
    table: "pa.Table"
    places: np.ndarray

    @cached_property
    def rules(self) -> list[tuple[str, int]]:
        """Each rule that dropped pictures and how many, the most first."""
        counts = self.table["rule"].drop_null().value_counts().to_pylist()
        return sorted(((c["values"], c["counts"]) for c in counts), key=lambda c: -c[1])

    def dropped_by(self, rule: str) -> np.ndarray:
        """The pictures whose first failed rule is this one."""
        from pyarrow import compute

        same = compute.call_function("equal", [self.table["rule"], rule])
        mask = same.fill_null(False).to_numpy()
        return self.seen & mask[np.maximum(self.places, 0)]

    def of(self, place: int) -> dict[str, Any] | None:
        """The verdict on one picture."""
        row = int(self.places[place])
        return None if row < 0 else self.table.slice(row, 1).to_pylist()[0]


@dataclass(frozen=True)
class Shelf:
    """The base table of a collection as it was when it was read."""

    catalogue: Catalogue
    table: "pa.Table"
    numbers: tuple[str, ...]
    _sorted: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Pictures in all."""
        return len(self.table)

    @cached_property
    def places(self) -> dict[str, int]:
        """Id -> place; of copies the first."""
        ids = self.table["id"].to_pylist()
        return dict(zip(reversed(ids), reversed(range(len(ids))), strict=True))

    def order(self, wish: Wish, judged: Judged | None) -> np.ndarray:
        """The pictures to show, in order.

        Raises:
            InputError: the expression is wrong, or the column is not one of numbers.
        """
        where = np.ones(self.count, bool)
        for expression in (_words_sql(wish.words), wish.expression.strip()):
            if expression:
                where &= self.catalogue.boolean_column(expression, threads=THREADS).values
        if judged is not None and wish.kept is not None:
            where &= judged.kept if wish.kept else judged.seen & ~judged.kept
        if judged is not None and wish.rule:
            where &= judged.dropped_by(wish.rule)
        rows = np.flatnonzero(where).astype(np.int32)
        if not wish.sort:
            return rows
        value = self.values(wish.sort)[rows]
        rank = np.where(np.isfinite(value), -value if wish.descending else value, np.inf)
        return rows[np.argsort(rank, kind="stable")]

    def marked(self, marks: Mapping[str, str], which: str) -> np.ndarray:
        """The pictures with a mark, or with `none`; bool `[pictures]`."""
        given = [id_ for id_, mark in marks.items() if which in ("none", mark)]
        mask = np.zeros(self.count, bool)
        mask[[self.places[id_] for id_ in given if id_ in self.places]] = True
        return ~mask if which == "none" else mask

    def values(self, name: str) -> np.ndarray:
        """A column of numbers in the order of the base table, NaN where it has none.

        Raises:
            InputError: there is no such column.
        """
        if name not in self.numbers:
            raise InputError("sort", repr(name), "a column of numbers", "Choose one of the list.")
        if name not in self._sorted:
            quoted = '"' + name.replace('"', '""') + '"'
            found = self.catalogue.query(
                f'select id, {quoted}::double as value from "all"', threads=THREADS
            )
            values = found["value"].to_numpy().astype(float)
            if not found["id"].equals(self.table["id"]):
                places = places_of(self.table["id"], found["id"])
                values = np.where(places >= 0, values[np.maximum(places, 0)], np.nan)
            self._sorted[name] = values
        return self._sorted[name]

    def lines(
        self, places: Sequence[int], wish: Wish, judged: Judged | None
    ) -> list[dict[str, Any]]:
        """What a page shows of some pictures."""
        rows = self.table.take(list(places)).to_pylist() if len(places) else []
        values = self.values(wish.sort) if wish.sort else None
        lines = []
        for place, row in zip(places, rows, strict=True):
            verdict = judged.of(place) if judged is not None else None
            lines.append(
                {
                    "id": row["id"],
                    "name": row["key"] or Path(row["path"]).name,
                    "h": row["h"],
                    "w": row["w"],
                    "text": (row["captions"] or [""])[0],
                    "ok": row["status"] == "ok",
                    "value": _number(values[place]) if values is not None else None,
                    "kept": verdict["kept"] if verdict is not None else None,
                    "rule": verdict["rule"] if verdict is not None else None,
                }
            )
        return lines

    def whole(self, id_: str, judged: Judged | None) -> dict[str, Any]:
        """All that is known of one picture.

        Raises:
            KeyError: there is none of that id.
        """
        place = self.places[id_]
        row = self.table.slice(place, 1).to_pylist()[0]
        literal = "'" + id_.replace("'", "''") + "'"
        known = self.catalogue.query(f'select * from "all" where id = {literal}', threads=1)
        base = {*row, "bytes", "modified_ns", "mode", "frames"}
        measured = {
            name: value
            for name, value in (known.to_pylist() or [{}])[0].items()
            if name not in base
            and value is not None
            and not name.endswith(("_status", "_words_hash"))
        }
        verdict = judged.of(place) if judged is not None else None
        return {**row, "measured": measured, "verdict": verdict}

    def path(self, id_: str) -> Path:
        """Where a picture lies.

        Raises:
            KeyError: there is none of that id.
            CorruptFile: its path leads out of the collection.
        """
        place = self.places[id_]
        record = ImageRecord(id_, self.table["path"][place].as_py(), "", "", None)
        return self.catalogue.picture_path(record)


def read_shelf(collection: Path) -> Shelf:
    """Read a collection's base table.

    Raises:
        InputError: this is no collection.
    """
    catalogue = Catalogue(collection)
    if not catalogue.parts():
        next(catalogue.records())  # says what to do
    table = catalogue.base_table([*_COLUMNS, "status", "error"])
    return Shelf(catalogue, table, _numbers(catalogue))


def _numbers(catalogue: Catalogue) -> tuple[str, ...]:
    """Columns of the view `"all"` that hold numbers."""
    import pyarrow.types as types

    schema = catalogue.query('select * from "all" limit 0', threads=1).schema
    return tuple(
        field.name
        for field in schema
        if (types.is_floating(field.type) or types.is_integer(field.type))
        and field.name not in ("modified_ns", "frames")
    )


def read_judged(verdicts: Path, shelf: Shelf) -> Judged:
    """Read the verdicts of a curation of this collection."""
    import pyarrow.parquet as pq

    table = pq.read_table(
        verdicts, columns=["id", "kept", "rule", "reason", "got", "limit", "failed"]
    )
    places = places_of(shelf.table["id"], table["id"])
    seen = places >= 0
    kept = table["kept"].to_numpy()
    return Judged(seen & kept[np.maximum(places, 0)] if len(kept) else seen, seen, table, places)


def _words_sql(words: str) -> str:
    """Captions, tags and the file's name hold all the words."""
    text = "lower(concat_ws(' ', array_to_string(captions, ' '), array_to_string(tags, ' '), key))"
    tests = []
    for word in words.lower().split()[:20]:
        literal = "'" + word.replace("'", "''") + "'"
        tests.append(f"contains({text}, {literal})")
    return " and ".join(tests)


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
