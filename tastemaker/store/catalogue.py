"""The catalogue of a collection: Parquet files, one row a picture, and columns beside them.

```
COLLECTION/
  catalog/base/part-00000.parquet ...      one row a picture (`ImageRecord`)
  catalog/base/manifest.json               written last: parts and rows
  catalog/col/OP@VERSION-PARAMS/part-...   one column: id, values, status, error; same parts as base
  files/                                   pictures that have no place of their own
```

A part appears whole or not at all, and is never appended to, so a killed process loses at most the
part it was writing. Queries run in DuckDB over the files; no database file is kept.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.image import ImageRecord
from tastemaker.store.atomic import atomic_file, write_json
from tastemaker.store.catalogue_rows import (
    Row,
    Stamp,
    base_schema,
    identity,
    row_from,
    row_values,
)
from tastemaker.store.hashing import hash_json

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PART_ROWS", "Catalogue", "ColumnKey", "Row", "Stamp"]

PART_ROWS = 256
"""Rows of a part, at most (ours): what a kill can cost."""

MANIFEST = "manifest.json"


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


class Catalogue:
    """The catalogue in a collection's folder; nothing is written before something is added.

    One process writes at a time (the run folder's lock sees to that); any number may read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._base = self.path / "catalog" / "base"

    def picture_path(self, record: ImageRecord) -> Path:
        """Where the picture's file lies.

        Raises:
            CorruptFile: a relative path leads out of the collection.
        """
        if Path(record.path).is_absolute():
            return Path(record.path)
        path = self.path / record.path
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise CorruptFile(f"{self.path}: the path {record.path!r} leads out of the collection")
        return path

    def parts(self) -> list[str]:
        """Names of the base table's parts, in order.

        Raises:
            CorruptFile: a part that the manifest names is gone.
        """
        names = sorted(path.name for path in self._base.glob("part-*.parquet"))
        for part in self._listed():
            if part["file"] not in names:
                raise CorruptFile(f"{self._base / part['file']}: gone. Collect the pictures again.")
        return names

    def append_base(self, rows: Sequence[Row | ImageRecord]) -> str | None:
        """Add one part, atomically; gives its name, or None when there is nothing to add.

        Raises:
            StorageError: the disk is full; the catalogue is as before.
        """
        if not rows:
            return None
        parts = self.parts()
        number = int(parts[-1].removeprefix("part-").split(".")[0]) + 1 if parts else 0
        name = f"part-{number:05d}.parquet"
        self._write_base(name, [row if isinstance(row, Row) else Row(row) for row in rows])
        self._write_manifest()
        return name

    def update_base(self, changed: Mapping[str, Row]) -> None:
        """Replace rows, found by their id, part by part; order and number of rows stay.

        Raises:
            StorageError: the disk is full; each part is as before or as after.
        """
        for name in self.parts():
            rows = self.rows(name)
            if any(row.record.id in changed for row in rows):
                self._write_base(name, [changed.get(row.record.id, row) for row in rows])

    def rows(self, part: str) -> list[Row]:
        """The rows of one part, in order."""
        return [row_from(values) for values in _read(self._base / part).to_pylist()]

    def records(self) -> Iterator[ImageRecord]:
        """All records, in the order in which they were collected.

        Raises:
            InputError: this is no collection.
        """
        parts = self.parts()
        if not parts:
            raise InputError(
                self.path,
                "no catalogue there" if self.path.exists() else "nothing there",
                "a collection",
                "Make one with `tastemaker collect PICTURES -o COLLECTION`.",
            )
        for part in parts:
            for row in self.rows(part):
                yield row.record

    def column_path(self, column: ColumnKey) -> Path:
        """The folder of a column's parts."""
        return self.path / "catalog" / "col" / column.folder

    def missing_parts(self, column: ColumnKey) -> list[str]:
        """Parts of base that the column has not, or that it was computed for other rows."""
        folder = self.column_path(column)
        return [part for part in self.parts() if not self._fits(folder / part, part)]

    def write_column_part(
        self, column: ColumnKey, part: str, rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Write a column's values for one part of base, atomically.

        Args:
            column: which column.
            part: name of the part.
            rows: id -> values, each a plain value or list; `status` is `ok` and `error` null unless
                given. An id without values gets a row with status `missing`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        base = self.rows(part)
        lines = []
        for row in base:
            values = rows.get(row.record.id)
            given = {"status": "missing"} if values is None else {"status": "ok", **values}
            lines.append({"id": row.record.id, "error": None, **given})
        names = dict.fromkeys(name for line in lines for name in line)
        table = pa.table({name: [line.get(name) for line in lines] for name in names})
        table = table.replace_schema_metadata({"base": identity(base)})
        with atomic_file(self.column_path(column) / part) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def finish_column(self, column: ColumnKey) -> None:
        """Write the column's manifest, which makes it visible to queries.

        Raises:
            CorruptFile: a part is missing.
        """
        missing = self.missing_parts(column)
        if missing:
            raise CorruptFile(f"{self.column_path(column)}: {len(missing)} parts are missing")
        facts = {
            "op": column.op,
            "version": column.version,
            "params": dict(column.params),
            "parts": self.parts(),
        }
        write_json(self.column_path(column) / MANIFEST, facts)

    def write_column(self, column: ColumnKey, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Write a whole column at once: id -> values."""
        for part in self.parts():
            self.write_column_part(column, part, rows)
        self.finish_column(column)

    def column(self, column: ColumnKey) -> dict[str, dict[str, Any]]:
        """A column's values by id.

        Raises:
            CorruptFile: the column is not complete.
        """
        missing = self.missing_parts(column)
        if missing:
            raise CorruptFile(f"{self.column_path(column)}: {len(missing)} parts are missing")
        folder = self.column_path(column)
        lines = (line for part in self.parts() for line in _read(folder / part).to_pylist())
        return {line.pop("id"): line for line in lines}

    def query(self, sql: str) -> "pa.Table":
        """Run SQL over the files.

        Views: `images` (the base table), one for each finished column under its operation's name
        (the highest version), and `"all"`, which joins them all by id; there a value `v` of the
        operation `op` is called `op_v`. Attributes are a list of pairs:
        `map_from_entries(attributes)['style']`.

        Raises:
            InputError: it is not one SELECT, or it is wrong; the message is DuckDB's.
        """
        import duckdb

        try:
            with duckdb.connect() as connection:
                kinds = [part.type.name for part in connection.extract_statements(sql)]
                if kinds != ["SELECT"]:
                    raise _bad_query(" and ".join(kinds) or "nothing")
                self._make_views(connection)
                return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _bad_query(str(error).splitlines()[0]) from error

    def _make_views(self, connection: Any) -> None:
        parts = self.parts()
        if not parts:
            connection.register("images", base_schema().empty_table())
        else:
            connection.execute(f"create view images as {_scan(self._base, parts)}")
        selected, joins = ["images.*"], []
        for op, folder in sorted(self._finished_columns().items()):
            connection.execute(f"create view {_quoted(op)} as {_scan(folder, parts)}")
            names = _read(folder / parts[0]).column_names
            selected += [
                f"{_quoted(op)}.{_quoted(name)} as {_quoted(f'{op}_{name}')}"
                for name in names
                if name != "id"
            ]
            joins.append(f"left join {_quoted(op)} using (id)")
        listed, joined = ", ".join(selected), " ".join(joins)
        connection.execute(f'create view "all" as select {listed} from images {joined}')

    def _finished_columns(self) -> dict[str, Path]:
        found: dict[str, tuple[int, Path]] = {}
        for manifest in sorted((self.path / "catalog" / "col").glob(f"*/{MANIFEST}")):
            facts = json.loads(manifest.read_text())
            fits = all(self._fits(manifest.parent / part, part) for part in self.parts())
            if fits and facts["version"] >= found.get(facts["op"], (0, manifest))[0]:
                found[facts["op"]] = (facts["version"], manifest.parent)
        return {op: folder for op, (_, folder) in found.items()}

    def _fits(self, file: Path, part: str) -> bool:
        import pyarrow.parquet as pq

        if not file.exists():
            return False
        metadata = pq.read_schema(file).metadata or {}
        return metadata.get(b"base", b"").decode() == identity(self.rows(part))

    def _write_base(self, name: str, rows: Sequence[Row]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([row_values(row) for row in rows], schema=base_schema())
        with atomic_file(self._base / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def _write_manifest(self) -> None:
        import pyarrow.parquet as pq

        # Parts never change their number of rows: only new ones are looked at.
        rows = {part["file"]: part["rows"] for part in self._listed()}
        parts = [
            {"file": name, "rows": rows.get(name) or pq.read_metadata(self._base / name).num_rows}
            for name in self.parts()
        ]
        write_json(self._base / MANIFEST, {"format": 1, "parts": parts})

    def _listed(self) -> list[dict[str, Any]]:
        manifest = self._base / MANIFEST
        return json.loads(manifest.read_text())["parts"] if manifest.exists() else []


def _read(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: it makes columns of folders that are named like `a=b`.
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise CorruptFile(f"{path}: not a whole Parquet file ({first}).") from error


def _scan(folder: Path, parts: Iterable[str]) -> str:
    files = ", ".join(_literal(folder / part) for part in parts)
    return f"select * from read_parquet([{files}], union_by_name = true, hive_partitioning = false)"


def _literal(path: Path) -> str:
    """A path as an SQL string in which DuckDB sees no wildcard."""
    plain = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
    return "'" + plain.replace("'", "''") + "'"


def _bad_query(got: str) -> InputError:
    return InputError(
        "query", got, 'one SELECT over the views images, "all" and each column', "Correct it."
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
