"""Pictures in a Parquet file: columns of bytes, or of `{bytes, path}` as Hugging Face writes them.

Rows are read a few at a time. Of `{bytes, path}` only the bytes count: a path without bytes is
never followed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import InputError
from tastemaker.records.preference import Preference
from tastemaker.store.file_kinds import HEAD_BYTES, picture_ending
from tastemaker.store.hashing import hash_json
from tastemaker.store.parquet_rows import (
    TableRow,
    bytes_in,
    open_table,
    picture_columns,
    plain_columns,
    plain_text,
    read_rows,
)
from tastemaker.store.picture_texts import Words, utf8, words_of
from tastemaker.store.source_item import SourceItem, Where, passes
from tastemaker.store.splits import Split

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_CAPTIONS = ("text", "caption", "prompt")


class ParquetPictures:
    """The pictures of one Parquet file, one for each row and picture column.

    An item's key is `FILE:ROW`, rows from 0, and `FILE:ROW/COLUMN` where several columns hold
    pictures. Captions: the named column, or `text`, `caption`, `prompt` and `captions`, in small or
    capital letters; a list of texts is several captions. `tags`: a list, or a text with commas.
    Other plain columns are attributes, besides `folder` (the file) and `split`.

    Args:
        path: the file.
        name: how to call it in keys; its file name by default.
        caption_column: the column of the caption.
    """

    def __init__(
        self, path: Path, *, name: str | None = None, caption_column: str | None = None
    ) -> None:
        self.path = path
        self.name = name or utf8(path.name)
        self.spec = f"parquet:{path}"
        self.caption_column = caption_column

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures by row; a row without one, or that cannot be read, is an item too.

        Raises:
            InputError: there is no column of pictures, or not the caption column asked for.
        """
        with open_table(self.path) as file:
            pictures = self._picture_columns(file)
            names = plain_columns(file.schema_arrow)
            captions = self._caption_columns(names)
            count = file.metadata.num_rows
            split = Split((f"{self.name}:{row}" for row in range(count)), count)
            modified_ns = self.path.stat().st_mtime_ns
            for row in read_rows(file, [*pictures, *names]):
                known = {"folder": self.name, "split": split.of(f"{self.name}:{row.number}")}
                words = _words(row, names, captions)
                for column in pictures:
                    end = f"/{column}" if len(pictures) > 1 else ""
                    key = f"{self.name}:{row.number}{utf8(end)}"
                    item = _item(key, row, column, modified_ns, words, known)
                    if passes(item.attributes, where):
                        yield item

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` from the file's footer."""
        if where:
            return sum(1 for _ in self.items(where))
        with open_table(self.path) as file:
            return file.metadata.num_rows * len(self._picture_columns(file))

    def preferences(self) -> Iterator[Preference]:
        """None."""
        return iter(())

    def describe(self) -> dict[str, str]:
        """The file, with a licence that only its owner knows."""
        return {
            "name": self.path.name,
            "licence": "the owner's",
            "attribution": "",
            "path": str(self.path),
        }

    def fingerprint(self) -> str:
        """Hash of the file's name, size and time."""
        status = self.path.stat()
        facts = [str(self.path), status.st_size, status.st_mtime_ns]
        return hash_json(["parquet", self.caption_column, facts])

    def _picture_columns(self, file: "pq.ParquetFile") -> tuple[str, ...]:
        found = picture_columns(file)
        if not found:
            listed = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
            raise InputError(
                self.path,
                f"columns {listed[:500] or 'none'}, and no picture among their first values",
                "a column of pictures (their bytes, or {bytes, path})",
                "Give a table that holds pictures, not their addresses.",
            )
        return found

    def _caption_columns(self, names: list[str]) -> tuple[str, ...]:
        if self.caption_column is None:
            wanted = [[name for name in names if name.lower() == known] for known in _CAPTIONS]
            # None of them: a name that is no column, so that the defaults of other texts stay out.
            return tuple(name for same in wanted for name in same) or _CAPTIONS
        if self.caption_column not in names:
            raise InputError(
                self.path,
                "columns " + (", ".join(names) or "none") + " of text or numbers",
                f"a column '{self.caption_column}'",
                "Name the caption's column with caption_column.",
            )
        return (self.caption_column,)


def _item(
    key: str,
    row: TableRow,
    column: str,
    modified_ns: int,
    words: Words,
    known: dict[str, str],
) -> SourceItem:
    cell = row.values.get(column)
    data = bytes_in(cell)
    path = cell.get("path") if isinstance(cell, dict) else None
    file_name = {"file_name": utf8(path)} if isinstance(path, str) and path else {}
    problem = row.problem
    if problem is None and data is None:
        problem = f"no picture in column '{column}'"
        if file_name:
            problem += f" (only the path {ascii(path)[:200]}, which is not followed)"
    stamp = None
    suffix = ""
    if data is not None:
        stamp = (len(data), modified_ns)
        suffix = picture_ending(data[:HEAD_BYTES]) or ""
    return SourceItem(
        key=key,
        data=data,
        suffix=suffix,
        captions=words.captions,
        tags=words.tags,
        attributes=tuple((known | file_name | dict(words.attributes)).items()),
        problem=problem,
        stamp=stamp,
    )


def _words(row: TableRow, names: list[str], captions: tuple[str, ...]) -> Words:
    values: dict[str, Any] = {name: plain_text(row.values.get(name)) for name in names}
    words = words_of(values, captions)
    if row.unread:
        problem = f"column {', '.join(row.unread)} cannot be read"
        words = words.joined(Words(attributes=(("text_problem", problem),)))
    return words
