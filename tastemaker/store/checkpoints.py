"""Checkpoints: a folder each, that is whole or absent, with a checksum for every file."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import CorruptFile
from tastemaker.store.atomic import TEMPORARY, atomic_folder, write_json
from tastemaker.store.hashing import hash_file, hash_json

if TYPE_CHECKING:
    from torch import Tensor

_FOLDER = re.compile(r"step-(\d{6,})")
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as read from disk.

    Attributes:
        step: optimizer steps done.
        tensors: group -> name -> tensor on the CPU.
        state: JSON values.
        damaged: later checkpoints that `latest` had to pass over, with what is wrong with each.
    """

    step: int
    tensors: dict[str, dict[str, "Tensor"]]
    state: dict[str, Any]
    damaged: tuple[str, ...] = ()


class CheckpointStore:
    """`FOLDER/step-000123/` with `GROUP.safetensors` per group of tensors, and `state.json`.

    `state.json` holds the state and the hash of every tensor file, and a hash of itself. One
    process writes at a time; the run's lock sees to that.
    """

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        """Name the folder; nothing is touched before the first `save`.

        Raises:
            ValueError: keep is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep: got {keep}, expected at least 1")
        self.folder, self.keep = Path(folder), keep

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, "Tensor"]], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint, then remove all but the last `keep`.

        Checkpoints of later steps are removed too: the run went back, and they belong to a course
        that it left.

        Raises:
            StorageError: the disk is full; earlier checkpoints are untouched.
        """
        from safetensors.torch import save_file

        target = self.folder / f"step-{step:06d}"
        with atomic_folder(target) as folder:
            files = {}
            for group, named in tensors.items():
                path = folder / f"{group}.safetensors"
                save_file({n: t.detach().cpu().contiguous() for n, t in named.items()}, path)
                files[group] = hash_file(path)
            content = {"step": step, "state": dict(state), "files": files}
            write_json(folder / _STATE, {**content, "checksum": hash_json(content)})
        self._tidy(step)
        return target

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, damaged ones included, in rising order."""
        return sorted(self._folders())

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is undamaged, read and checked; None when there is none."""
        damaged = []
        for step in reversed(self.steps()):
            try:
                found = self.load(step)
            except CorruptFile as error:
                damaged.append(str(error))
            else:
                return Checkpoint(found.step, found.tensors, found.state, tuple(damaged))
        return None

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint and check every file of it.

        Raises:
            CorruptFile: it is missing, incomplete, or does not match its checksums.
        """
        from safetensors.torch import load_file

        folder = self._folders().get(step, self.folder / f"step-{step:06d}")
        content = _read_state(folder / _STATE)
        tensors = {}
        for group, expected in content["files"].items():
            path = folder / f"{group}.safetensors"
            if not path.is_file():
                raise CorruptFile(f"{path}: missing from the checkpoint")
            if hash_file(path) != expected:
                raise CorruptFile(f"{path}: does not match its checksum")
            tensors[group] = load_file(path)
        return Checkpoint(content["step"], tensors, content["state"])

    def _folders(self) -> dict[int, Path]:
        matches = ((_FOLDER.fullmatch(path.name), path) for path in _children(self.folder))
        return {int(match[1]): path for match, path in matches if match}

    def _tidy(self, step: int) -> None:
        folders = self._folders()
        kept = sorted(s for s in folders if s <= step)[-self.keep :]
        for path in (folders[s] for s in folders if s not in kept):
            # Renamed first: a kill in the middle leaves rubbish, not a damaged checkpoint.
            doomed = path.with_name(f"{TEMPORARY}{path.name}")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
        for path in _children(self.folder):
            if path.name.startswith(TEMPORARY) and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


def _children(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(folder.iterdir())


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        checksum = content.pop("checksum")
        good = hash_json(content) == checksum
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CorruptFile(f"{path}: missing or unreadable ({error})") from error
    if not good:
        raise CorruptFile(f"{path}: does not match its checksum")
    return content
