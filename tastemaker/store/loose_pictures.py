"""Picture files below a folder, with what is written about them beside them.

A caption comes from `NAME.caption` or `NAME.txt` (one a line, best first), from `NAME.json`
(`caption`, `captions`, `tags`; other plain values become attributes), from a `metadata.jsonl` or
`metadata.csv` with `file_name` and a caption column, in the folder of the pictures or above, or
else from a folder that is called `N_name` as kohya's scripts have it (N repeats, and a name that
stands for a caption).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from tastemaker.records.preference import Preference
from tastemaker.store.file_kinds import ending_of
from tastemaker.store.folder_listing import OUTSIDE, FolderListing
from tastemaker.store.picture_texts import METADATA, Words, read_metadata, read_sidecars
from tastemaker.store.preference_pairs import LOST, WON, Pair, find_pairs
from tastemaker.store.source_item import SourceItem, Where, passes
from tastemaker.store.splits import held_out

_REPEATED = re.compile(r"([0-9]{1,6})_(.+)")


class LoosePictures:
    """The picture files of a listing, and its problems.

    Attributes of an item: `folder` (relative, with `/`; empty at the top), what the texts give,
    and, where they do not give it, `split`: `heldout` for about one picture in eight (by the hash
    of the relative path), `tune` for the others. In a folder `N_name`: `repeats` and `concept`, and
    `caption_source` where the name is the caption. In a preference folder: `pair` and `side`, or
    `pair_problem`; both pictures of a pair are in one split.

    Raises:
        InputError: a metadata file has no usable columns.
    """

    def __init__(self, listing: FolderListing, caption_column: str | None) -> None:
        self.listing = listing
        self._words, self._problems = _read_tables(listing, caption_column)
        for key, problem in listing.problems.items():
            self._problems[key] = SourceItem(key, problem=problem)
        self._pairs = find_pairs(listing.pictures)
        self._pair_of = {key: pair for pair in self._pairs for key in (*pair.won, *pair.lost)}

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures, by relative path; each problem with a file, link or text is an item too."""
        groups = {key: self._group(key) for key in self.listing.pictures}
        chosen = held_out(set(groups.values()))
        for key in sorted({*groups, *self._problems}):
            if key in groups:
                item = self._item(key, "heldout" if groups[key] in chosen else "tune")
            else:
                item = self._problems[key]
            if passes(item.attributes, where):
                yield item

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` the files beside the pictures are not read."""
        if where:
            return sum(1 for _ in self.items(where))
        return len({*self.listing.pictures, *self._problems})

    def preferences(self) -> Iterator[Preference]:
        """One for each name: `w/` won; where it is no pair, the fact `pair_problem` says why."""
        for pair in self._pairs:
            if pair.problem is not None:
                yield Preference(pair.name, "", "", "", None, (("pair_problem", pair.problem),))
                continue
            first, second = self._texts(pair.won[0]).captions, self._texts(pair.lost[0]).captions
            prompt = (first or second or ("",))[0]
            other = (second or (prompt,))[0]
            facts = (("prompt_of_second", other),) if other != prompt else ()
            yield Preference(pair.name, prompt, pair.won[0], pair.lost[0], 1.0, facts)

    def keys(self) -> set[str]:
        """The keys of all items."""
        return {*self.listing.pictures, *self._problems}

    def _group(self, key: str) -> str:
        pair = self._pair_of.get(key)
        return key if pair is None else f"{pair.name}{ending_of(key)}"

    def _item(self, key: str, split: str) -> SourceItem:
        words = self._texts(key)
        known = {"folder": key.rpartition("/")[0], "split": split}
        pair = self._pair_of.get(key)
        if pair is not None:
            words, known = self._in_pair(key, pair, words), known | _pair_facts(key, pair)
        repeats = _repeats(key)
        if repeats is not None:
            known |= {"repeats": repeats[0], "concept": repeats[1]}
            if not words.captions:
                known["caption_source"] = "folder"
                words = replace(words, captions=(repeats[1],))
        return SourceItem(
            key=key,
            path=self.listing.files[key],
            suffix=self.listing.files[key].suffix,
            captions=words.captions,
            tags=words.tags,
            attributes=tuple((known | dict(words.attributes)).items()),
        )

    def _texts(self, key: str) -> Words:
        words = read_sidecars(self.listing.texts_of(key))
        return words.joined(self._words[key]) if key in self._words else words

    def _in_pair(self, key: str, pair: Pair, words: Words) -> Words:
        """The words of a picture; the caption of its pair where it has none."""
        if words.captions or pair.problem is not None:
            return words
        other = pair.lost[0] if key in pair.won else pair.won[0]
        return replace(words, captions=self._texts(other).captions)


def _pair_facts(key: str, pair: Pair) -> dict[str, str]:
    side = WON if key in pair.won else LOST
    if pair.problem is not None:
        return {"side": side, "pair_problem": pair.problem}
    return {"pair": pair.name, "side": side}


def _repeats(key: str) -> tuple[str, str] | None:
    """The number and the name of the nearest folder that is called `N_name`."""
    for folder in reversed(key.split("/")[:-1]):
        found = _REPEATED.fullmatch(folder)
        if found is not None and found[2].strip():
            return str(int(found[1])), " ".join(found[2].split())
    return None


def _read_tables(
    listing: FolderListing, caption_column: str | None
) -> tuple[dict[str, Words], dict[str, SourceItem]]:
    """What metadata files say, by picture, and the rows that cannot be used.

    A file that a row names is a picture, whatever its ending.
    """
    words: dict[str, Words] = {}
    problems: dict[str, SourceItem] = {}
    for name, path in sorted(listing.files.items()):
        if path.name not in METADATA:
            continue
        above = name.rpartition("/")[0]
        for row in read_metadata(path, caption_column):
            where = f"{name}:{row.line}"
            if row.file_name is None:
                problems[where] = SourceItem(where, problem=row.problem)
                continue
            target = os.path.normpath(f"{above}/{row.file_name}" if above else row.file_name)
            target = target.replace(os.sep, "/")
            if target.startswith(("../", "/")) or target == "..":
                problem = f"'{row.file_name}' {OUTSIDE}"
            elif target in listing.tars or target in listing.parquets:
                problem = f"'{row.file_name}' is an archive of pictures"
            elif target in listing.files:
                listing.pictures.add(target)
                words[target] = words[target].joined(row.words) if target in words else row.words
                continue
            elif target in listing.escaping or target in listing.problems:
                continue  # the file itself is an item with this problem
            else:
                problem = f"'{row.file_name}' is not there"
            problems[where] = SourceItem(where, problem=problem)
    return words, problems
