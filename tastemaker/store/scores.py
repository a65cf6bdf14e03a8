"""Scores on disk: a Parquet row for each sample and scorer, with what determined the value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.store.atomic import atomic_file

_TEXT = ("model", "prompt_id", "file", "scorer", "version", "backbone", "preprocessing", "unit")


def write_scores(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows atomically.

    Args:
        path: the Parquet file.
        rows: `model`, `prompt_id`, `sample_index`, `file`, `scorer`, `version`, `backbone`,
            `preprocessing`, `unit`, `value`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [(name, pa.string()) for name in _TEXT]
    schema = pa.schema([*kinds, ("sample_index", pa.int32()), ("value", pa.float64())])
    with atomic_file(path) as temporary:
        parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), temporary)


def read_scores(path: Path | str) -> list[dict[str, Any]]:
    """All rows, in the order in which they were written."""
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()
