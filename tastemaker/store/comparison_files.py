"""Comparisons in JSONL files from anywhere: one object a line.

A comparison has `prompt`, `winner` and `loser` (or `first` and `second`), each the path of a
picture, relative to the file's own folder, or the id of a picture of a collection; perhaps `label`
(the first one's share: 1, 0, 0.5 or `tie`; without it `winner` has won), `margin`, `winner_model`,
`loser_model`, `id`; all else is a fact. A line that cannot be read costs itself, never the file.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tastemaker.errors import InputError

_SIDES = (("winner", "loser"), ("first", "second"), ("chosen", "rejected"))
_PROMPTS = ("prompt", "caption", "text")
_TIES = ("tie", "draw", "both")


@dataclass(frozen=True)
class ComparisonLine:
    """One line of a file.

    Attributes:
        key: `id` of the row, else the number of its line, from 1.
        prompt: the text.
        first: path or id of the first picture, as written.
        second: of the second one.
        label: the first picture's share; None where the line does not say who is preferred.
        margin: as written, perhaps no number at all.
        models: of the first and the second picture.
        facts: everything else.
        problem: why the line is no comparison.
    """

    key: str
    prompt: str = ""
    first: str = ""
    second: str = ""
    label: float | None = None
    margin: float | None = None
    models: tuple[str, str] = ("", "")
    facts: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def read_comparison_lines(path: Path) -> Iterator[ComparisonLine]:
    """The comparisons of a file, in order; a line that is none has a `problem`.

    Raises:
        InputError: there is no such file, or it is not text.
    """
    for number, row in _rows(path):
        key = f"line {number}"
        yield ComparisonLine(key, problem=row) if isinstance(row, str) else _comparison(key, row)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(number, object) of each line that is not empty; instead of an object, what is wrong."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            path,
            f"not readable ({error.strerror})",
            "a JSONL file of comparisons",
            "Check the path.",
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if b"\\u" in line:
                    json.dumps(value, ensure_ascii=False).encode()
            # A surrogate alone, nesting without end and numbers without end are no JSON either.
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {str(error).splitlines()[0][:80]}"
                continue
            yield number, value if isinstance(value, dict) else "not a JSON object"


def _comparison(key: str, row: Mapping[str, Any]) -> ComparisonLine:
    rest = dict(row)
    named = rest.pop("id", None)
    key = str(named) if isinstance(named, str | int) and str(named) else key
    names = next((both for both in _SIDES if any(side in row for side in both)), _SIDES[0])
    sides = [rest.pop(name, None) for name in names]
    for name, side in zip(names, sides, strict=True):
        if not isinstance(side, str) or not side:
            return ComparisonLine(key, problem=f"no {name}")
    found = next((name for name in _PROMPTS if isinstance(row.get(name), str)), None)
    prompt = rest.pop(found) if found else ""
    label, problem = _label(rest.pop("label", None), won="first" not in names)
    margin, odd = _margin(rest.pop("margin", None))
    models = tuple(str(rest.pop(f"{name}_model", None) or "") for name in names)
    facts = tuple(
        (name, str(value))
        for name, value in sorted(rest.items())
        if isinstance(value, str | int | float | bool)
    )
    first, second = sides
    return ComparisonLine(
        key, prompt, str(first), str(second), label, margin, (models[0], models[1]), facts,
        problem or odd,
    )  # fmt: skip


def _label(value: object, won: bool) -> tuple[float | None, str]:
    if value is None:
        return (1.0, "") if won else (None, "")
    if isinstance(value, str) and value.lower() in _TIES:
        return 0.5, ""
    if not _is_number(value):
        return None, f"a label that is none: {value!r}"[:120]
    return float(value), ""


def _margin(value: object) -> tuple[float | None, str]:
    if value is None:
        return None, ""
    if not _is_number(value):
        return None, f"a margin that is none: {value!r}"[:120]
    return abs(float(value)), ""


def _is_number(value: object) -> TypeGuard[int | float]:
    # An integer of JSON may be larger than any float.
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)
