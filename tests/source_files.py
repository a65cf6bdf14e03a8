"""Pictures, tars and Parquet files as other programs write them, for tests of sources."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(colour="red", format_: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format_)
    return file.getvalue()


def packed(path: Path, members, format_: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of names and bytes; instead of bytes a changed `TarInfo` may be given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in members:
            if isinstance(data, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                data.name = name
                tar.addfile(data)
    return path


def table(path: Path, columns: dict, *, row_group_size: int = 1000, **options) -> Path:
    """A Parquet file of columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, **options)
    return path


def pick_a_pic(path: Path, rows: list[dict], **options) -> Path:
    """A file with the columns of Pick-a-Pic, filled up where a row says nothing."""
    types = {
        "are_different": pa.bool_(),
        "best_image_uid": pa.string(),
        "caption": pa.string(),
        "created_at": pa.timestamp("ns"),
        "has_label": pa.bool_(),
        "image_0_uid": pa.string(),
        "image_0_url": pa.string(),
        "image_1_uid": pa.string(),
        "image_1_url": pa.string(),
        "jpg_0": pa.binary(),
        "jpg_1": pa.binary(),
        "label_0": pa.float64(),
        "label_1": pa.float64(),
        "model_0": pa.string(),
        "model_1": pa.string(),
        "ranking_id": pa.int64(),
        "user_id": pa.int64(),
        "num_example_per_prompt": pa.int64(),
    }
    defaults = {
        "are_different": True,
        "created_at": 1_678_000_000_123_456_789,
        "has_label": True,
        "user_id": 7,
        "num_example_per_prompt": 2,
        "model_0": "dreamlike",
        "model_1": "sdxl",
    }
    left_out = options.pop("left_out", ())
    columns = {
        name: pa.array([{**defaults, **row}.get(name) for row in rows], kind)
        for name, kind in types.items()
        if name not in left_out
    }
    return table(path, columns, **options)


def spoil(path: Path, offset: int, length: int) -> None:
    """Overwrite some bytes of a file."""
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = b"\xa5" * length
    path.write_bytes(bytes(data))


def by_key(source, where=None) -> dict:
    """The items of a source by key; each key stands for one."""
    items = list(source.items(where))
    found = {item.key: item for item in items}
    assert len(found) == len(items) == source.count(where)
    return found


def problems(source) -> dict[str, str]:
    """What cannot be used."""
    return {key: item.problem for key, item in by_key(source).items() if item.problem}
