"""A user's folder of pictures, with what is written about them beside it.

Pictures lie anywhere below the folder. A caption comes from `NAME.txt` or `NAME.caption` (one a
line, best first), from `NAME.json` (`caption`, `captions`, `tags`; other plain values become
attributes), or from a `metadata.jsonl` or `metadata.csv` with `file_name` and a caption column, in
the folder of the pictures or above. Nothing outside the folder is ever read: links and names that
lead out are refused.
"""

import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from tastemaker.errors import InputError
from tastemaker.store.atomic import TEMPORARY
from tastemaker.store.hashing import hash_json
from tastemaker.store.picture_texts import (
    METADATA,
    Words,
    leads_out,
    read_metadata,
    read_sidecars,
)
from tastemaker.store.source_item import SourceItem, Where, passes

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
        *(".jp2", ".ppm", ".pgm", ".qoi", ".ico"),
        # Not readable here; listed, so that the user is told instead of missing them.
        *(".heic", ".heif", ".jxl", ".psd", ".svg"),
    )
)
"""Endings of files that are taken for pictures; what they are is then told by their content."""

_OUTSIDE = "leads outside the folder"


class FolderPictures:
    """Pictures below a folder, used in place.

    Attributes of an item: `folder` (relative, with `/`; empty at the top), what the texts give,
    and, where they do not give it, `split`: `heldout` for about one picture in eight (by the hash
    of the relative path), `tune` for the others.

    Raises:
        InputError: the folder is not there.
    """

    def __init__(self, folder: Path, *, caption_column: str | None = None) -> None:
        if not folder.exists():
            raise InputError(folder, "nothing there", "a folder of pictures", "Check the path.")
        if not folder.is_dir():
            raise InputError(
                folder, "a file", "a folder of pictures", f"Give its folder, {folder.parent}."
            )
        self.folder = folder.resolve()
        self.spec = f"folder:{self.folder}"
        self.caption_column = caption_column

    def items(self, where: Where | None = None) -> Iterator[SourceItem]:
        """The pictures, by relative path; each problem with a link or a text is an item too.

        Raises:
            InputError: there is no picture at all, or a metadata file has no usable columns.
        """
        pictures, broken = self._entries()
        held_out = _held_out(pictures)
        for key in sorted({*pictures, *broken}):
            if key in pictures:
                item = self._item(key, pictures[key], "heldout" if key in held_out else "tune")
            else:
                item = broken[key]
            if passes(item.attributes, where):
                yield item

    def count(self, where: Where | None = None) -> int:
        """How many items there are; without `where` the files beside the pictures are not read."""
        if where:
            return sum(1 for _ in self.items(where))
        pictures, broken = self._entries()
        return len({*pictures, *broken})

    def describe(self) -> dict[str, str]:
        """The folder, with a licence that only its owner knows."""
        return {
            "name": self.folder.name,
            "licence": "the owner's",
            "attribution": "",
            "path": str(self.folder),
        }

    def fingerprint(self) -> str:
        """Hash of names, sizes and times of all files; no file is read."""
        facts = []
        for name, path in sorted(_Listing(self.folder).files.items()):
            status = path.stat()
            facts.append([name, status.st_size, status.st_mtime_ns])
        return hash_json([str(self.folder), self.caption_column, facts])

    def _entries(self) -> tuple[dict[str, Words], dict[str, SourceItem]]:
        """Pictures with what tables say of them, and problems, both by key."""
        listing = _Listing(self.folder)
        words, problems = self._metadata(listing)
        pictures = {key: words.get(key, Words()) for key in listing.pictures}
        broken = {item.key: item for item in (*problems, *listing.problems)}
        if not pictures and not broken:
            raise InputError(
                self.folder,
                f"{listing.others} other files" if listing.others else "an empty folder",
                "pictures (.jpg, .png, .webp, .tif, .gif, .avif, ...)",
                "Put some there, or give another folder.",
            )
        return pictures, broken

    def _item(self, key: str, words: Words, split: str) -> SourceItem:
        path = self.folder / key
        words = read_sidecars(path, self.folder).joined(words)
        folder = key.rpartition("/")[0]
        return SourceItem(
            key=key,
            path=path,
            suffix=path.suffix,
            captions=words.captions,
            tags=words.tags,
            attributes=tuple({"folder": folder, "split": split, **dict(words.attributes)}.items()),
        )

    def _metadata(self, listing: "_Listing") -> tuple[dict[str, Words], list[SourceItem]]:
        """What metadata files say, by picture, and the rows that cannot be used."""
        words: dict[str, Words] = {}
        problems: list[SourceItem] = []
        for name, path in sorted(listing.files.items()):
            if path.name not in METADATA:
                continue
            above = name.rpartition("/")[0]
            for row in read_metadata(path, self.caption_column):
                where = f"{name}:{row.line}"
                if row.file_name is None:
                    problems.append(SourceItem(where, problem=row.problem))
                    continue
                target = os.path.normpath(f"{above}/{row.file_name}" if above else row.file_name)
                target = target.replace(os.sep, "/")
                if target.startswith(("../", "/")) or target == "..":
                    problem = f"'{row.file_name}' {_OUTSIDE}"
                elif target in listing.files:
                    listing.pictures.add(target)
                    words[target] = (
                        words[target].joined(row.words) if target in words else row.words
                    )
                    continue
                elif target in listing.escaping:
                    continue  # the link itself is an item with this problem
                else:
                    problem = f"'{row.file_name}' is not there"
                problems.append(SourceItem(where, problem=problem))
        return words, problems


def _held_out(keys: Iterable[str]) -> frozenset[str]:
    """About one in eight, at least one of several, and never all.

    Each by its own hash, so that a new picture moves no other but in the smallest folders.
    """
    digests = {key: blake2b(key.encode("utf-8", "surrogateescape")).digest() for key in keys}
    ordered = sorted(digests, key=digests.__getitem__)
    chosen = sum(digest[0] < 256 // 8 for digest in digests.values())
    return frozenset(ordered[: max(0, min(max(chosen, 1), len(ordered) - 1))])


class _Listing:
    """What lies below a folder: pictures, all regular files, and links that lead out."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, Path] = {}
        self.pictures: set[str] = set()
        self.escaping: set[str] = set()
        self.others = 0
        for folder, folders, names in os.walk(root):
            here = Path(folder)
            for name in sorted(folders):
                path = here / name
                if leads_out(path, root):
                    self.escaping.add(path.relative_to(root).as_posix())
            folders[:] = sorted(name for name in folders if _is_entered(here / name))
            for name in sorted(names):
                if not name.startswith((".", TEMPORARY)):
                    self._file(root, here / name)

    @property
    def problems(self) -> list[SourceItem]:
        return [SourceItem(key, problem=f"a link that {_OUTSIDE}") for key in self.escaping]

    def _file(self, root: Path, path: Path) -> None:
        key = path.relative_to(root).as_posix()
        is_picture = path.suffix.lower() in SUFFIXES
        if leads_out(path, root):
            if is_picture:
                self.escaping.add(key)
            return
        if not path.is_file():
            return
        self.files[key] = path
        if is_picture:
            self.pictures.add(key)
        else:
            self.others += 1


def _is_entered(path: Path) -> bool:
    """Hidden folders, links to folders, and our own collections and runs are left out."""
    if path.name.startswith((".", TEMPORARY)) or path.is_symlink():
        return False
    return not ((path / "catalog" / "base").is_dir() or (path / "steps.json").is_file())
