"""Where pictures come from: `open_source` turns what the user wrote into a source."""

from difflib import get_close_matches
from pathlib import Path

from tastemaker.errors import InputError
from tastemaker.store.demo_pictures import STYLES, DemoPictures
from tastemaker.store.folder_pictures import FolderPictures
from tastemaker.store.source_item import Source, SourceItem, Where, passes

__all__ = ["Source", "SourceItem", "Where", "open_source", "passes"]


def open_source(spec: str, *, caption_column: str | None = None) -> Source:
    """The source that a user named: a folder's path, `demo:twemoji` or `demo:openmoji`.

    Args:
        spec: what the user wrote; `~` is the home folder.
        caption_column: for a folder with metadata.jsonl or metadata.csv, which column holds the
            caption; `text` or `caption` by default.

    Raises:
        InputError: there is no such folder or demo source.
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
            "a folder on this machine, 'demo:twemoji' or 'demo:openmoji'",
            "Download the pictures into a folder first, and give that folder.",
        )
    return FolderPictures(Path(spec).expanduser(), caption_column=caption_column)
