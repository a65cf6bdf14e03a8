"""Votes as files: JSONL, CSV or Parquet, told by the name's ending; one format for every command.

```
{"id": "v1", "prompt": "00012", "a": "base", "b": "dpo", "left": "b", "rater": "r3", "choice": "a"}
```

These seven are needed, the other columns of an export may be left out. `people.sqlite`, or a folder
that holds one, stands for the votes in it. A vote that was undone or came late is in the file and
says so (`superseded_by`): it never counts.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from tastemaker.errors import InputError
from tastemaker.records.vote import Choice, Reason, Vote
from tastemaker.store.atomic import write_text
from tastemaker.store.hashing import hash_json
from tastemaker.store.people import FILE, People
from tastemaker.store.people_tables import VOTE_COLUMNS, StoredVote, is_same

FORMATS = (".jsonl", ".csv", ".parquet")

COLUMNS = tuple("left" if name == "shown_left" else name for name in VOTE_COLUMNS)
"""What an exported vote has, in this order."""

NEEDED = tuple(field.name for field in fields(Vote) if field.default is MISSING)
"""What a vote cannot do without."""

_DEFAULTS: Mapping[str, Any] = {
    field.name: field.default
    for kind in (Vote, StoredVote)
    for field in fields(kind)
    if field.default is not MISSING
}
_NUMBERS = ("seconds", "created")
_MAY_BE_EMPTY = ("prompt", "study", "viewport", "app_version")
_AMONG: Mapping[str, tuple[str, ...]] = {
    "choice": get_args(Choice),
    "reason": get_args(Reason),
    "left": ("a", "b"),
}
_LONGEST = 2000
_MOST_SECONDS = 1e12
_WORDS = ("choice", "left", "question", "rater", "reason", "study")
_REMEDY = "Mend the file, or export the votes again."


def write_votes(path: Path | str, votes: Sequence[StoredVote]) -> None:
    """Write votes, undone ones included; names and tokens of raters are not among them.

    Raises:
        InputError: the name ends in none of `.jsonl`, `.csv`, `.parquet`.
    """
    path, rows = Path(path), [_row(vote) for vote in votes]
    kind = _format(path)
    if kind == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_text(path, "".join(lines))
    elif kind == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        # The shortest text that gives the same number again.
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_text(path, text.getvalue())
    else:
        _write_parquet(path, rows)


def read_votes(path: Path | str) -> list[StoredVote]:
    """All votes in order; one that was sent twice is there once.

    Strict: a file is taken whole or refused, because a vote that is passed over in silence changes
    a result.

    Raises:
        InputError: there is no such file, it holds no vote, a line is none, or two different votes
            have one id; the message names the line.
    """
    path = Path(path)
    found: dict[str, tuple[str, StoredVote]] = {}
    for line, vote in vote_lines(path):
        if isinstance(vote, str):
            raise InputError(f"{path}, {line}", vote, f"votes with {', '.join(NEEDED)}", _REMEDY)
        earlier, before = found.get(vote.vote.id, ("", vote))
        if not is_same(before, vote):
            got = f"another vote with the id {vote.vote.id!r:.60} of {earlier}"
            raise InputError(f"{path}, {line}", got, "one id a vote", _REMEDY)
        # Of two copies, the one that knows of the undoing.
        found[vote.vote.id] = (line, before if before.superseded_by else vote)
    if not found:
        raise InputError(path, "no vote", "at least one", "Let people vote first.")
    return [vote for _, vote in found.values()]


def vote_lines(path: Path | str) -> Iterator[tuple[str, StoredVote | str]]:
    """(name of the line, vote); instead of a vote, why the line is none.

    Raises:
        InputError: there is no such file, or it cannot be read at all.
    """
    path = votes_at(Path(path)) or Path(path)
    if path.suffix == ".sqlite" and path.is_file():
        with People(path) as people:
            stored = people.votes(superseded=True)
        yield from ((vote.vote.id, vote) for vote in stored)
        return
    kind = _format(path)
    if not path.is_file():
        raise InputError(path, "no file", "votes as .jsonl, .csv or .parquet", "Check the path.")
    for line, row in _rows(path, kind):
        try:
            yield line, _vote(row)
        except ValueError as error:
            yield line, str(error)


def votes_at(path: Path) -> Path | None:
    """The `people.sqlite` that a path stands for: itself, or in a study's or collection's folder.

    None for anything else.
    """
    place = path if path.name == FILE else path / FILE
    return place if place.is_file() else None


def votes_key(path: Path) -> str:
    """Hash of all votes of a `people.sqlite`: its bytes change without them, and lag behind."""
    with People(path) as people:
        return hash_json([vote.row for vote in people.votes(superseded=True)])


def read_gold(path: Path | str) -> list[tuple[str, str]]:
    """(better, worse) of each line of a JSONL or CSV file.

    Raises:
        InputError: a line has not these two, or they are the same.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        raise InputError(path, "no such file", "a .jsonl or .csv file", "Check the name.")
    found = []
    for line, row in _rows(path, path.suffix):
        known = row if isinstance(row, Mapping) else {}
        pair = (known.get("better"), known.get("worse"))
        sound = all(isinstance(id_, str) and id_ for id_ in pair) and pair[0] != pair[1]
        if not sound or set(known) != {"better", "worse"}:
            raise InputError(f"{path}, {line}", f"{row}", "two ids: better, worse", _REMEDY)
        found.append((str(pair[0]), str(pair[1])))
    return found


def _format(path: Path) -> str:
    if path.suffix not in FORMATS:
        raise InputError(path, f"the ending '{path.suffix}'", " or ".join(FORMATS), "Choose one.")
    return path.suffix


def _row(vote: StoredVote) -> dict[str, Any]:
    return dict(zip(COLUMNS, vote.row.values(), strict=True))


def _rows(path: Path, kind: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """(name, row) of each line that is not empty; instead of a row, what is wrong."""
    if kind == ".parquet":
        for number, row in enumerate(_read_parquet(path), start=1):
            yield f"row {number}", row
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"bytes that are no UTF-8 ({error})", "text", _REMEDY) from error
    yield from _csv_rows(text) if kind == ".csv" else _json_rows(text)


def _csv_rows(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        _check_once(head)
        for cells in reader:
            line = f"line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(head):
                yield line, "another number of cells than the first line"
                continue
            row = dict(zip(head, cells, strict=True))
            # An empty cell is all that CSV has for nothing.
            yield line, {n: cell or (None if n in _DEFAULTS else "") for n, cell in row.items()}
    except ValueError as error:
        yield f"line {reader.line_num}", str(error)
    except csv.Error as error:
        yield f"line {reader.line_num}", f"not CSV: {error}"


def _check_once(names: Sequence[str]) -> None:
    """Of a column that is there twice nobody knows which one is meant.

    Raises:
        ValueError: which it is.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the column {twice!r:.60} twice")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once([name for name, _ in pairs])
    return dict(pairs)


def _json_rows(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        # Nesting without end and numbers without end are no JSON either.
        except (ValueError, RecursionError) as error:
            yield f"line {number}", f"not JSON: {str(error).splitlines()[0][:80]}"
            continue
        yield f"line {number}", value if isinstance(value, dict) else "not a JSON object"


def _vote(row: Mapping[str, Any] | str) -> StoredVote:
    """The vote of a row.

    Raises:
        ValueError: why it is none.
    """
    if isinstance(row, str):
        raise ValueError(row)
    lacking = [name for name in NEEDED if row.get(name) is None]
    odd = [name for name in row if name not in COLUMNS]
    if lacking:
        raise ValueError(f"not a vote: no {lacking[0]!r}")
    if odd:
        raise ValueError(
            f"not a vote: the unknown column {odd[0]!r:.60} beside {', '.join(COLUMNS)}"
        )
    values = {name: _value(name, row.get(name)) for name in COLUMNS}
    if values["a"] == values["b"]:
        raise ValueError(f"not a vote: {values['a']!r:.60} on both sides")
    own = {field.name: values.pop(field.name) for field in fields(Vote)}
    return StoredVote(Vote(**own), **values)


def _value(name: str, value: Any) -> Any:
    if value is None:
        return _DEFAULTS[name]
    if name in _NUMBERS:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number <= _MOST_SECONDS:
            raise ValueError(
                f"not a vote: {name} {value!r:.60}, which is no number from 0 to {_MOST_SECONDS:g}"
            )
        return number
    if not isinstance(value, str) or len(value) > _LONGEST:
        what = f"a text of at most {_LONGEST} characters"
        raise ValueError(f"not a vote: {name} {value!r:.60}, which is not {what}")
    # Half a character can stand in JSON, but in no file.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"not a vote: {name} {value!r:.60}, which is not Unicode")
    if not value and name not in _MAY_BE_EMPTY:
        raise ValueError(f"not a vote: an empty {name}")
    if name in _AMONG and value not in _AMONG[name]:
        raise ValueError(
            f"not a vote: {name} {value!r:.60}, which is none of {', '.join(_AMONG[name])}"
        )
    return value


def _cell(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    from tastemaker.store.parquet_files import write_parquet

    kinds = [(name, pa.float64() if name in _NUMBERS else pa.string()) for name in COLUMNS]
    table = pa.Table.from_pylist([dict(row) for row in rows], pa.schema(kinds))
    write_parquet(path, table, {}, _WORDS)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from tastemaker.errors import CorruptFile
    from tastemaker.store.parquet_files import read_parquet

    try:
        table = read_parquet(path)
        _check_once(table.column_names)
    except CorruptFile as error:
        raise InputError(path, f"no whole Parquet file ({error})", "one", _REMEDY) from error
    except ValueError as error:
        raise InputError(path, str(error), "each column once", _REMEDY) from error
    return table.to_pylist()
