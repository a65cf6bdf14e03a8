"""The catalogue of a collection: Parquet files, one row a picture, and columns beside them.

```
COLLECTION/
  catalog/base/part-00000.parquet ...      one row a picture (`ImageRecord`)
  catalog/base/manifest.json               written last: parts, rows, identities
  catalog/col/OP@VERSION-PARAMS/part-...   one column: id, values, status, error; same parts as base
  files/                                   pictures that have no place of their own
```

A file appears whole or not at all, and is only ever replaced by another one. The same rows give the
same bytes, whatever pieces they came in. Queries run in DuckDB over the files; no database file is
kept.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.image import ImageRecord
from tastemaker.store.base_table import MANIFEST, BaseTable
from tastemaker.store.catalogue_queries import BooleanColumn, ColumnView, Files, evaluate, select
from tastemaker.store.catalogue_rows import Row, Stamp, records_of, rows_of, table_of
from tastemaker.store.column_files import ColumnFiles, ColumnKey, read_manifest
from tastemaker.store.parquet_files import Footers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BooleanColumn", "Catalogue", "ColumnKey", "Row", "Stamp"]

Fields = Mapping[str, str]
"""Name of a value -> its type, one of `column_values.TYPES`."""


class Catalogue:
    """The catalogue in a collection's folder; nothing is written before something is added.

    One process writes at a time (the run folder's lock sees to that); any number may read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._base = BaseTable(self.path / "catalog" / "base")
        self._footers = Footers()

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

    # The base table.

    def parts(self) -> list[str]:
        """Names of the base table's parts, in order.

        Raises:
            CorruptFile: a part that the manifest names is gone.
        """
        return self._base.parts()

    def append_base(self, rows: Sequence[Row | ImageRecord]) -> list[str]:
        """Add rows: to the open part as long as there is room, then to new parts.

        Returns:
            The parts that were written, each atomically.

        Raises:
            StorageError: the disk is full; rows that were there are as before.
        """
        return self._base.append(table_of(rows)) if rows else []

    def append_table(self, table: "pa.Table") -> list[str]:
        """Add rows that are Arrow already, with the columns of `catalogue_rows.base_schema`."""
        return self._base.append(table)

    def close_base(self) -> None:
        """Close the open part: rows that are added later start a new one."""
        self._base.close()

    def update_base(self, changed: Mapping[str, Row]) -> list[str]:
        """Replace rows, found by their id; order and number of rows stay.

        Returns:
            The parts that were written.

        Raises:
            StorageError: the disk is full; each part is as before or as after.
        """
        return self._base.update(table_of(list(changed.values()))) if changed else []

    def rows(self, part: str) -> list[Row]:
        """The rows of one part, in order."""
        return rows_of(self._base.read(part))

    def records(self) -> Iterator[ImageRecord]:
        """All records, in the order in which they were collected; one part at a time is read.

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
            yield from records_of(self._base.read(part))

    def part_table(self, part: str, names: Sequence[str] | None = None) -> "pa.Table":
        """The rows of one part as Arrow, or some columns of them."""
        return self._base.read(part, names)

    def base_table(self, names: Sequence[str] | None = None) -> "pa.Table":
        """All rows in order as Arrow, or some columns of them.

        Raises:
            InputError: there is no such column.
        """
        return self._base.table(names)

    def ids(self, part: str) -> list[str]:
        """Ids of the rows of one part, in order."""
        return self._base.read(part, ["id"])["id"].to_pylist()

    # Columns.

    def column_path(self, column: ColumnKey) -> Path:
        """The folder of a column's files."""
        return self.path / "catalog" / "col" / column.folder

    def missing_rows(
        self,
        column: ColumnKey,
        part: str,
        wanted: Collection[str] | None = None,
        *,
        errors_too: bool = False,
        words: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Usable pictures of a part, in order, for which the column has nothing yet.

        Args:
            column: which column.
            part: name of the part.
            wanted: only these pictures; a set is quickest.
            errors_too: whether pictures whose values could not be found count as well.
            words: for a column that depends on captions and tags, id -> hash of what they are now:
                values that were made from others count as missing.
        """
        return self._files(column).missing_rows(part, wanted, errors_too, words)

    def write_rows(
        self, column: ColumnKey, part: str, rows: Mapping[str, Mapping[str, Any]], fields: Fields
    ) -> None:
        """Merge values of some pictures into a column's file, atomically; the others stay.

        Args:
            column: which column.
            part: name of the part.
            rows: id -> a value for every field (None for a null), or only `error`, the reason that
                there are none. A number that is not finite makes it an error.
            fields: name -> type, as in `column_values.TYPES`.

        Raises:
            ValueError: an id is not in the part, or values and fields differ.
            StorageError: the disk is full; the file is as before.
        """
        self._files(column).write(part, rows, fields)

    def write_table(self, column: ColumnKey, part: str, table: "pa.Table", fields: Fields) -> None:
        """The same as `write_rows` for values that are Arrow already: `id` and every field.

        Raises:
            ValueError: an id is not in the part, columns and fields differ, or a number is not
                finite.
            StorageError: the disk is full; the file is as before.
        """
        self._files(column).write_table(part, table, fields)

    def finish_column(self, column: ColumnKey, fields: Fields) -> None:
        """Bring a column's files up to date with base and make it visible to queries.

        What is still missing stays missing: null, with the status `missing`.
        """
        facts = {"op": column.op, "version": column.version, "params": dict(column.params)}
        self._files(column).finish(facts, fields)

    def is_finished(self, column: ColumnKey) -> bool:
        """Whether a column can be read and queried."""
        return self._files(column).fields() is not None

    def column_part(self, column: ColumnKey, part: str) -> dict[str, dict[str, Any]]:
        """What a column has for a part, finished or not: values, status and error by id."""
        return self._files(column).values(part)

    def column(self, column: ColumnKey) -> dict[str, dict[str, Any]]:
        """A finished column's values, status and error by id; for small collections.

        Raises:
            CorruptFile: the column is not finished.
        """
        if self._files(column).fields() is None:
            raise CorruptFile(f"{self.column_path(column)}: the column is not finished")
        return {line.pop("id"): line for line in self.column_table(column).to_pylist()}

    def column_table(self, column: ColumnKey, names: Sequence[str] | None = None) -> "pa.Table":
        """A finished column in the order of `base_table`: id, fields, status, error, or some of it.

        Raises:
            InputError: the column is not finished, or has no such field.
        """
        return self._files(column).table(names)

    # Queries.

    def query(
        self, sql: str, columns: Mapping[str, ColumnKey] | None = None, threads: int = 0
    ) -> "pa.Table":
        """Run SQL over the files.

        Views: `images` (the base table, with `short_side`, `long_side`, `aspect` and `megapixels`),
        one for each finished column under its operation's name, and `"all"`, which has both; there
        a value `v` of the column `op` is called `op_v`, and vectors are left out. What a column
        lacks is null. Attributes are a list of pairs: `map_from_entries(attributes)['style']`.

        Args:
            sql: one SELECT. It can read these views only, no other file.
            columns: name of a view -> column. By default the highest version of each operation, and
                of those the one that was finished last.
            threads: for the query; 0 takes all cores.

        Raises:
            InputError: it is not one SELECT, or it is wrong; the message is DuckDB's.
        """
        return select(sql, self._visible(columns), threads)

    def boolean_column(
        self, expression: str, columns: Mapping[str, ColumnKey] | None = None, threads: int = 0
    ) -> BooleanColumn:
        """Evaluate one boolean SQL expression over the view `"all"` for every row of base.

        A value may be called `pixels_sharpness` or `pixels.sharpness`.

        Raises:
            InputError: it is not one expression, not boolean, or wrong.
        """
        ids = self.base_table(["id"])["id"]
        return evaluate(expression, self._visible(columns), ids, threads)

    @staticmethod
    def check_boolean(expression: str, columns: Mapping[str, Fields]) -> None:
        """Check an expression for `boolean_column` without any picture.

        Args:
            expression: the SQL.
            columns: name of a view -> fields of that column.

        Raises:
            InputError: as of `boolean_column`.
        """
        views = tuple(ColumnView(name, (), fields, False) for name, fields in columns.items())
        evaluate(expression, Files((), views), table_of([])["id"], threads=1)

    def _files(self, column: ColumnKey) -> ColumnFiles:
        return ColumnFiles(self.column_path(column), self._base, self._footers)

    def _visible(self, columns: Mapping[str, ColumnKey] | None) -> Files:
        if columns is None:
            folders = self._finished_columns()
        else:
            folders = {name: self.column_path(key) for name, key in columns.items()}
        base = tuple((self._base.folder / part).absolute() for part in self.parts())
        return Files(base, tuple(self._view(name, folder) for name, folder in folders.items()))

    def _view(self, name: str, folder: Path) -> ColumnView:
        files = ColumnFiles(folder, self._base, self._footers)
        fields = files.fields()
        if fields is None:
            raise InputError(
                f"column {name}", f"{folder}, which is not finished", "one that is", "Curate again."
            )
        parts = self.parts()
        there = tuple((folder / part).absolute() for part in parts if files.has(part))
        is_aligned = all(files.fits(part, fields) for part in parts)
        return ColumnView(name, there, fields, is_aligned)

    def _finished_columns(self) -> dict[str, Path]:
        found: dict[str, tuple[int, int, Path]] = {}
        for manifest in sorted((self.path / "catalog" / "col").glob(f"*/{MANIFEST}")):
            facts = read_manifest(manifest)
            # Manifests of older versions have no fields; their values are carried over by curate.
            rank = (facts["version"], manifest.stat().st_mtime_ns, manifest.parent)
            if "fields" in facts and rank > found.get(facts["op"], (0, 0, manifest)):
                found[facts["op"]] = rank
        return {op: folder for op, (_, _, folder) in found.items()}
