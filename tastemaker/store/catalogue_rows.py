"""Rows of the catalogue's base table, to and from Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store.archives import slice_of
from tastemaker.store.hashing import hash_bytes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Stamp:
    """Size and time of a file when it was read, so that an unchanged one need not be read again."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file as it is now; of a tar's member: its length, and the tar's time."""
        piece = slice_of(path)
        if piece is not None:
            return cls(piece.length, piece.file.stat().st_mtime_ns)
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Row:
    """A row of the base table: a record and the stamp of its file, where it has one."""

    record: ImageRecord
    stamp: Stamp | None = None


def identity(table: "pa.Table") -> str:
    """What a column depends on: which pictures a part has, and which of them can be read."""
    texts = [text for name in ("id", "status") for text in table[name].to_pylist()]
    return hash_bytes("\0".join(texts).encode())


def base_schema() -> "pa.Schema":
    """Columns of the base table."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    pair = pa.struct([("name", text), ("value", text)])
    return pa.schema(
        [
            ("id", text),
            ("path", text),
            ("source", text),
            ("key", text),
            ("h", pa.int32()),
            ("w", pa.int32()),
            ("format", text),
            ("mode", text),
            ("frames", pa.int32()),
            ("captions", texts),
            ("tags", texts),
            ("attributes", pa.list_(pair)),
            ("status", text),
            ("error", text),
            ("bytes", pa.int64()),
            ("modified_ns", pa.int64()),
        ]
    )


def places_of(ids: "pa.ChunkedArray", among: "pa.ChunkedArray") -> np.ndarray:
    """Where each id stands among others: int64 `[ids]`, -1 where it does not."""
    from pyarrow import compute

    places = compute.call_function("index_in", [ids], compute.SetLookupOptions(value_set=among))
    return places.fill_null(-1).to_numpy().astype(np.int64)


def table_of(rows: Sequence[Row | ImageRecord]) -> "pa.Table":
    """Rows as a table of `base_schema`."""
    import pyarrow as pa

    given = [row if isinstance(row, Row) else Row(row) for row in rows]
    records, stamps = [row.record for row in given], [row.stamp for row in given]
    sizes = [record.size for record in records]
    attributes = [
        [{"name": name, "value": value} for name, value in record.attributes] for record in records
    ]
    values: dict[str, list[Any]] = {
        "h": [size.h if size else None for size in sizes],
        "w": [size.w if size else None for size in sizes],
        "attributes": attributes,
        "bytes": [stamp.bytes if stamp else None for stamp in stamps],
        "modified_ns": [stamp.modified_ns if stamp else None for stamp in stamps],
    }
    arrays = [
        array_of(
            values[field.name]
            if field.name in values
            else [getattr(record, field.name) for record in records],
            field.type,
        )
        for field in base_schema()
    ]
    return pa.Table.from_arrays(arrays, schema=base_schema())


def array_of(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """Plain values in Arrow; half of a UTF-16 pair in a text, which is no UTF-8, becomes `?`."""
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array(_encodable(values), kind)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_encodable(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _encodable(inner) for name, inner in value.items()}
    return value


def rows_of(table: "pa.Table") -> list[Row]:
    """The rows of a table of `base_schema`."""
    sizes, times = table["bytes"].to_pylist(), table["modified_ns"].to_pylist()
    return [
        Row(record, None if time is None else Stamp(size, time))
        for record, size, time in zip(records_of(table), sizes, times, strict=True)
    ]


def records_of(table: "pa.Table") -> list[ImageRecord]:
    """The records of a table of `base_schema`; what repeats among them is one object."""
    sides = zip(table["h"].to_pylist(), table["w"].to_pylist(), strict=True)
    columns = [
        table["id"].to_pylist(),
        table["path"].to_pylist(),
        _shared(table["source"]),
        table["key"].to_pylist(),
        [None if h is None else Size(h, w) for h, w in sides],
        _shared(table["format"]),
        _shared(table["mode"]),
        table["frames"].to_pylist(),
        _tuples(table["captions"]),
        _tuples(table["tags"]),
        _tuples(table["attributes"]),
        _shared(table["status"]),
        _shared(table["error"]),
    ]
    return [ImageRecord(*values) for values in zip(*columns, strict=True)]


def _shared(column: "pa.ChunkedArray") -> list[Any]:
    return [value for chunk in column.chunks for value in _shared_values(chunk)]


def _shared_values(array: "pa.Array") -> list[Any]:
    coded = cast("pa.DictionaryArray", array.dictionary_encode())
    # The code of a null is made -1, which is the last of the words.
    words = [*coded.dictionary.to_pylist(), None]
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).tolist()
    return [words[code] for code in codes]


def _tuples(column: "pa.ChunkedArray") -> list[tuple[Any, ...]]:
    """Lists as tuples, pairs in them too. Arrow's own way costs ten times as much for pairs."""
    found: list[tuple[Any, ...]] = []
    for chunk in column.chunks:
        lists = cast("pa.ListArray", chunk)
        flat = lists.flatten()
        if flat.type.num_fields:
            inner = cast("pa.StructArray", flat)
            parts = [_shared_values(inner.field(index)) for index in range(flat.type.num_fields)]
            values: list[Any] = list(zip(*parts, strict=True))
        else:
            values = flat.to_pylist()
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        borders = [0, *np.cumsum(lengths).tolist()]
        found += [tuple(values[start:end]) for start, end in pairwise(borders)]
    return found
