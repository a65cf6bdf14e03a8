"""Votes as files: one JSON object a line, or the same columns as Parquet.

```
{"id": "v1", "prompt": "00012", "a": "base", "b": "dpo", "left": "b", "rater": "r3", "choice": "a"}
```

`question` ("general"), `reason` ("random") and `seconds` (null) may be left out. Reading is strict:
a vote that is not understood is an error with its line, because one that is passed over in silence
changes a result.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from tastemaker.errors import InputError
from tastemaker.records.codec import to_json
from tastemaker.records.vote import Choice, Reason, Vote
from tastemaker.store.atomic import write_text

_KEYS = tuple(field.name for field in fields(Vote))
_NEEDED = tuple(field.name for field in fields(Vote) if field.default is MISSING)
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "left": ("a", "b"),
    "choice": get_args(Choice),
    "reason": get_args(Reason),
}
_TODO = "Mend the file, or export the votes again."


def write_votes(path: Path | str, votes: Iterable[Vote]) -> None:
    """Write votes as JSON lines, atomically.

    Raises:
        StorageError: it cannot be written.
    """
    lines = (json.dumps(to_json(vote), ensure_ascii=False, allow_nan=False) for vote in votes)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_votes(path: Path | str) -> list[Vote]:
    """The votes of a `.jsonl` or `.parquet` file, in order; one that was sent twice counts once.

    Raises:
        InputError: there is no such file, it holds no vote, a row is no vote, or two different
            votes have one id.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no file", "votes as .jsonl or .parquet", "Check the path.")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    found: dict[str, tuple[str, Vote]] = {}
    for where, row in rows:
        vote = _vote(where, row)
        before = found.setdefault(vote.id, (where, vote))
        if before[1] != vote:
            raise InputError(
                where,
                f"another vote with the id {vote.id!r} of {before[0]}",
                "one id a vote",
                _TODO,
            )
    if not found:
        raise InputError(path, "no vote", "at least one", "Finish the study first.")
    return [vote for _, vote in found.values()]


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(path, f"bytes that are no UTF-8 ({error})", "text", _TODO) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(where, f"no JSON ({error})", "one object a line", _TODO) from error
        if not isinstance(row, dict):
            raise InputError(where, type(row).__name__, "one JSON object a line", _TODO)
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(path, f"no readable Parquet ({error})", "votes", _TODO) from error
    for number, row in enumerate(rows, start=1):
        # A column has a value in every row: an empty one of a field that may be left out is none.
        kept = {k: v for k, v in row.items() if v is not None or k in _NEEDED}
        yield f"{path}, row {number}", kept


def _vote(where: str, row: Mapping[str, Any]) -> Vote:
    odd, lacking = [k for k in row if k not in _KEYS], [k for k in _NEEDED if k not in row]
    if odd or lacking:
        got = f"the unknown key {odd[0]!r}" if odd else f"no {lacking[0]!r}"
        raise InputError(where, got, f"the keys {', '.join(_KEYS)}", _TODO)
    for key, value in row.items():
        if key != "seconds" and not (isinstance(value, str) and value):
            raise InputError(where, f"{key} {value!r}", "a text that is not empty", _TODO)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise InputError(where, f"{key} {value!r}", f"one of {', '.join(_CHOICES[key])}", _TODO)
    seconds = row.get("seconds")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and math.isfinite(seconds) and seconds >= 0):
        raise InputError(where, f"seconds {seconds!r}", "a number from 0, or null", _TODO)
    if row["a"] == row["b"]:
        raise InputError(where, f"{row['a']!r} on both sides", "two sides", _TODO)
    return Vote(**row)
