"""Scores of generated pictures from elsewhere: an evaluation's Parquet file, or lines of JSON."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.store.parquet_files import read_parquet

_NAME = "scores.parquet"
_NEEDED = "columns scorer, value, and file or prompt_id with sample_index"


@dataclass(frozen=True)
class ScoreRow:
    """One value.

    Attributes:
        scorer: its name.
        value: None where the scorer has no opinion; may be no number.
        model: what the file calls the model; empty where it does not say.
        prompt_id: of the picture; empty where it has a `file` only.
        sample_index: of the picture.
        file: name of the picture; empty where it has a `prompt_id` only.
        version: of the scorer.
        backbone: of the scorer.
        unit: of the value.
    """

    scorer: str
    value: float | None
    model: str
    prompt_id: str
    sample_index: int
    file: str
    version: str
    backbone: str
    unit: str


def read_score_rows(path: Path) -> list[ScoreRow]:
    """All values of a file, or of the `scores.parquet` in a folder.

    Raises:
        InputError: there is no such file, or a row is no score.
    """
    file = path / _NAME if path.is_dir() else path
    try:
        rows = _table(file) if file.suffix == ".parquet" else _lines(file)
        return [_row(file, number, row) for number, row in enumerate(rows, start=1)]
    except FileNotFoundError as error:
        raise InputError(
            file, "no such file", f"scores with {_NEEDED}", "Run evaluate, and name its run."
        ) from error
    except (CorruptFile, UnicodeDecodeError) as error:
        raise InputError(
            file, f"damaged ({error})", f"scores with {_NEEDED}", "Run evaluate again."
        ) from error


def _table(file: Path) -> Iterable[Mapping[str, Any]]:
    if not file.is_file():
        raise FileNotFoundError(file)
    return read_parquet(file).to_pylist()


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{file}, line {number}", "no JSON", f"scores with {_NEEDED}", "Mend it."
                    ) from error


def _row(file: Path, number: int, row: Any) -> ScoreRow:
    value = row.get("value") if isinstance(row, dict) else None
    named = isinstance(row, dict) and (
        row.get("file")
        or (row.get("prompt_id") is not None and row.get("sample_index") is not None)
    )
    if (
        not named
        or not isinstance(row.get("scorer"), str)
        or "value" not in row
        or isinstance(value, bool)
        or not isinstance(value, int | float | None)
    ):
        raise InputError(f"{file}, row {number}", f"{row!r}"[:120], _NEEDED, "Mend it.")
    text = {
        name: str(row.get(name) or "")
        for name in ("model", "prompt_id", "file", "version", "backbone", "unit")
    }
    index = row.get("sample_index")
    return ScoreRow(
        scorer=row["scorer"],
        value=None if value is None else _number(value),
        sample_index=index if isinstance(index, int) else 0,
        **text,
    )


def _number(value: int | float) -> float:
    try:
        return float(value)
    # An integer of JSON may be larger than any float.
    except OverflowError:
        return math.inf
