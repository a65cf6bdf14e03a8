"""Columns of a catalogue: for each part of the base table one file with its pictures' values.

Values belong to ids, and an id is the hash of a picture's bytes: so when a part of base changes,
the values of the pictures that are still in it stay right and are carried over.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.store.atomic import write_json
from tastemaker.store.base_table import MANIFEST, BaseTable
from tastemaker.store.catalogue_rows import places_of
from tastemaker.store.column_values import (
    OWN,
    column_schema,
    completed,
    table_of_values,
    vector_lengths,
)
from tastemaker.store.hashing import hash_json
from tastemaker.store.parquet_files import Footers, read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

BASE = "base"
"""Under this name a file's footer keeps the identity of its part of base."""


@dataclass(frozen=True)
class ColumnKey:
    """The name of one enrichment: an operation, its version, and its parameters."""

    op: str
    version: int
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """`OP@VERSION-PARAMS`, with the first eight digits of the parameters' hash."""
        return f"{self.op}@{self.version}-{hash_json(dict(self.params))[:8]}"


class ColumnFiles:
    """The files of one column."""

    def __init__(self, folder: Path, base: BaseTable, footers: Footers) -> None:
        self.folder = folder
        self._base = base
        self._footers = footers

    def has(self, part: str) -> bool:
        """Whether there is a file for a part of base, of whatever age."""
        return (self.folder / part).exists()

    def fits(self, part: str, fields: Mapping[str, str]) -> bool:
        """Whether a file has the rows of its part of base as that is now; two footers are read."""
        if not self.has(part):
            return False
        footer = self._footers.of(self.folder / part)
        named = footer.names == (OWN[0], *fields, *OWN[1:])
        return named and footer.facts.get(BASE) == self._base.identity(part)

    def missing_rows(
        self,
        part: str,
        wanted: Collection[str] | None,
        errors_too: bool = False,
        words: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Usable pictures of a part that have neither values nor an error, in order.

        With `words`, what was made from other words than these counts as missing.
        """
        base = self._base.read(part, ["id", "status"])
        done: set[str] = set()
        if self.has(part):
            rows = read_parquet(self.folder / part, ["id", "status", "words_hash"])
            settled = ["ok"] if errors_too else ["ok", "error"]
            done = {id_ for id_, status in _pairs(rows) if status in settled}
            if words is not None:
                made = zip(rows["id"].to_pylist(), rows["words_hash"].to_pylist(), strict=True)
                done -= {id_ for id_, own in made if own != words.get(id_)}
        if wanted is not None and not isinstance(wanted, set | frozenset | dict):
            wanted = set(wanted)
        usable = [id_ for id_, status in _pairs(base) if status == "ok" and id_ not in done]
        return [id_ for id_ in usable if wanted is None or id_ in wanted]

    def values(self, part: str) -> dict[str, dict[str, Any]]:
        """Values, status and error of the rows that a part's file has, by id."""
        if not self.has(part):
            return {}
        return {line.pop("id"): line for line in read_parquet(self.folder / part).to_pylist()}

    def write(
        self, part: str, rows: Mapping[str, Mapping[str, Any]], fields: Mapping[str, str]
    ) -> None:
        """Merge rows into a part's file; the others keep what they had."""
        old = self._read(part, fields)
        self._merge(part, table_of_values(rows, fields, vector_lengths(old.schema)), old, fields)

    def write_table(self, part: str, table: "pa.Table", fields: Mapping[str, str]) -> None:
        """Merge rows that are Arrow already: `id` and the fields."""
        self._merge(part, completed(table, fields), self._read(part, fields), fields)

    def _merge(
        self, part: str, new: "pa.Table", old: "pa.Table", fields: Mapping[str, str]
    ) -> None:
        ids = self._base.read(part, ["id"])["id"]
        places = places_of(new["id"], ids)
        if (places < 0).any():
            raise ValueError(f"{part} has no picture {new['id'][int(places.argmin())]}")
        table = _in_order(ids, [new, old], fields)
        repeated = [
            "status",
            "error",
            "words_hash",
            *fields,
            *(f"{name}.list.element" for name in fields),
        ]
        repeated = [name for name in repeated if _repeats(name, fields)]
        facts = {BASE: self._base.identity(part)}
        write_parquet(self.folder / part, table, facts, repeated)

    def finish(self, facts: Mapping[str, Any], fields: Mapping[str, str]) -> None:
        """Bring every file up to date, then write the manifest, which makes the column visible."""
        parts = self._base.parts()
        for part in parts:
            if not self.fits(part, fields):
                self.write(part, {}, fields)
        write_json(self.folder / MANIFEST, {**facts, "fields": dict(fields), "parts": parts})

    def fields(self) -> dict[str, str] | None:
        """Name -> type as the manifest has it; None when the column is not finished."""
        path = self.folder / MANIFEST
        return read_manifest(path).get("fields") if path.exists() else None

    def table(self, names: Sequence[str] | None = None) -> "pa.Table":
        """Values of all rows in the order of base; where there are none, nulls and `missing`.

        Raises:
            InputError: the column is not finished, or has no such field.
        """
        import pyarrow as pa

        fields = self.fields()
        if fields is None:
            raise InputError(
                self.folder, "no finished column", "one that curate has measured", "Curate again."
            )
        known = column_schema(fields).names
        wanted = known if names is None else list(names)
        for name in wanted:
            if name not in known:
                raise InputError(self.folder, name, f"one of {', '.join(known)}", "Correct it.")
        pieces = list(self._pieces(fields, wanted))
        lengths = {
            name: length
            for piece in pieces
            for name, length in vector_lengths(piece.schema).items()
        }
        schema = column_schema(fields, lengths)
        schema = pa.schema([schema.field(name) for name in wanted])
        return pa.concat_tables([schema.empty_table(), *(piece.cast(schema) for piece in pieces)])

    def _pieces(self, fields: Mapping[str, str], wanted: Sequence[str]) -> Iterator["pa.Table"]:
        for part in self._base.parts():
            if self.fits(part, fields):
                yield read_parquet(self.folder / part, wanted)
            else:
                ids = self._base.read(part, ["id"])["id"]
                yield _in_order(ids, [self._read(part, fields)], fields).select(list(wanted))

    def _read(self, part: str, fields: Mapping[str, str]) -> "pa.Table":
        """A part's file as it is; empty when there is none, only errors if it has other fields."""
        if not self.has(part):
            return column_schema(fields).empty_table()
        table = read_parquet(self.folder / part)
        if table.column_names != column_schema(fields).names:
            lines = table.select(list(OWN)).to_pylist()
            failed = {line["id"]: line for line in lines if line["status"] == "error"}
            return table_of_values(failed, fields)
        schema = column_schema(fields, vector_lengths(table.schema))
        return table.cast(schema)


def read_manifest(path: Path) -> dict[str, Any]:
    """What a column's manifest says: op, version, params, fields, parts.

    Raises:
        CorruptFile: it is none.
    """
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise CorruptFile(f"{path}: not a manifest ({error}). Remove it, curate again.") from error
    if not isinstance(facts, dict) or not {"op", "version"} <= facts.keys():
        raise CorruptFile(f"{path}: not a manifest. Remove it, then curate again.")
    return facts


def _pairs(table: "pa.Table") -> Iterator[tuple[str, str]]:
    return zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True)


def _in_order(
    ids: "pa.ChunkedArray", tables: Sequence["pa.Table"], fields: Mapping[str, str]
) -> "pa.Table":
    """One row for each id, from the first table that has it; `missing` and nulls where none has."""
    import pyarrow as pa

    lengths = {
        name: length for table in tables for name, length in vector_lengths(table.schema).items()
    }
    schema = column_schema(fields, lengths)
    both = pa.concat_tables([table.cast(schema) for table in tables])
    places = places_of(ids, both["id"])
    taken = both.take(pa.array(places, mask=places < 0))
    status = taken["status"].fill_null("missing")
    taken = taken.set_column(0, schema.field("id"), ids)
    taken = taken.set_column(schema.get_field_index("status"), schema.field("status"), status)
    # Vectors that no row has any more have no length: the same rows give the same file.
    lengths = {name: n for name, n in lengths.items() if taken[name].null_count < len(taken)}
    return taken.cast(column_schema(fields, lengths))


def _repeats(name: str, fields: Mapping[str, str]) -> bool:
    kind = fields.get(name.partition(".")[0], "string")
    return kind == ("list<string>" if ".list" in name else "string")
