"""Parquet files that appear whole, whose bytes depend on their rows only, and their footers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tastemaker.errors import CorruptFile
from tastemaker.store.atomic import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Footer:
    """What a file's footer says; nothing else of the file is read for it.

    Attributes:
        rows: number of rows.
        names: columns, in order.
        facts: what was written with the file.
    """

    rows: int
    names: tuple[str, ...]
    facts: Mapping[str, str]


class Footers:
    """Footers of some files; one is read again only when its file was replaced."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], Footer] = {}

    def of(self, path: Path) -> Footer:
        """The footer of a file.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptFile: it is no whole Parquet file.
        """
        status = path.stat()
        # A file is replaced by another one, never written again: the inode tells them apart even
        # when both were made within one tick of the clock.
        key = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = _read_footer(path)
        return self._known[key]


def read_parquet(path: Path, names: Sequence[str] | None = None) -> "pa.Table":
    """A file's rows, or some of its columns.

    Raises:
        CorruptFile: it is no whole Parquet file, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: it makes columns of folders that are named like `a=b`.
        with pq.ParquetFile(path) as file:
            table = file.read(None if names is None else list(names))
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(path, error) from error
    absent = [name for name in names or () if name not in table.column_names]
    if absent:
        raise CorruptFile(f"{path}: it has no column {absent[0]!r}")
    return table if names is None else table.select(list(names))


def write_parquet(
    path: Path, table: "pa.Table", facts: Mapping[str, str], repeated: Iterable[str]
) -> None:
    """Write a file atomically; the same rows and facts give the same bytes.

    Args:
        path: the file.
        table: the rows.
        facts: kept in the footer.
        repeated: columns whose values repeat (`tags.list.element` inside a list); only these get a
            dictionary, which costs time and gains nothing for numbers and hashes.

    Raises:
        StorageError: the disk is full.
    """
    import pyarrow.parquet as pq

    # The borders of chunks would show in the borders of pages.
    table = table.replace_schema_metadata(dict(facts)).combine_chunks()
    with atomic_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=max(1, len(table)),
            compression="zstd",
            use_dictionary=list(repeated),  # pyright: ignore[reportArgumentType]
        )


def _read_footer(path: Path) -> Footer:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(path, error) from error
    facts = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return Footer(metadata.num_rows, tuple(schema.names), facts)


def _not_whole(path: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}).")
