"""One hash for everything: blake2b with 256 bits, written as 64 hex digits."""

import json
import re
from hashlib import blake2b
from pathlib import Path

from tastemaker.store.atomic import TEMPORARY

_CHUNK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hash_bytes(data: bytes) -> str:
    """Hash of some bytes."""
    return blake2b(data, digest_size=32).hexdigest()


def hash_file(path: Path | str) -> str:
    """Hash of a file's bytes, the same as `hash_bytes` of its content; read in pieces."""
    digest = blake2b(digest_size=32)
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Hash of a JSON value in one canonical form, so that the order of keys does not matter.

    Raises:
        ValueError: a number is not finite.
        TypeError: the value is no JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hash_bytes(text.encode())


def hash_folder(path: Path | str) -> str:
    """Hash of the names (relative, with `/`) and contents of all files below a folder.

    Unfinished files of `store.atomic` do not count; times and permissions do not either.
    """
    root = Path(path)
    files = {
        file.relative_to(root).as_posix(): file
        for file in root.rglob("*")
        if file.is_file() and not any(p.startswith(TEMPORARY) for p in file.relative_to(root).parts)
    }
    return hash_json([[name, hash_file(files[name])] for name in sorted(files)])


def hash_model(path: Path | str) -> str:
    """Hash of a model's file or folder."""
    path = Path(path)
    return hash_file(path) if path.is_file() else hub_hash(path) or hash_folder(path)


def hub_hash(folder: Path) -> str | None:
    """Hash of a folder of the hub's cache, which is named by its commit; None for any other."""
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return hash_json(["hub", folder.parent.parent.name, folder.name])
    return None
