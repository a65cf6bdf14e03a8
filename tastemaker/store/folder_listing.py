"""What lies below a folder, each file told by its first bytes where its name does not tell.

Files with a picture's ending are taken for pictures unseen; texts of a picture (`NAME.txt` beside
`NAME.jpg`) too. Of every other file the first 512 bytes are read. Hidden files, and collections and
runs of ours, are left out; links that lead out of the folder are never followed.
"""

import os
from collections import Counter
from pathlib import Path

from tastemaker.errors import PictureError
from tastemaker.store.atomic import TEMPORARY
from tastemaker.store.bigasp_latents import is_bigasp_name, peek_bigasp
from tastemaker.store.file_kinds import (
    ARCHIVE_ENDINGS,
    HEAD_BYTES,
    PICTURE_ENDINGS,
    Kind,
    ending_of,
    is_gzipped_tar,
    kind_of,
)
from tastemaker.store.mask_files import masks_among
from tastemaker.store.picture_texts import METADATA, TEXT_ENDINGS, leads_out, utf8

OUTSIDE = "leads outside the folder"
"""What is said of links and names that would."""

_UNUSABLE = {
    "packed": "a packed archive; unpack it here",
    "raw": "a camera's raw file; develop it to a TIFF or JPEG first",
}

Heads = dict[tuple[str, int, int], str]
"""What files were, by path, size and time, so that a second look need not open them again."""


class FolderListing:
    """All regular files below a folder, by relative path with `/`, and what they are.

    Args:
        root: the folder.
        heads: what is known of files from another look; it is added to.
        look: whether to find out what the files are; otherwise only `files` is filled.

    Attributes:
        files: every file that may be used.
        pictures: those that are pictures.
        tars: those that are tars.
        parquets: those that are Parquet files.
        latents: those that are bigASP latents.
        problems: what cannot be used, with the reason.
        escaping: links that lead out of the folder (also among the problems when they are named
            like pictures or are folders).
        left_out: the others, counted by ending; masks of pictures (`store.mask_files`) too.
    """

    def __init__(self, root: Path, heads: Heads | None = None, *, look: bool = True) -> None:
        self.root = root
        self.files: dict[str, Path] = {}
        self.pictures: set[str] = set()
        self.tars: set[str] = set()
        self.parquets: set[str] = set()
        self.latents: set[str] = set()
        self.problems: dict[str, str] = {}
        self.escaping: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self._heads = heads if heads is not None else {}
        self._stats: dict[str, os.stat_result] = {}
        folders = [root]
        while folders:
            folders += self._read_folder(folders.pop())
        if look:
            self._tell_files_apart()

    def size_and_time(self, key: str) -> tuple[int, int]:
        """A file's bytes and time (ns) when it was listed."""
        status = self._stats[key]
        return status.st_size, status.st_mtime_ns

    def texts_of(self, picture: str) -> list[Path]:
        """The texts beside a picture, the best captions first."""
        return [self.files[name] for name in _text_names(picture) if name in self.files]

    def _read_folder(self, folder: Path) -> list[Path]:
        """Note the files of one folder, and return the folders in it."""
        inner = []
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems[self._key(folder)] = f"not readable ({error.strerror})"
            return []
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith((".", TEMPORARY)):
                continue
            try:
                if entry.is_symlink():
                    self._link(path)
                elif not entry.is_dir(follow_symlinks=False):
                    self._file(path, entry.stat(), entry.is_file())
                elif not _is_ours(path) and not _is_of_run(path):
                    inner.append(path)
            except OSError as error:
                self.problems[self._key(path)] = f"not readable ({error.strerror})"
        return inner

    def _link(self, path: Path) -> None:
        if leads_out(path, self.root):
            self.escaping.add(self._key(path))
            if path.is_dir() or _promises(path.name):
                self.problems[self._key(path)] = f"a link that {OUTSIDE}"
        elif path.is_file():
            self._file(path, path.stat(), True)
        elif not path.exists() and _promises(path.name):
            self.problems[self._key(path)] = "a link to nothing"

    def _file(self, path: Path, status: os.stat_result, is_regular: bool) -> None:
        key = path.relative_to(self.root).as_posix()
        if utf8(key) != key:
            # Neither the catalogue nor JSON can hold such a name.
            self.problems[utf8(key)] = "its name is not UTF-8; rename it"
        elif is_regular:
            self.files[key] = path
            self._stats[key] = status
        elif _promises(key):
            self.problems[key] = "no regular file"

    def _tell_files_apart(self) -> None:
        named = {key for key in self.files if ending_of(key) in PICTURE_ENDINGS}
        masks = masks_among(named)
        self.pictures |= named - masks
        if masks:
            self.left_out["masks"] += len(masks)
        texts = []
        for key in sorted(self.files):
            if key in named or key.rpartition("/")[2] in METADATA:
                continue
            if ending_of(key) in TEXT_ENDINGS:
                texts.append(key)
            else:
                self._look_at(key)
        claimed = {name for picture in self.pictures for name in _text_names(picture)}
        for key in texts:
            if key not in claimed:
                self._look_at(key, f"{ending_of(key)} without a picture")

    def _look_at(self, key: str, otherwise: str | None = None) -> None:
        """Find out what a file is by its content."""
        try:
            kind = self._kind(key)
        except OSError as error:
            self.problems[key] = f"not readable ({error.strerror})"
            return
        places = {
            "picture": self.pictures,
            "tar": self.tars,
            "parquet": self.parquets,
            "latent": self.latents,
        }
        promised = ARCHIVE_ENDINGS.get(ending_of(key))
        if kind in places:
            places[kind].add(key)
        elif kind in _UNUSABLE:
            self.problems[key] = _UNUSABLE[kind]
        elif kind == "packed tar":
            self.problems[key] = "a compressed tar; decompress it (its members cannot be reached)"
        elif promised:
            size = self._stats[key].st_size
            self.problems[key] = "zero bytes" if size == 0 else f"by its content not {promised}"
        else:
            self.left_out[otherwise or ending_of(key) or "no ending"] += 1

    def _kind(self, key: str) -> Kind | str:
        place = (str(self.files[key]), *self.size_and_time(key))
        if place not in self._heads:
            self._heads[place] = _kind_of_file(self.files[key])
        return self._heads[place]

    def _key(self, path: Path) -> str:
        return utf8(path.relative_to(self.root).as_posix())


def read_head(path: Path) -> bytes:
    """The first bytes of a file, enough for `kind_of`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _kind_of_file(path: Path) -> Kind | str:
    head = read_head(path)
    kind = kind_of(head, path.name)
    if kind != "gzip":
        return kind
    if is_gzipped_tar(head):
        return "packed tar"
    if is_bigasp_name(path.name):
        return "latent"
    try:
        peek_bigasp(path)
    except PictureError:
        return "other"
    return "latent"


def _text_names(picture: str) -> tuple[str, ...]:
    """`NAME.txt` and so on, then `NAME.jpg.txt` and so on."""
    stem = picture[: len(picture) - len(ending_of(picture))]
    names = [stem + ending for ending in TEXT_ENDINGS]
    return tuple(dict.fromkeys((*names, *(picture + ending for ending in TEXT_ENDINGS))))


def _promises(name: str) -> bool:
    return ending_of(name) in PICTURE_ENDINGS or ending_of(name) in ARCHIVE_ENDINGS


def _is_of_run(folder: Path) -> bool:
    """Whether a folder holds the steps of a run that shares its folder with pictures."""
    return folder.name == "steps" and (folder.parent / "steps.json").is_file()


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a collection or a run of ours."""
    return (folder / "catalog" / "base").is_dir() or (folder / "steps.json").is_file()
