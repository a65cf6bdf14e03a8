"""Where pictures come from: `open_source` turns what the user wrote into a source.

What can be opened, told by content and not by name alone:

- a folder, at any depth: picture files with texts beside them (`store.loose_pictures`), kohya's
  `N_name` folders and `w/` + `l/` preference folders, tars as WebDataset packs them, Parquet files
  with pictures, Pick-a-Pic, bigASP latents; all of them together if need be;
- one tar (`store.tar_pictures`), one Parquet file (`store.parquet_pictures`), one file of
  Pick-a-Pic (`store.pick_a_pic`);
- `demo:twemoji` and `demo:openmoji`, pictures that come with packages.
"""

from difflib import get_close_matches
from pathlib import Path

from tastemaker.errors import InputError
from tastemaker.store.demo_pictures import STYLES, DemoPictures
from tastemaker.store.file_kinds import is_gzipped_tar, kind_of
from tastemaker.store.folder_listing import read_head
from tastemaker.store.folder_pictures import FolderPictures
from tastemaker.store.parquet_pictures import ParquetPictures
from tastemaker.store.parquet_rows import kind_of_table
from tastemaker.store.pick_a_pic import PickAPic, refuse_without_pictures
from tastemaker.store.picture_texts import utf8
from tastemaker.store.source_item import Source, SourceItem, Where, passes
from tastemaker.store.tar_pictures import TarPictures

__all__ = ["Source", "SourceItem", "Where", "open_source", "passes"]

_READABLE = "a folder, a tar or a Parquet file with pictures"


def open_source(spec: str, *, caption_column: str | None = None) -> Source:
    """The source that a user named: a folder, a tar, a Parquet file, `demo:twemoji`, ...

    Args:
        spec: what the user wrote; `~` is the home folder.
        caption_column: which column of metadata.jsonl, metadata.csv or a Parquet file holds the
            caption; `text`, `caption` (in Parquet files also `prompt`) by default.

    Raises:
        InputError: there is no such place, or nothing there that can be read.
        MissingExtra: the packages of the demo pictures are not installed.
    """
    if spec.startswith("demo:"):
        style = spec.removeprefix("demo:")
        if style not in STYLES:
            near = get_close_matches(style, STYLES, n=1)
            raise InputError(
                "source",
                repr(spec),
                " or ".join(f"'demo:{known}'" for known in STYLES),
                f"Did you mean 'demo:{near[0]}'?" if near else "Use one of them, or a folder.",
            )
        return DemoPictures(style)
    if "://" in spec:
        raise InputError(
            "source",
            repr(spec),
            f"{_READABLE} on this machine, 'demo:twemoji' or 'demo:openmoji'",
            "Download the pictures into a folder first, and give that folder.",
        )
    path = Path(spec).expanduser()
    if path.is_file():
        return _open_file(path.resolve(), caption_column)
    return FolderPictures(path, caption_column=caption_column)


def _open_file(path: Path, caption_column: str | None) -> Source:
    try:
        head = read_head(path)
    except OSError as error:
        got = f"not readable ({error.strerror})"
        raise InputError(path, got, _READABLE, "Check its permissions.") from error
    kind = kind_of(head, path.name)
    if kind == "tar":
        return TarPictures(path, caption_column=caption_column)
    if kind == "parquet":
        return _open_table(path, caption_column)
    if kind == "gzip" and is_gzipped_tar(head):
        raise InputError(
            path,
            "a compressed tar",
            "a tar, whose members can be read at random",
            f"Decompress it first: gunzip {path.name}",
        )
    found = {
        "picture": "a file with one picture",
        "raw": "a camera's raw file",
        "gzip": "a gzip file",
        "packed": "a packed archive",
        "other": "a file that is no tar and no Parquet file" if head else "an empty file",
    }
    todo = "Unpack it into a folder, and give that folder." if kind == "packed" else None
    raise InputError(path, found[kind], _READABLE, todo or f"Give its folder, {path.parent}.")


def _open_table(path: Path, caption_column: str | None) -> Source:
    kind = kind_of_table(path)
    if kind == "pick-a-pic":
        return PickAPic({utf8(path.name): path})
    if kind == "pick-a-pic without pictures":
        raise refuse_without_pictures(path)
    source = ParquetPictures(path, caption_column=caption_column)
    source.count()  # says which columns there are when none holds pictures
    return source
