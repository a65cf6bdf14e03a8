"""Pictures in a tar, as WebDataset packs them: members whose names differ only in their endings.

A member's key is its name up to the first dot of the last part (`train/0001` of `train/0001.jpg`).
Pictures are used in place; `.txt`, `.caption` and `.json` members are read as texts beside a
picture, other short texts (`.cls`, `.url`) become attributes. Whatever can hold a program (pickle,
NumPy, torch) is never opened.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from tastemaker.records.preference import Preference
from tastemaker.store.archives import slice_address
from tastemaker.store.file_kinds import HEAD_BYTES, PICTURE_ENDINGS, ending_of, picture_ending
from tastemaker.store.hashing import hash_json
from tastemaker.store.picture_texts import (
    MOST_TEXT_BYTES,
    TEXT_ENDINGS,
    Words,
    utf8,
    words_in,
)
from tastemaker.store.source_item import SourceItem, Where, passes
from tastemaker.store.splits import held_out
from tastemaker.store.tar_members import TarMember, tar_members

_NEVER_OPENED = frozenset(
    (
        *(".pkl", ".pickle", ".pyd", ".pth", ".pt", ".ckpt", ".dill"),
        *(".npy", ".npz", ".ten", ".tb", ".bin", ".safetensors", ".mp", ".cbor"),
    )
)
_MOST_ATTRIBUTE_BYTES = 256


class TarPictures:
    """The pictures of one tar.

    An item's key is `TAR/MEMBER`; attributes: `folder` (the tar and the folder in it), `split` as
    in a folder of pictures, and what the texts of the same key say.

    Args:
        path: the tar.
        name: how to call it in keys; its file name by default.
        caption_column: the key of the caption in `.json` members; `text` or `caption` by default.
    """

    def __init__(
        self, path: Path, *, name: str | None = None, caption_column: str | None = None
    ) -> None:
        self.path = path
        self.name = name or utf8(path.name)
        self.spec = f"tar:{path}"
        self.caption_column = caption_column
        self._unused: Counter[str] = Counter()
        self._not_texts: Counter[str] = Counter()
        self._counted: tuple[tuple[int, int], int] | None = None

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures in the order of the tar, then each member that cannot be used."""
        self._not_texts.clear()
        pictures, texts, problems = self._index()
        chosen = held_out(member.name for member in pictures)
        with self.path.open("rb") as file:
            for member in pictures:
                item = self._item(file, member, texts, member.name in chosen)
                if passes(item.attributes, where):
                    yield item
        yield from (item for item in problems if passes(item.attributes, where))

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` from the headers alone."""
        if where:
            return sum(1 for _ in self.items(where))
        status = self.path.stat()
        stamp = status.st_size, status.st_mtime_ns
        if self._counted is None or self._counted[0] != stamp:
            pictures, _, problems = self._index()
            self._counted = stamp, len(pictures) + len(problems)
        return self._counted[1]

    @property
    def left_out(self) -> Counter[str]:
        """Members that are neither pictures nor texts of pictures, by ending, when last read."""
        return self._unused + self._not_texts

    def preferences(self) -> Iterator[Preference]:
        """None."""
        return iter(())

    def describe(self) -> dict[str, str]:
        """The tar, with a licence that only its owner knows."""
        return {
            "name": self.path.name,
            "licence": "the owner's",
            "attribution": "",
            "path": str(self.path),
        } | left_out_text(self.left_out)

    def fingerprint(self) -> str:
        """Hash of the tar's name, size and time."""
        status = self.path.stat()
        facts = [str(self.path), status.st_size, status.st_mtime_ns]
        return hash_json(["tar", self.caption_column, facts])

    def _index(self) -> tuple[list[TarMember], dict[str, list[TarMember]], list[SourceItem]]:
        """Pictures, their texts by stem, and problems; members that are left out are counted.

        Those of one key need not follow each other in the tar, as they must for a stream.
        """
        self._unused.clear()
        pictures, problems = [], []
        texts: dict[str, list[TarMember]] = {}
        with self.path.open("rb") as file:
            for member in tar_members(self.path):
                base = member.name.rpartition("/")[2]
                ending = ending_of(member.name)
                if member.problem is not None:
                    problems.append(self._problem(member))
                elif base.startswith("."):
                    self._unused["hidden"] += 1
                elif ending in _NEVER_OPENED:
                    self._unused[ending] += 1
                elif ending in PICTURE_ENDINGS or (
                    ending not in TEXT_ENDINGS and _is_picture(file, member)
                ):
                    pictures.append(member)
                else:
                    texts.setdefault(_stem(member.name), []).append(member)
        for stem in set(texts).difference(*(_stems(member.name) for member in pictures)):
            for member in texts.pop(stem):
                self._unused[f"{ending_of(member.name) or 'no ending'} without a picture"] += 1
        return pictures, texts, problems

    def _item(
        self,
        file: IO[bytes],
        member: TarMember,
        texts: Mapping[str, list[TarMember]],
        is_held_out: bool,
    ) -> SourceItem:
        words = Words()
        for stem in _stems(member.name):
            for text in sorted(texts.get(stem, ()), key=_rank):
                words = words.joined(self._words(file, text))
        key = f"{self.name}/{utf8(member.name)}"
        split = "heldout" if is_held_out else "tune"
        known = {"folder": key.rpartition("/")[0], "split": split}
        return SourceItem(
            key=key,
            path=slice_address(self.path, member.offset, member.size),
            suffix=ending_of(member.name),
            captions=words.captions,
            tags=words.tags,
            attributes=tuple((known | dict(words.attributes)).items()),
        )

    def _words(self, file: IO[bytes], member: TarMember) -> Words:
        ending = ending_of(member.name)
        if ending in TEXT_ENDINGS:
            data = _read(file, member, MOST_TEXT_BYTES + 1)
            return words_in(utf8(member.name.rpartition("/")[2]), data, self.caption_column)
        text = _short_text(_read(file, member, _MOST_ATTRIBUTE_BYTES + 1))
        if text is None:
            self._not_texts[ending or "no ending"] += 1
            return Words()
        return Words(attributes=((utf8(ending[1:]) or "text", text),)) if text else Words()

    def _problem(self, member: TarMember) -> SourceItem:
        # The name may be anything, so it does not become part of the key.
        return SourceItem(f"{self.name}@{member.header}", problem=member.problem)


def left_out_text(counts: Mapping[str, int]) -> dict[str, str]:
    """The line of `describe` that says what is neither a picture nor a text of one; most first."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    if not ordered:
        return {}
    listed = ", ".join(f"{count:,} {ending}" for ending, count in ordered[:20])
    more = f", and {len(ordered) - 20} other kinds" if len(ordered) > 20 else ""
    return {"left out": listed + more}


def _stem(name: str) -> str:
    """The name up to its last dot."""
    return name[: len(name) - len(ending_of(name))]


def _stems(picture: str) -> tuple[str, ...]:
    """Stems of the texts of a picture, the most telling first: its own, its key, its whole name.

    The key is WebDataset's, up to the first dot. They differ where a name has a dot inside
    (`v1.0-cat.jpg`, `0001.seg.png`); then several pictures share a key.
    """
    folder, slash, base = picture.rpartition("/")
    key = f"{folder}{slash}{base.partition('.')[0]}"
    return tuple(dict.fromkeys((_stem(picture), key, picture)))


def _rank(text: TarMember) -> tuple[int, str]:
    ending = ending_of(text.name)
    place = TEXT_ENDINGS.index(ending) if ending in TEXT_ENDINGS else len(TEXT_ENDINGS)
    return place, text.name


def _short_text(data: bytes) -> str | None:
    """One line of text, or None for anything else."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and len(data) <= _MOST_ATTRIBUTE_BYTES else None


def _is_picture(file: IO[bytes], member: TarMember) -> bool:
    return picture_ending(_read(file, member, HEAD_BYTES)) is not None


def _read(file: IO[bytes], member: TarMember, most: int) -> bytes:
    file.seek(member.offset)
    return file.read(min(member.size, most))
