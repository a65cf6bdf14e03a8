"""The pictures of a sample set by columns, also while it is written and where a line is damaged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tastemaker.store import jsonl

Key = tuple[str, int]
"""Prompt id and number of the picture."""

_KINDS = {"model": str, "prompt_id": str, "prompt": str, "file": str,
          "sample_index": int, "seed": int}  # fmt: skip
_NEEDED = ("prompt_id", "sample_index", "file")
_TOLD = 3
"""Damaged lines that are named (ours); further ones are counted."""


class Cell(NamedTuple):
    """One picture: its file, and the seed of its noise where that is known."""

    path: str
    seed: int | None


@dataclass(frozen=True)
class SampleLines:
    """`samples.jsonl` by columns, all of one length.

    Attributes:
        columns: `model`, `prompt_id`, `prompt`, `sample_index`, `seed`, `file`; what is not needed
            to show a picture may be None.
        problem: which lines are left out, for people; empty when none is.
    """

    columns: Mapping[str, list[Any]]
    problem: str = ""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one model.

    Attributes:
        folder: where the files lie; empty where they are named by whole paths.
        files: their names.
        seeds: of their noise.
        places: prompt and number -> place in both lists.
    """

    folder: str
    files: list[str]
    seeds: list[int | None]
    places: Mapping[Key, int] = field(default_factory=dict)

    def path(self, place: int) -> str:
        """The file of one picture."""
        return f"{self.folder}/{self.files[place]}" if self.folder else self.files[place]

    def cell(self, key: Key) -> Cell | None:
        """The picture of a prompt."""
        place = self.places.get(key)
        return None if place is None else Cell(self.path(place), self.seeds[place])

    @cached_property
    def _keys(self) -> dict[str, Key]:
        return {self.path(place): key for key, place in self.places.items()}

    def key_of(self, path: str) -> Key | None:
        """Which picture a file is."""
        return self._keys.get(path)


def read_sample_lines(path: Path) -> SampleLines:
    """The columns of a sample set; all empty where there is none.

    Arrow reads them: a hundred thousand rows take a fifth of a second (measured). It knows no
    damaged lines, so a file that has some is read again, line by line.
    """
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import json as arrow_json

    types = {str: pa.string(), int: pa.int64()}
    schema = pa.schema([(name, types[kind]) for name, kind in _KINDS.items()])
    schema = schema.set(schema.get_field_index("seed"), pa.field("seed", pa.uint64()))
    try:
        data = path.read_bytes()
    except OSError:
        return SampleLines({name: [] for name in _KINDS})
    # A line that is being written has no end yet.
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        return SampleLines({name: [] for name in _KINDS})
    options = arrow_json.ParseOptions(schema, unexpected_field_behavior="ignore")
    try:
        table = arrow_json.read_json(pa.BufferReader(data), parse_options=options)
    except pa.ArrowInvalid:
        return _read_slowly(path)
    pattern = compute.MatchSubstringOptions(r"^/|(^|/)\.\.(/|$)|^$")
    leads_out = compute.call_function("match_substring_regex", [table["file"]], pattern)
    is_wrong = compute.call_function("any", [leads_out]).as_py()
    if is_wrong or any(table[name].null_count for name in _NEEDED):
        return _read_slowly(path)
    return SampleLines({name: table[name].to_pylist() for name in _KINDS})


def _read_slowly(path: Path) -> SampleLines:
    """The same by one line at a time, which tells the damaged ones."""
    damaged: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in _KINDS}
    for number, line in jsonl.numbered(path, damaged):
        values = {name: line.get(name) for name in _KINDS}
        fits = all(
            (value is None and name not in _NEEDED)
            or (isinstance(value, _KINDS[name]) and not isinstance(value, bool))
            for name, value in values.items()
        )
        if not fits or _leads_out(str(values["file"])):
            damaged.append(number)
            continue
        for name, value in values.items():
            columns[name].append(value)
    return SampleLines(columns, left_out(path, damaged))


def _leads_out(file: str) -> bool:
    """Whether a line names a file outside of its folder, which is not one of ours."""
    return not file or file.startswith("/") or ".." in PurePosixPath(file).parts


def left_out(path: Path, damaged: list[int]) -> str:
    """Which lines of a file are not shown, for people; empty when all are."""
    if not damaged:
        return ""
    first = ", ".join(map(str, sorted(damaged)[:_TOLD]))
    more = f" and {len(damaged) - _TOLD} more" if len(damaged) > _TOLD else ""
    word = "line" if len(damaged) == 1 else "lines"
    return f"{path.name}: {word} {first}{more} damaged and left out. The rest is shown."
