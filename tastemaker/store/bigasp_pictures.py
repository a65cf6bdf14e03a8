"""bigASP latents as a source: files that were pictures once, with the table of their texts.

The texts are in Parquet files with `image_hash` (version 2) or `index` (version 1), `tag_string`
(tags with commas), `caption`, `score` and others, in the folder of the latents or above. See
`store.bigasp_latents` for the files and for what their numbers are.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tastemaker.errors import PictureError
from tastemaker.records.preference import Preference
from tastemaker.store.bigasp_latents import peek_bigasp
from tastemaker.store.hashing import hash_json
from tastemaker.store.parquet_rows import open_table, plain_columns, plain_text, read_rows
from tastemaker.store.picture_texts import CAPTION_COLUMNS, Words, words_of
from tastemaker.store.source_item import SourceItem, Where, passes
from tastemaker.store.splits import Split

_BATCH = 20_000
"""Latents whose texts are in memory at a time; each batch reads the tables once."""

_NAMES = ("image_hash", "index")


class BigaspPictures:
    """Latents below a folder.

    An item's key is its MD5 or index, after the folder where the layout (`ab/cd/`, `123/`) begins;
    `kind` is `latent`, `size` that of the original picture. Attributes: `folder`, `split`, `latent`
    (`bigasp v1` or `bigasp v2`), `original_h`, `original_w`, and the plain columns of the table.

    Args:
        files: relative paths to files.
        tables: relative paths to Parquet files with their texts.
        caption_column: the column of the caption, where a table has it.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        tables: Mapping[str, Path],
        *,
        caption_column: str | None = None,
    ) -> None:
        self.files = {_key(name): (name, path) for name, path in sorted(files.items())}
        self.tables = dict(sorted(tables.items()))
        self.spec = "bigasp"
        self.caption_column = caption_column
        self._doubled = sorted(set(files) - {name for name, _ in self.files.values()})

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The latents by key; their headers are read, their numbers are not."""
        split = Split(self.files, len(self.files))
        keys = iter(sorted(self.files))
        while batch := list(islice(keys, _BATCH)):
            words = self._words(batch)
            for key in batch:
                item = self._item(key, words.get(key, Words()), split.of(key))
                if passes(item.attributes, where):
                    yield item
        for name in self._doubled:
            item = SourceItem(name, problem="a second latent of the same name", kind="latent")
            if passes(item.attributes, where):
                yield item

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` no file is opened."""
        if where:
            return sum(1 for _ in self.items(where))
        return len(self.files) + len(self._doubled)

    def preferences(self) -> Iterator[Preference]:
        """None."""
        return iter(())

    def describe(self) -> dict[str, str]:
        """What they are, with a licence that only their owner knows."""
        return {"name": "bigASP latents", "licence": "the owner's", "attribution": ""}

    def fingerprint(self) -> str:
        """Hash of names, sizes and times."""
        paths = [path for _, path in self.files.values()] + list(self.tables.values())
        facts = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        return hash_json(["bigasp", self.caption_column, facts])

    def _item(self, key: str, words: Words, split: str) -> SourceItem:
        name, path = self.files[key]
        known = {"folder": name.rpartition("/")[0], "split": split}
        try:
            header = peek_bigasp(path)
        except PictureError as error:
            return SourceItem(
                key=key, path=path, kind="latent", problem=str(error.got), suffix=".bin.gz",
                attributes=tuple(known.items()),
            )  # fmt: skip
        known["latent"] = f"bigasp v{header.version}"
        known |= {"original_h": str(header.original.h), "original_w": str(header.original.w)}
        return SourceItem(
            key=key,
            path=path,
            suffix=".bin.gz",
            captions=words.captions,
            tags=words.tags,
            # The file's own facts win: no table may say that a latent is something else.
            attributes=tuple({**dict(words.attributes), **known}.items()),
            kind="latent",
            size=header.original,
        )

    def _words(self, keys: list[str]) -> dict[str, Words]:
        """What the tables say of some latents; the table of the nearest folder first."""
        found: dict[str, Words] = {}
        by_depth = sorted(self.tables.items(), key=lambda entry: (-entry[0].count("/"), entry[0]))
        for table, path in by_depth:
            above = table.rpartition("/")[0]
            mine = {}
            for key in keys:
                if not above or self.files[key][0].startswith(f"{above}/"):
                    mine.setdefault(key.rpartition("/")[2], []).append(key)
            for name, words in self._rows(path, mine):
                for key in mine[name]:
                    found[key] = found.get(key, Words()).joined(words)
        return found

    def _rows(self, path: Path, names: Mapping[str, Any]) -> Iterator[tuple[str, Words]]:
        """The words of the named latents in one table, which is read in pieces."""
        if not names:
            return
        with open_table(path) as file:
            columns = plain_columns(file.schema_arrow)
            column = next(name for name in _NAMES if name in file.schema_arrow.names)
            for row in read_rows(file, columns):
                name = row.values.get(column)
                name = str(name) if name is not None else ""
                if name in names:
                    yield name, self._words_of_row(row.values, column)

    def _words_of_row(self, values: Mapping[str, Any], column: str) -> Words:
        plain = {name: plain_text(value) for name, value in values.items() if name != column}
        tags = plain.pop("tag_string", None)
        if isinstance(tags, str):
            plain["tags"] = tags
        own = self.caption_column
        return words_of(plain, (own,) if own and own in values else CAPTION_COLUMNS)


def _key(name: str) -> str:
    """`x/ab/cd/abcd....bin.gz` and `x/123/4123.bin.gz` as `x/abcd...` and `x/4123`."""
    *folders, base = name.split("/")
    stem = base.partition(".")[0]
    if len(stem) == 32 and folders[-2:] == [stem[:2], stem[2:4]]:
        folders = folders[:-2]
    elif (
        stem.isdecimal()
        and folders
        and folders[-1].lstrip("0") == str(int(stem) % 1000).lstrip("0")
    ):
        folders = folders[:-1]
    return "/".join((*folders, stem))
