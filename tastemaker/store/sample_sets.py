"""Sample sets of a training's checkpoints, with the same noise, beside each other.

```
sets/
  sets.json      which checkpoint each is of, and how many images it had seen; written last
  base/          the model before the training, as `store.samples` has it
  at-480/        after 480 images
```
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import from_json, to_json
from tastemaker.store.atomic import write_json
from tastemaker.store.retention import images_seen, weight_folders, weights_hash

FILE = "sets.json"
BASE = "base"
"""The side of the model before the training."""


@dataclass(frozen=True)
class CheckpointSet:
    """One checkpoint, and the pictures it has drawn.

    Attributes:
        side: what it is called where sides are compared; also the folder of its pictures.
        images: images it had seen.
        weights: hash of its weights; empty for the model before the training.
        checkpoint: its folder, relative to the one that holds all sets; empty before the training.
    """

    side: str
    images: int
    weights: str = ""
    checkpoint: str = ""


def checkpoint_sets(checkpoints: Path, sets: Path) -> list[CheckpointSet]:
    """A set for every checkpoint that is there, by images seen, after one for the base.

    Args:
        checkpoints: the folder that a fit wrote them to, or that of its step.
        sets: where the pictures go.

    Raises:
        InputError: there is no undamaged checkpoint.
    """
    inside = checkpoints / "checkpoints"
    found = []
    for folder in weight_folders(inside if inside.is_dir() else checkpoints).values():
        images, weights = images_seen(folder), weights_hash(folder)
        if images is not None and weights is not None:
            place = os.path.relpath(folder.resolve(), sets.resolve())
            found.append(CheckpointSet(f"at-{images}", images, weights, Path(place).as_posix()))
    if not found:
        raise InputError(
            checkpoints,
            "no checkpoint",
            "the checkpoints of a fit",
            "Train first; `save_every_images` says how often one is written.",
        )
    return [CheckpointSet(BASE, 0), *found]


def write_sets(folder: Path, sets: Sequence[CheckpointSet]) -> None:
    """Write `sets.json`, once all pictures are there."""
    write_json(folder / FILE, [to_json(one) for one in sets])


def read_sets(folder: Path | str) -> list[CheckpointSet]:
    """What `write_sets` wrote.

    Raises:
        InputError: there is no `sets.json`.
        CorruptFile: it is not what was written.
    """
    path = Path(folder) / FILE
    try:
        return [from_json(CheckpointSet, one) for one in json.loads(path.read_text("utf-8"))]
    except FileNotFoundError as error:
        raise InputError(
            folder,
            f"no {FILE}",
            "pictures of a training's checkpoints",
            "Run a generate step with `checkpoints` to its end, and name it.",
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptFile(
            f"{path}: not a list of sample sets ({error}). Run the generate step again."
        ) from error
