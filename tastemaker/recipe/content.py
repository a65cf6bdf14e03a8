"""Keys of inputs that come from outside a run: hashes of contents, computed once per change."""

import contextlib
import json
from pathlib import Path

from tastemaker.store.atomic import write_json
from tastemaker.store.hashing import hash_file, hash_json, hub_hash
from tastemaker.store.rundir import RunDir


def run_contents(run: RunDir) -> "ContentKeys":
    """The keys that a run folder remembers."""
    return ContentKeys(run.path / "inputs.json")


class ContentKeys:
    """Hashes of files and folders; a file is read again only when its size or time has changed.

    Args:
        cache: a JSON file that keeps the hashes between runs; None keeps them in memory only.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, list[object]] = {}
        self._new = False
        if cache is not None:
            # A cache that cannot be read costs time, nothing else.
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(cache.read_text())
                self._known = known if isinstance(known, dict) else {}

    def key(self, path: Path) -> str:
        """Hash of a file, or of the names and contents of a folder's files; not of hidden ones."""
        if path.is_file():
            return self._file(path)
        known = hub_hash(path)
        if known is not None:
            return known
        files = {
            file.relative_to(path).as_posix(): file
            for file in path.rglob("*")
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        }
        return hash_json([[name, self._file(files[name])] for name in sorted(files)])

    def save(self) -> None:
        """Write the cache file, when there is one and something is new."""
        if self._cache is not None and self._new:
            write_json(self._cache, self._known)
            self._new = False

    def _file(self, path: Path) -> str:
        state = path.stat()
        name, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and known[:2] == stamp and isinstance(known[2], str):
            return known[2]
        digest = hash_file(path)
        self._known[name] = [*stamp, digest]
        self._new = True
        return digest
