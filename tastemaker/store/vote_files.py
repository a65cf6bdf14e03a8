"""Votes as files that other programs read: JSONL, CSV or Parquet, told by the name's ending.

All have the same columns. Reading is strict: a file is taken whole or refused with the line.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tastemaker.errors import InputError
from tastemaker.records.vote import Choice, Reason
from tastemaker.store.atomic import write_text
from tastemaker.store.people_tables import VOTE_COLUMNS, StoredVote, vote_of

FORMATS = (".jsonl", ".csv", ".parquet")

_NUMBERS = ("seconds", "created")
_MAY_BE_NULL = ("seconds", "superseded_by")
_MAY_BE_EMPTY = ("prompt", "viewport", "app_version")
_AMONG: Mapping[str, tuple[str, ...]] = {
    "choice": get_args(Choice),
    "reason": get_args(Reason),
    "shown_left": ("a", "b"),
}
_LONGEST = 2000
_WORDS = ("choice", "question", "rater", "reason", "shown_left", "study")


def write_votes(path: Path | str, votes: Sequence[StoredVote]) -> None:
    """Write votes, undone ones included; names and tokens of raters are not among them.

    Raises:
        InputError: the name ends in none of `.jsonl`, `.csv`, `.parquet`.
    """
    path, rows = Path(path), [vote.row for vote in votes]
    kind = _format(path)
    if kind == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_text(path, "".join(lines))
    elif kind == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, VOTE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        # The shortest text that gives the same number again.
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_text(path, text.getvalue())
    else:
        _write_parquet(path, rows)


def read_votes(path: Path | str) -> list[StoredVote]:
    """Read what `write_votes`, or another program, has written.

    Raises:
        InputError: there is no such file, or a line is no vote; the message names the line.
    """
    path = Path(path)
    kind = _format(path)
    if not path.is_file():
        raise InputError(path, "no file", "a file of votes", "Check the name.")
    found, lines = [], dict[str, int]()
    for number, row in _rows(path, kind):
        vote = vote_of(_checked(row, f"{path}, line {number}"))
        before = lines.setdefault(vote.vote.id, number)
        if before != number:
            raise _wrong(f"{path}, line {number}", f"the id of line {before} again", "its own id")
        found.append(vote)
    return found


def read_gold(path: Path | str) -> list[tuple[str, str]]:
    """(better, worse) of each line of a JSONL or CSV file.

    Raises:
        InputError: a line has not these two, or they are the same.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        raise InputError(path, "no such file", "a .jsonl or .csv file", "Check the name.")
    found = []
    for number, row in _rows(path, path.suffix):
        pair = (row.get("better"), row.get("worse"))
        sound = all(isinstance(id_, str) and id_ for id_ in pair) and pair[0] != pair[1]
        if not sound or set(row) != {"better", "worse"}:
            raise _wrong(f"{path}, line {number}", f"{row}", "two ids: better, worse")
        found.append((str(pair[0]), str(pair[1])))
    return found


def _format(path: Path) -> str:
    if path.suffix not in FORMATS:
        raise InputError(path, f"the ending '{path.suffix}'", " or ".join(FORMATS), "Choose one.")
    return path.suffix


def _rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if kind == ".parquet":
        yield from enumerate(_read_parquet(path), start=1)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, "another encoding", "UTF-8") from error
    yield from _csv_rows(path, text) if kind == ".csv" else _json_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _wrong(f"{path}, line {reader.line_num}", "another number of cells", "all")
            # An empty cell is all that CSV has for nothing.
            nulls = {name: row[name] or None for name in _MAY_BE_NULL if name in row}
            yield reader.line_num, {**row, **nulls}
    except csv.Error as error:
        raise _wrong(f"{path}, line {reader.line_num}", f"no CSV ({error})", "CSV") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _wrong(f"{path}, line {number}", f"no JSON ({error})", "an object") from error
        if not isinstance(value, dict):
            raise _wrong(f"{path}, line {number}", f"a {type(value).__name__}", "an object")
        yield number, value


def _checked(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    lacking, odd = set(VOTE_COLUMNS) - row.keys(), row.keys() - set(VOTE_COLUMNS)
    if lacking or odd:
        said = [f"no {name}" for name in sorted(lacking)] + [f"a {name}" for name in sorted(odd)]
        raise _wrong(where, ", ".join(said), f"the columns {', '.join(VOTE_COLUMNS)}")
    return {name: _value(name, row[name], where) for name in VOTE_COLUMNS}


def _value(name: str, value: Any, where: str) -> Any:
    if value is None and name in _MAY_BE_NULL:
        return None
    if name in _NUMBERS:
        try:
            number = math.nan if isinstance(value, bool) else float(str(value))
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise _wrong(where, f"{name} {value!r:.60}", "a number of seconds")
        return number
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise _wrong(where, f"{name} {value!r:.60}", f"a text of at most {_LONGEST} characters")
    if not value and name not in _MAY_BE_EMPTY:
        raise _wrong(where, f"an empty {name}", "a text")
    if name in _AMONG and value not in _AMONG[name]:
        raise _wrong(where, f"{name} {value!r:.60}", f"one of {', '.join(_AMONG[name])}")
    return value


def _wrong(where: object, got: str, expected: str) -> InputError:
    return InputError(where, got, expected, "Nothing was read: correct the file.")


def _cell(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    from tastemaker.store.parquet_files import write_parquet

    fields = [
        pa.field(name, pa.float64() if name in _NUMBERS else pa.string()) for name in VOTE_COLUMNS
    ]
    write_parquet(
        path, pa.Table.from_pylist([dict(row) for row in rows], pa.schema(fields)), {}, _WORDS
    )


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from tastemaker.errors import CorruptFile
    from tastemaker.store.parquet_files import read_parquet

    try:
        return read_parquet(path).to_pylist()
    except CorruptFile as error:
        raise InputError(
            path, f"no whole Parquet file ({error})", "one", "Export again."
        ) from error
