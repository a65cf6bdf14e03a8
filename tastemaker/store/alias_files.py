"""Files of other names of tags: the CSV of tag completion, and JSON lines."""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tastemaker.curation.aliases import AliasTable, build_aliases
from tastemaker.errors import InputError

UNREADABLE, INACTIVE = "row that cannot be read", "not active"
_EXPECTED = 'CSV rows of name, category, count, "alias,alias", or JSON lines of aliases'
_REMEDY = "Give a .csv file, or a .json or .jsonl file with one alias in a line."


def read_aliases(path: Path) -> AliasTable:
    """Read a file; what is left out of it, and why, is in the table's notes.

    - `.csv`: rows `name,category,count,"alias,alias"` as tag completion has them, with a head or
      without. Every name is a tag.
    - `.json`, `.jsonl`: a line (or an entry of one list) is `{"antecedent_name": alias,
      "consequent_name": tag, "status": "active"}`; other states than `active` are left out.

    Raises:
        InputError: there is no such file, it is of another kind, or no row of it can be read.
    """
    readers = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(path, f"a file ending in {path.suffix!r}", _EXPECTED, _REMEDY)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, "no readable file", _EXPECTED, "Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "text that is not UTF-8", _EXPECTED, "Save it as UTF-8.") from error
    notes: Counter[str] = Counter()
    pairs, tags = reader(text, notes)
    if not pairs and not tags:
        got = f"no row that can be read ({sum(notes.values())} rows)"
        raise InputError(path, got, _EXPECTED, _REMEDY)
    return build_aliases(pairs, tags, notes)


Rows = tuple[list[tuple[str, str]], set[str]]
"""(alias, tag) pairs, and the names that are tags themselves."""


def _read_csv(text: str, notes: Counter[str]) -> Rows:
    pairs: list[tuple[str, str]] = []
    tags: set[str] = set()
    for number, row in enumerate(csv.reader(text.splitlines(keepends=True))):
        if not row:
            continue
        if len(row) < 3 or not row[0].strip() or not row[2].strip().isdigit():
            if number > 0 or row[0].strip().lower() not in ("name", "tag"):
                notes[UNREADABLE] += 1
            continue
        tags.add(row[0])
        for alias in ",".join(row[3:4]).split(","):
            if alias.strip():
                pairs.append((alias, row[0]))
    return pairs, tags


def _read_json(text: str, notes: Counter[str]) -> Rows:
    pairs: list[tuple[str, str]] = []
    for entry in _entries(text, notes):
        alias, tag = (
            (entry.get("antecedent_name"), entry.get("consequent_name"))
            if isinstance(entry, dict)
            else (None, None)
        )
        if not isinstance(entry, dict) or not isinstance(alias, str) or not isinstance(tag, str):
            notes[UNREADABLE] += 1
        elif entry.get("status", "active") != "active":
            notes[INACTIVE] += 1
        else:
            pairs.append((alias, tag))
    return pairs, set()


def _entries(text: str, notes: Counter[str]) -> Iterable[object]:
    """The entries of one list, or of one line each."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            notes[UNREADABLE] += 1
            return []
    found: list[object] = []
    for line in filter(str.strip, text.splitlines()):
        try:
            found.append(json.loads(line))
        except ValueError:
            notes[UNREADABLE] += 1
    return found
