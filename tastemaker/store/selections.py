"""Selections on disk: one JSON file with the ids, what chose them, and a hash of both."""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import from_json, to_json
from tastemaker.records.image import Selection
from tastemaker.store.atomic import write_json
from tastemaker.store.hashing import hash_json


def make_selection(name: str, ids: Iterable[str], query: str) -> Selection:
    """A selection with sorted ids and its hash."""
    ordered = tuple(sorted(ids))
    return Selection(name, ordered, query, hash_json([list(ordered), query]))


def write_selection(path: Path | str, selection: Selection) -> None:
    """Write a selection atomically."""
    write_json(path, to_json(selection))


def read_selection(path: Path | str) -> Selection:
    """Read a selection; for a folder, the `selection.json` in it.

    Raises:
        InputError: there is no such file.
        CorruptFile: the file is no selection, or was changed by hand.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "selection.json"
    try:
        selection = from_json(Selection, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(
            path, "no such file", "a selection", "Run curate, which writes selection.json."
        ) from error
    except (ValidationError, ValueError) as error:
        raise CorruptFile(f"{path}: not a selection ({error}). Run curate again.") from error
    if make_selection(selection.name, selection.ids, selection.query).hash != selection.hash:
        raise CorruptFile(
            f"{path}: its ids do not match its hash, so it was changed. Run curate again."
        )
    return selection
