"""A new collection that starts from what an older one knows."""

import os
import shutil
from pathlib import Path

from tastemaker.store.atomic import TEMPORARY, atomic_folder, storage_errors


def carry_over(old: Path | str, new: Path | str) -> bool:
    """Link an older collection's catalogue and own pictures into a new, empty one.

    Files of a collection are only ever replaced by others, never written again, so both may share
    them; where the file system has no hard links they are copied. The catalogue appears last and
    as a whole: after a kill this is done again from the start.

    Args:
        old: the older collection; it is not changed.
        new: the new one; what it has in `files/` already stays.

    Returns:
        Whether there was something to link; False, too, when the new one has a catalogue already.

    Raises:
        StorageError: the disk is full.
    """
    old, new = Path(old), Path(new)
    if not (old / "catalog").is_dir() or (new / "catalog").exists():
        return False
    with storage_errors(new):
        _link_all(old / "files", new / "files")
    with atomic_folder(new / "catalog") as folder:
        _link_all(old / "catalog", folder)
    return True


def _link_all(old: Path, new: Path) -> None:
    for path in sorted(old.rglob("*")):
        inner = path.relative_to(old)
        unfinished = any(part.startswith(TEMPORARY) for part in inner.parts)
        target = new / inner
        if unfinished or path.is_symlink() or not path.is_file() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    # Renamed into place, so that a kill leaves no half of a picture.
    temporary = target.with_name(f"{TEMPORARY}{target.name[-100:]}")
    shutil.copyfile(path, temporary)
    temporary.replace(target)
