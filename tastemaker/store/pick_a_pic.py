"""Pick-a-Pic: pairs of generated pictures with people's preferences, in Parquet files.

Each picture is one item however many pairs it is in; each row is one preference. `label_0` is the
first picture's share: 1, 0, or 0.5 for a tie, and ties stay ties.

Source: Kirstain et al. 2023, Pick-a-Pic, data set versions 1 and 2.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.records.preference import Preference
from tastemaker.store.file_kinds import HEAD_BYTES, picture_ending
from tastemaker.store.hashing import hash_json
from tastemaker.store.parquet_rows import (
    TableRow,
    bytes_in,
    open_table,
    plain_columns,
    plain_text,
    read_rows,
)
from tastemaker.store.picture_texts import Words, utf8, words_of
from tastemaker.store.source_item import SourceItem, Where, passes
from tastemaker.store.splits import split_by_hash

_SIDES = (0, 1)
_LABELS = (0.0, 0.5, 1.0)
_SPLIT = re.compile(r"(train|validation_unique|test_unique|validation|test)(?:[-_.]|$)")


class PickAPic:
    """The pictures and preferences of one or more Pick-a-Pic files.

    An item's key is the picture's uid; its caption is the prompt; attributes: `folder` (the file
    where it was first), `split` (of the file's name, as in `train-00000-of-00645.parquet`, else by
    the prompt, so that the pictures of a prompt stay together), `model`.

    Args:
        files: names in keys to paths.
        spec: what the source is called.
    """

    def __init__(self, files: Mapping[str, Path], *, spec: str | None = None) -> None:
        self.files = dict(sorted(files.items()))
        self.spec = spec or f"pick-a-pic:{next(iter(self.files.values()))}"

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """Each picture once, where it is first, then those that are nowhere to be read.

        Raises:
            InputError: a file cannot be opened.
        """
        known: set[str] = set()
        missing: dict[str, SourceItem] = {}
        for name, path in self.files.items():
            modified_ns = path.stat().st_mtime_ns
            for row, side, item in self._pictures(name, path, known):
                data = bytes_in(row.values.get(f"jpg_{side}"))
                if row.problem is not None or data is None:
                    item = _changed(item, problem=row.problem or f"no picture in column jpg_{side}")
                    missing.setdefault(item.key, item)
                    continue
                known.add(item.key)
                missing.pop(item.key, None)
                if passes(item.attributes, where):
                    suffix = picture_ending(data[:HEAD_BYTES]) or ".jpg"
                    stamp = (len(data), modified_ns)
                    yield _changed(item, data=data, suffix=suffix, stamp=stamp)
        yield from (item for item in missing.values() if passes(item.attributes, where))

    def count(self, where: Where | None = None) -> int:
        """How many pictures there are; the pictures themselves are not read."""
        known: set[str] = set()
        chosen = 0
        for name, path in self.files.items():
            for _, _, item in self._pictures(name, path, known, with_bytes=False):
                known.add(item.key)
                chosen += passes(item.attributes, where)
        return chosen

    def preferences(self) -> Iterator[Preference]:
        """One for each row that can be read; the pictures are not read.

        `label` is None without an answer (`has_label` is false) and for labels that make no sense,
        which the fact `label_problem` then names.
        """
        for name, path in self.files.items():
            with open_table(path) as file:
                columns = plain_columns(file.schema_arrow)
                split = _split_of(name)
                for row in read_rows(file, columns):
                    if row.problem is None:
                        yield _preference(name, row, split)

    def describe(self) -> dict[str, str]:
        """The data set; its licence is on its own page."""
        return {
            "name": "Pick-a-Pic",
            "licence": "see the data set's page",
            "attribution": "Kirstain et al. 2023, Pick-a-Pic",
            "files": ", ".join(self.files)[:500],
        }

    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and times."""
        facts = [
            [name, str(path), path.stat().st_size, path.stat().st_mtime_ns]
            for name, path in self.files.items()
        ]
        return hash_json(["pick-a-pic", facts])

    def _pictures(
        self, name: str, path: Path, known: set[str], *, with_bytes: bool = True
    ) -> Iterator[tuple[TableRow, int, SourceItem]]:
        """Row, side and item (without data) of each picture that is not `known` yet."""
        split = _split_of(name)
        with open_table(path) as file, open_table(path) as second:
            small = [
                column
                for column in plain_columns(file.schema_arrow)
                if column == "caption" or re.fullmatch(r"(image_[01]_uid|model_[01])", column)
            ]
            # Apart, so that a picture that cannot be read still has its name.
            rows = read_rows(file, small)
            if with_bytes:
                rows = map(_joined, rows, read_rows(second, ["jpg_0", "jpg_1"]))
            for row in rows:
                for side in _SIDES:
                    item = _item(name, row, side, split)
                    if item.key not in known:
                        yield row, side, item


def refuse_without_pictures(path: Path) -> InputError:
    """What to say of the variants of the data set that hold no pictures."""
    return InputError(
        path,
        "Pick-a-Pic without pictures (no columns jpg_0 and jpg_1)",
        "Pick-a-Pic with its pictures",
        "Use the data set's variant whose name does not end in _no_images.",
    )


def _item(name: str, row: TableRow, side: int, split: str | None) -> SourceItem:
    uid = row.values.get(f"image_{side}_uid")
    words = words_of({"caption": row.values.get("caption")})
    prompt = words.captions[0] if words.captions else ""
    attributes = {"folder": name, "split": split or split_by_hash(prompt)}
    model = row.values.get(f"model_{side}")
    if isinstance(model, str) and model:
        attributes["model"] = utf8(model)
    key = utf8(uid) if isinstance(uid, str) and uid else _place(name, row, side)
    return SourceItem(key=key, captions=words.captions, attributes=tuple(attributes.items()))


def _joined(row: TableRow, other: TableRow) -> TableRow:
    problem = row.problem or other.problem
    return TableRow(row.number, row.values | other.values, problem, row.unread + other.unread)


def _changed(item: SourceItem, **values: Any) -> SourceItem:
    return SourceItem(**{**vars(item), **values})


def _preference(name: str, row: TableRow, split: str | None) -> Preference:
    values = {column: plain_text(value) for column, value in row.values.items()}
    label, problem = _label(values)
    facts: Words = words_of({column: v for column, v in values.items() if column != "caption"})
    more = {"split": split or "", "label_problem": problem or ""}
    captions = words_of({"caption": values.get("caption")}).captions
    return Preference(
        key=_text(values.get("ranking_id")) or f"{name}:{row.number}",
        prompt=captions[0] if captions else "",
        first=_text(values.get("image_0_uid")) or _place(name, row, 0),
        second=_text(values.get("image_1_uid")) or _place(name, row, 1),
        label=label,
        facts=(*facts.attributes, *((key, value) for key, value in more.items() if value)),
    )


def _label(values: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """The first picture's share, or why there is none although there should be."""
    if values.get("has_label") is False:
        return None, None
    first, second = values.get("label_0"), values.get("label_1")
    if first not in _LABELS or second not in _LABELS or first + second != 1:
        return None, f"label_0 {first}, label_1 {second}"
    return float(first), None


def _place(name: str, row: TableRow, side: int) -> str:
    return f"{name}:{row.number}/{side}"


def _split_of(name: str) -> str | None:
    found = _SPLIT.match(name.rpartition("/")[2])
    return found[1] if found else None


def _text(value: Any) -> str:
    return utf8(str(value)) if value is not None else ""
