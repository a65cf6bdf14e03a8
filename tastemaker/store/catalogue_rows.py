"""Rows of the catalogue's base table, to and from Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store.hashing import hash_json

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Stamp:
    """Size and time of a file when it was read, so that an unchanged one need not be read again."""

    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file as it is now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Row:
    """A row of the base table: a record and the stamp of its file, where it has one."""

    record: ImageRecord
    stamp: Stamp | None = None


def identity(rows: Sequence[Row]) -> str:
    """What a column depends on: which pictures a part has, and which of them can be read."""
    return hash_json([[row.record.id, row.record.status] for row in rows])


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


def row_values(row: Row) -> dict[str, Any]:
    """One line of the base table."""
    record, stamp = row.record, row.stamp
    return {
        "id": record.id,
        "path": record.path,
        "source": record.source,
        "key": record.key,
        "h": record.size.h if record.size else None,
        "w": record.size.w if record.size else None,
        "format": record.format,
        "mode": record.mode,
        "frames": record.frames,
        "captions": list(record.captions),
        "tags": list(record.tags),
        "attributes": [{"name": name, "value": value} for name, value in record.attributes],
        "status": record.status,
        "error": record.error,
        "bytes": stamp.bytes if stamp else None,
        "modified_ns": stamp.modified_ns if stamp else None,
    }


def row_from(values: dict[str, Any]) -> Row:
    """The row of one line of the base table."""
    values = dict(values)
    h, w = values.pop("h"), values.pop("w")
    size, time = values.pop("bytes"), values.pop("modified_ns")
    values["captions"], values["tags"] = tuple(values["captions"]), tuple(values["tags"])
    values["attributes"] = tuple((pair["name"], pair["value"]) for pair in values["attributes"])
    record = ImageRecord(size=None if h is None else Size(h, w), **values)
    return Row(record, None if time is None else Stamp(size, time))
