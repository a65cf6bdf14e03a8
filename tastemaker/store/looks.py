"""How the pictures of a collection look, read from its columns for the search for duplicates."""

from typing import TYPE_CHECKING

import numpy as np

from tastemaker.curation.copies import Looks, Vectors
from tastemaker.store.catalogue import Catalogue, ColumnKey

if TYPE_CHECKING:
    import pyarrow as pa

_GRID = (8, 8, 3)


def read_looks(catalogue: Catalogue, column: ColumnKey) -> Looks:
    """Hashes and colours of a column of pixel measurements, in the order of the base table."""
    table = catalogue.column_table(column, ["phash", "phash_mirror", "colours", "status"])
    rows = _measured(table)
    table = table.take(rows)
    colours = table["colours"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Looks(
        rows,
        _from_hex(table["phash"].to_pylist()),
        _from_hex(table["phash_mirror"].to_pylist()),
        colours.astype(np.uint8).reshape(len(rows), *_GRID),
    )


def read_vectors(catalogue: Catalogue, column: ColumnKey) -> Vectors:
    """Embeddings of a column, scaled to length 1: float16 leaves them a little off it."""
    table = catalogue.column_table(column, ["vector", "status"])
    rows = _measured(table)
    vectors = table.take(rows)["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    values = flat.reshape(len(rows), -1) if len(rows) else np.zeros((0, 1), np.float32)
    return Vectors(rows, values / np.linalg.norm(values, axis=1, keepdims=True))


def _measured(table: "pa.Table") -> np.ndarray:
    """Rows with values, int64, ascending."""
    return np.flatnonzero(np.array(table["status"].to_pylist()) == "ok").astype(np.int64)


def _from_hex(texts: list[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64)
