"""Thumbnails on disk: small WebP files by the hash of what they show, made when first asked for."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from threading import BoundedSemaphore

from fastapi import Response

from tastemaker.errors import InputError, PictureError, StorageError
from tastemaker.store.atomic import write_bytes
from tastemaker.store.catalogue_rows import Stamp
from tastemaker.store.hashing import hash_bytes
from tastemaker.web.browser_pictures import THUMB_PX, grey_square, thumbnail

FOLDER = ".thumbnails"
"""In the studio's folder; it can be deleted at any time."""

_AT_ONCE = 4
"""Pictures that are decoded at one time, so that a grid of large ones does not fill the memory."""


class Thumbnails:
    """A cache of thumbnails.

    Args:
        folder: where the files go; made when the first one is written.
        side_px: longer side.
    """

    def __init__(self, folder: Path, side_px: int = THUMB_PX) -> None:
        self._folder, self._side_px = folder, side_px
        self._turn = BoundedSemaphore(_AT_ONCE)

    def of(self, key: str, path: Path | str) -> bytes | None:
        """The thumbnail of a picture; None where the picture cannot be read.

        Args:
            key: what the picture's content is known by: another content has another key.
            path: where it lies.
        """
        name = blake2b(f"{self._side_px}:{key}".encode(), digest_size=16).hexdigest()
        file = self._folder / name[:2] / f"{name}.webp"
        try:
            return file.read_bytes()
        except OSError:
            pass
        with self._turn:
            try:
                data = thumbnail(path, self._side_px)
            except PictureError:
                return None
        # A full disk or a folder that cannot be written costs speed only.
        with suppress(OSError, StorageError):
            write_bytes(file, data)
        return data

    def answer(self, path: Path | str, key: str | None = None) -> Response:
        """The thumbnail as an answer; a grey square with 404 where there is none."""
        data = self.of(key or stamp_key(path), path)
        if data is None:
            return Response(grey_square(), 404, media_type="image/webp")
        headers = {"cache-control": "private, max-age=86400"}
        return Response(data, media_type="image/webp", headers=headers)


def stamp_key(path: Path | str) -> str:
    """The content of a file, as far as its path, size and time tell."""
    try:
        stamp = Stamp.of(Path(path))
    except (OSError, ValueError):
        return f"{path}"
    return f"{path}:{stamp.bytes}:{stamp.modified_ns}"


def answer_of(make: Callable[[], tuple[bytes, str]]) -> Response:
    """A whole picture as an answer; a grey square with 404 where it cannot be read."""
    try:
        data, kind = make()
    except InputError:
        return Response(grey_square(), 404, media_type="image/webp")
    tag = f'"{hash_bytes(data)[:20]}"'
    headers = {"cache-control": "private, max-age=86400, immutable", "etag": tag}
    return Response(data, media_type=kind, headers=headers)
