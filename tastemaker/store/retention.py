"""Which of a run's checkpoints stay when newer ones come, and as what.

```
checkpoints/step-000123/          whole: a run can go on from it; the last few
checkpoints/weights/step-000045/  the weights alone: the first one of every N images, the best
checkpoints/best.json             which checkpoint had the lowest validation loss
```

The weights are the running average where the run keeps one, else the last weights. They are
hard-linked before the whole checkpoint goes, so nothing is copied, and a kill at any moment leaves
the whole checkpoint, its weights, or both.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.store.atomic import TEMPORARY, atomic_folder, write_json
from tastemaker.store.hashing import hash_json

WEIGHTS = "weights"
"""The folder of thinned checkpoints, and the group of tensors of the last weights."""

BEST = "best.json"
VALIDATION = "validation_loss"
"""Name in a checkpoint's state of the loss that is compared; absent where none was computed."""

_AVERAGE = "average"
_GROUPS = (_AVERAGE, WEIGHTS)
_FOLDER = re.compile(r"step-(\d{6,})")
_STATE = "state.json"


@dataclass(frozen=True)
class Kept:
    """What lies in a folder of checkpoints.

    Attributes:
        whole: checkpoints that a run can go on from.
        whole_bytes: their size on disk.
        thinned: checkpoints of which only the weights are left.
        thinned_bytes: their size on disk.
    """

    whole: int
    whole_bytes: int
    thinned: int
    thinned_bytes: int

    def __str__(self) -> str:
        """`2 whole (1.5 GiB), 3 as weights (0.9 GiB)`."""
        text = f"{self.whole} whole ({size_text(self.whole_bytes)})"
        if self.thinned:
            text += f", {self.thinned} as weights ({size_text(self.thinned_bytes)})"
        return text


class WeightsKept:
    """Keeps the weights of some checkpoints that are about to be removed.

    Args:
        folder: `checkpoints/`.
        every_images: keep the first checkpoint at or after every multiple of this; None keeps none.
        best: keep the one with the lowest validation loss, too.
    """

    def __init__(
        self, folder: Path | str, every_images: int | None = None, *, best: bool = True
    ) -> None:
        if every_images is not None and every_images < 1:
            raise ValueError(f"every_images: got {every_images}, expected at least 1")
        self.folder, self.every_images, self.best = Path(folder), every_images, best

    def before_removal(self, step: int, leaving: Iterable[int]) -> None:
        """Thin what deserves it, and remove weights that nothing speaks for any more.

        Args:
            step: of the newest checkpoint; weights of this step and later ones belong to a course
                that the run left, and go.
            leaving: steps of whole checkpoints that will be removed after this call.

        Raises:
            StorageError: the disk is full; every whole checkpoint is still there then.
        """
        whole, thin = step_folders(self.folder), step_folders(self.folder / WEIGHTS)
        for later in [s for s in thin if s >= step]:
            _remove(thin.pop(later))
        facts = {}
        for place in (thin, whole):
            facts |= {s: f for s, p in place.items() if s <= step and (f := _facts(p))}
        named = self._name_best(facts)
        for old in sorted(set(leaving) & facts.keys() - thin.keys()):
            if old == named or self._opens_a_span(old, facts, thin):
                _thin(whole[old], target := self.folder / WEIGHTS / whole[old].name)
                thin[old] = target
        for old in sorted(thin.keys() - whole.keys()):
            others = {s: p for s, p in thin.items() if s != old}
            if old != named and not self._opens_a_span(old, facts, others):
                _remove(thin.pop(old))
        for rubbish in (self.folder / WEIGHTS).glob(f"{TEMPORARY}*"):
            shutil.rmtree(rubbish, ignore_errors=True)
        for rubbish in self.folder.glob(f"{TEMPORARY}*-{BEST}"):
            rubbish.unlink(missing_ok=True)

    def _name_best(self, facts: Mapping[int, tuple[int, float | None]]) -> int | None:
        """Write `best.json`; the earliest checkpoint of the lowest loss."""
        losses = {s: loss for s, (_, loss) in sorted(facts.items()) if loss is not None}
        if not self.best or not losses:
            return None
        found = min(losses, key=lambda s: (losses[s], s))
        value = {"step": found, "images": facts[found][0], VALIDATION: losses[found]}
        if read_best(self.folder) != value:
            write_json(self.folder / BEST, value)
        return found

    def _opens_a_span(
        self, step: int, facts: Mapping[int, tuple[int, float | None]], thin: Iterable[int]
    ) -> bool:
        """Whether no earlier checkpoint stands for the same multiple of `every_images`."""
        if not self.every_images or step not in facts:
            return False
        span = facts[step][0] // self.every_images
        return span > 0 and not any(
            facts[s][0] // self.every_images == span for s in thin if s < step and s in facts
        )


def step_folders(folder: Path | str) -> dict[int, Path]:
    """Step -> folder of what lies in `checkpoints/` or in `checkpoints/weights/`, rising."""
    folder = Path(folder)
    if not folder.is_dir():
        return {}
    found = ((_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def weights_hash(folder: Path) -> str | None:
    """Hash of the weights of a checkpoint, whole or thinned; None when it is gone or damaged."""
    try:
        files = json.loads((folder / _STATE).read_text("utf-8"))["files"]
        for group in _GROUPS:
            if found := {f: h for f, h in files.items() if f.partition(".")[0] == group}:
                return hash_json(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def tensor_names(checkpoint: Path, group: str) -> set[str]:
    """Names of a group's tensors in a checkpoint, from the heads of its files; none without any.

    Raises:
        FileNotFoundError: a file is removed meanwhile.
    """
    from safetensors import safe_open

    names: set[str] = set()
    for path in sorted(checkpoint.glob(f"{group}*.safetensors")):
        if path.name.partition(".")[0] == group:
            with safe_open(path, framework="np") as opened:
                names |= set(opened.keys())
    return names


def saved_figures(checkpoints: Path | str, step: int) -> dict[str, float]:
    """What is shown after a save: the step, its bytes, and those of all that is kept."""
    here = kept(checkpoints)
    size = _bytes(Path(checkpoints) / f"step-{step:06d}", set())
    return {
        "checkpoint_step": step,
        "checkpoint_bytes": size,
        "kept_bytes": here.whole_bytes + here.thinned_bytes,
    }


def weight_folders(checkpoints: Path | str) -> dict[int, Path]:
    """Step -> folder with weights, whole or thinned; the whole one where there are both."""
    checkpoints = Path(checkpoints)
    both = step_folders(checkpoints / WEIGHTS) | step_folders(checkpoints)
    return dict(sorted(both.items()))


def images_seen(folder: Path) -> int | None:
    """Images that a checkpoint had seen; None where it is gone or damaged."""
    found = _facts(folder)
    return None if found is None else found[0]


def read_best(checkpoints: Path | str) -> dict[str, Any] | None:
    """`step`, `images` and `validation_loss` of the best checkpoint; None where none is named."""
    try:
        return json.loads((Path(checkpoints) / BEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def kept(checkpoints: Path | str) -> Kept:
    """What lies there now, with its size; a hard-linked file counts once, as whole."""
    seen: set[tuple[int, int]] = set()
    counts, sizes = [], []
    for place in (Path(checkpoints), Path(checkpoints) / WEIGHTS):
        folders = step_folders(place).values()
        counts.append(len(folders))
        sizes.append(sum(_bytes(folder, seen) for folder in folders))
    return Kept(counts[0], sizes[0], counts[1], sizes[1])


def kept_counts(checkpoints: Path | str) -> dict[str, int]:
    """What lies there, for a manifest."""
    here = kept(checkpoints)
    thinned = {"checkpoints kept as weights": here.thinned} if here.thinned else {}
    size = round((here.whole_bytes + here.thinned_bytes) / 2**20)
    return {"checkpoints kept whole": here.whole, **thinned, "MiB of checkpoints": size}


def size_text(count: float) -> str:
    """Bytes as people say them: `512 bytes`, `3.4 MiB`, `1.5 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _bytes(folder: Path, seen: set[tuple[int, int]]) -> int:
    """Size of the files that were not seen before; what is removed meanwhile counts for nothing."""
    total = 0
    try:
        for file in list(folder.iterdir()):
            facts = file.stat()
            if (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_size
    except FileNotFoundError:
        pass
    return total


def _facts(folder: Path) -> tuple[int, float | None] | None:
    """Images seen and validation loss; None for a damaged checkpoint."""
    try:
        state = json.loads((folder / _STATE).read_text("utf-8"))["state"]
        loss = state.get(VALIDATION)
        return int(state["images"]), None if loss is None else float(loss)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _thin(whole: Path, target: Path) -> None:
    """The weights of a checkpoint as a checkpoint of their own, with their hashes."""
    content = json.loads((whole / _STATE).read_text("utf-8"))
    del content["checksum"]
    # One file a group, or several where several processes wrote it: `weights`, `weights.1`.
    files = {g: [f for f in content["files"] if f.partition(".")[0] == g] for g in _GROUPS}
    if files[_AVERAGE]:
        names = {g: tensor_names(whole, g) for g in _GROUPS}
        # What is no parameter, such as the statistics of a normalisation, has no average.
        if names[WEIGHTS] <= names[_AVERAGE]:
            files[WEIGHTS] = []
    chosen = [file for group in _GROUPS for file in files[group]]
    content["files"] = {file: content["files"][file] for file in chosen}
    with atomic_folder(target) as folder:
        for file in chosen:
            _link(whole / f"{file}.safetensors", folder / f"{file}.safetensors")
        write_json(folder / _STATE, {**content, "checksum": hash_json(content)})


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems have no hard links.
        shutil.copyfile(source, target)


def _remove(folder: Path) -> None:
    """Renamed first: a kill in the middle leaves rubbish, not a damaged checkpoint."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
