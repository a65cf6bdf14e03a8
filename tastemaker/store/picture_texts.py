"""What is written about pictures in files beside them: captions, tags, attributes."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of tables about the pictures of a folder, as Hugging Face's `imagefolder` has them."""

TEXT_ENDINGS = (".caption", ".txt", ".json")
"""Endings of texts beside a picture, the best captions first."""

MOST_TEXT_BYTES = 1 << 20
"""More of a text beside a picture is not read (ours)."""

CAPTION_COLUMNS = ("text", "caption")
"""Columns that hold the caption when none is named."""

_MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class Words:
    """Captions, tags and attributes of one picture, best first."""

    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    def joined(self, other: "Words") -> "Words":
        """These words, then what the others add."""
        return Words(
            tuple(dict.fromkeys((*self.captions, *other.captions))),
            tuple(dict.fromkeys((*self.tags, *other.tags))),
            tuple({**dict(other.attributes), **dict(self.attributes)}.items()),
        )


@dataclass(frozen=True)
class MetadataRow:
    """One row of a table: which file it is about and what it says, or why it cannot be used."""

    line: int
    file_name: str | None
    words: Words = Words()
    problem: str | None = None


def read_sidecars(paths: Iterable[Path]) -> Words:
    """The words in some texts beside a picture, those of the first ones first.

    Text that is not UTF-8 is read with replacement characters; that, a file over 1 MiB, and JSON
    that cannot be read leave the attribute `text_problem`.
    """
    words = Words()
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(MOST_TEXT_BYTES + 1)
        except OSError as error:
            problem = f"{path.name} is not readable ({error.strerror})"
            words = words.joined(Words(attributes=(("text_problem", problem),)))
            continue
        words = words.joined(words_in(path.name, data))
    return words


def words_in(name: str, data: bytes, caption_column: str | None = None) -> Words:
    """The words in the bytes of one text: a caption a line, or a JSON object.

    Args:
        name: its name; the ending tells JSON from lines.
        data: its bytes; what is beyond `MOST_TEXT_BYTES` is left out.
        caption_column: the key of the caption in JSON; `text` or `caption` by default.
    """
    text, problem = _decoded(data, name, MOST_TEXT_BYTES)
    if name.lower().endswith(".json"):
        try:
            found = words_of(json.loads(text), (caption_column,) if caption_column else None)
        except (ValueError, RecursionError):
            found, problem = Words(), f"{name} is not a JSON object"
    else:
        found = Words(captions=_clean(text.splitlines()))
    if problem:
        found = found.joined(Words(attributes=(("text_problem", problem),)))
    return found


def read_metadata(path: Path, caption_column: str | None) -> Iterator[MetadataRow]:
    """The rows of `metadata.jsonl` or `metadata.csv`.

    Raises:
        InputError: there are no rows, none has a `file_name`, or none has the caption column asked
            for.
    """
    text, problem = _read_text(path)
    try:
        values = list(_csv_values(text) if path.suffix == ".csv" else _jsonl_values(text))
    except csv.Error as error:
        raise InputError(path, error, "a CSV table", "Correct the table.") from error
    if not values:
        raise InputError(path, problem or "no rows", "a table of pictures", "Fill or remove it.")
    columns = {name for _, value in values if isinstance(value, dict) for name in value}
    needed = "file_name" if caption_column is None else caption_column
    for name in ("file_name", needed):
        if name not in columns:
            raise InputError(
                path,
                "columns " + (", ".join(sorted(columns)) or "none"),
                f"a column '{name}'",
                "Add it, or name the caption's column with caption_column.",
            )
    for line, value in values:
        if not isinstance(value, dict):
            yield MetadataRow(line, None, problem=f"line {line} of {path.name} is not an object")
        elif not isinstance(value.get("file_name"), str) or not value["file_name"].strip():
            yield MetadataRow(line, None, problem=f"line {line} of {path.name} has no file_name")
        else:
            words = words_of(value, (caption_column,) if caption_column else None)
            yield MetadataRow(line, value["file_name"].strip(), words)


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path is a link to something outside `root` (an absolute path), or to itself."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return True


def _csv_values(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _jsonl_values(text: str) -> Iterator[tuple[int, Any]]:
    for line, value in enumerate(text.split("\n"), start=1):
        if not value.strip():
            continue
        try:
            yield line, json.loads(value)
        except (ValueError, RecursionError):
            yield line, None


def words_of(value: Any, columns: Sequence[str] | None = None) -> Words:
    """The words in a mapping: captions, tags, and everything else that is plain as attributes.

    Args:
        value: names to values; `captions` and `tags` may be lists, `tags` also a text with commas.
        columns: names of captions, best first; `text` and `caption` by default.

    Raises:
        ValueError: the value is no mapping.
    """
    if not isinstance(value, Mapping):
        raise ValueError("not an object")
    columns = columns or CAPTION_COLUMNS
    captions = [text for name in (*columns, "captions") for text in _texts(value.get(name))]
    tags = value.get("tags")
    tags = tags.split(",") if isinstance(tags, str) else _texts(tags)
    known = {*columns, "captions", "tags", "file_name"}
    attributes = tuple(
        (utf8(str(name)), utf8(str(part))[:_MOST_CHARACTERS])
        for name, part in value.items()
        if name not in known and _is_plain(part) and str(part).strip()
    )
    return Words(_clean(captions), _clean(tags), attributes)


def utf8(text: str) -> str:
    """A text that can be written as UTF-8: what cannot (half a character) is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int | bool)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _clean(texts: list[str]) -> tuple[str, ...]:
    """Single lines without odd spaces or NUL, none empty, none twice."""
    lines = (" ".join(utf8(text).replace("\0", " ").split())[:_MOST_CHARACTERS] for text in texts)
    return tuple(dict.fromkeys(line for line in lines if line))


def _read_text(path: Path) -> tuple[str, str | None]:
    try:
        return _decoded(path.read_bytes(), path.name, None)
    except OSError as error:
        return "", f"{path.name} is not readable ({error.strerror})"


def _decoded(data: bytes, name: str, most_bytes: int | None) -> tuple[str, str | None]:
    if most_bytes is not None and len(data) > most_bytes:
        return data[:most_bytes].decode("utf-8-sig", "replace"), f"{name} is too long"
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return data.decode("utf-8-sig", "replace"), f"{name} is not UTF-8"
