"""Rows of Parquet files from elsewhere, a few at a time, and what kind of table a file is.

A row group or a cell that cannot be read costs its rows, never the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tastemaker.errors import InputError
from tastemaker.store.file_kinds import HEAD_BYTES, picture_ending

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TableKind = Literal["pictures", "pick-a-pic", "pick-a-pic without pictures", "latents", "table"]

_BATCH_ROWS = 16
"""Rows with pictures in memory at a time."""

_BATCH_SMALL = 4096
"""Rows without pictures in memory at a time."""

_LOOKED_AT = 32
"""Values of a binary column among which one must be a picture."""

_BUFFER_BYTES = 1 << 20
_PICK_A_PIC = frozenset(("label_0", "label_1", "caption"))
_PICK_A_PIC_BYTES = frozenset(("jpg_0", "jpg_1"))
_PICK_A_PIC_NAMES = frozenset(("image_0_uid", "image_1_uid"))
_LATENTS = (frozenset(("image_hash", "index")), frozenset(("tag_string", "caption")))


@dataclass(frozen=True)
class TableRow:
    """One row: its number in the file, its values by column, or why it cannot be read.

    Attributes:
        number: from 0.
        values: columns to plain values; a cell that cannot be read is None.
        problem: why the whole row cannot be read, or None.
        unread: columns whose cell cannot be read.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    unread: tuple[str, ...] = ()


def open_table(path: Path) -> "pq.ParquetFile":
    """A Parquet file that is read in small pieces, its checksums looked at.

    Raises:
        InputError: it cannot be opened as one.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(
            path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        return file
    # A damaged or hostile footer fails in many ways.
    except Exception as error:
        raise InputError(
            path,
            f"truncated or damaged ({_first_line(error)})",
            "a Parquet file",
            "Copy the file again from its source.",
        ) from error


def kind_of_table(path: Path) -> TableKind:
    """What a Parquet file holds, by its columns and their first values.

    Raises:
        InputError: it cannot be opened.
    """
    with open_table(path) as file:
        names = set(file.schema_arrow.names)
        if names >= _PICK_A_PIC | _PICK_A_PIC_BYTES:
            return "pick-a-pic"
        if names >= _PICK_A_PIC | _PICK_A_PIC_NAMES:
            return "pick-a-pic without pictures"
        if picture_columns(file):
            return "pictures"
        return "latents" if all(names & some for some in _LATENTS) else "table"


def picture_columns(file: "pq.ParquetFile") -> tuple[str, ...]:
    """Columns of bytes, or of Hugging Face's `{bytes, path}`, in which pictures are found."""
    names = [field.name for field in file.schema_arrow if _holds_bytes(field.type)]
    return tuple(name for name in names if _has_picture(file, name))


def read_rows(
    file: "pq.ParquetFile", columns: Sequence[str], *, groups: Sequence[int] | None = None
) -> Iterator[TableRow]:
    """All rows in order; those of a row group that breaks off are rows with a problem.

    Args:
        file: from `open_table`.
        columns: which to read.
        groups: which row groups; all by default.
    """
    schema = file.schema_arrow
    has_bytes = any(_holds_bytes(schema.field(name).type) for name in columns)
    size = _BATCH_ROWS if has_bytes else _BATCH_SMALL
    first = 0
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if groups is None or group in groups:
            number = first
            problem = None
            try:
                batches = file.iter_batches(size, [group], list(columns), use_threads=False)
                for batch in batches:
                    for row in _rows_of(batch, number):
                        yield row
                        number += 1
            # Damaged pages fail in many ways; each means that the rest cannot be read.
            except Exception as error:
                problem = f"truncated or damaged (row group {group}: {_first_line(error)})"
            for missing in range(number, first + count):
                yield TableRow(missing, problem=problem or f"row group {group} has fewer rows")
        first += count


def plain_columns(schema: "pa.Schema") -> list[str]:
    """Columns of single values that can be written as text, or lists of texts."""
    return [field.name for field in schema if _is_plain(field.type)]


def plain_text(value: Any) -> Any:
    """A value as text, number or bool; lists as they are; None for what has no plain form."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value if isinstance(value, str | int | float | list) else None


def _rows_of(batch: "pa.RecordBatch", first: int) -> Iterator[TableRow]:
    names = batch.schema.names
    columns = [_readable(batch.column(place)) for place in range(len(names))]
    for place in range(batch.num_rows):
        values, unread = {}, []
        for name, column in zip(names, columns, strict=True):
            try:
                values[name] = column[place].as_py()
            # Bytes that are no UTF-8, years beyond 9999 and the like: this cell alone.
            except Exception:
                values[name] = None
                unread.append(name)
        yield TableRow(first + place, values, None, tuple(unread))


def _readable(column: "pa.Array") -> "pa.Array":
    """Times in nanoseconds as microseconds: Python has no finer ones."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    return column


def _has_picture(file: "pq.ParquetFile", name: str) -> bool:
    seen = unreadable = 0
    for row in read_rows(file, [name]):
        data = bytes_in(row.values.get(name))
        if data is None:
            unreadable += row.problem is not None
            continue
        if picture_ending(data[:HEAD_BYTES]) is not None:
            return True
        seen += 1
        if seen == _LOOKED_AT:
            return False
    # Where nothing can be read, its rows say so; otherwise they would be passed over.
    return seen == 0 and unreadable > 0


def bytes_in(value: Any) -> bytes | None:
    """The bytes in a cell of a picture column; None when there are none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _holds_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_plain(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
        return _is_text(kind)
    tests = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    tests = (*tests, types.is_timestamp, types.is_date, types.is_time, _is_text)
    return any(test(kind) for test in tests)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
