"""`checkpoints/base.json`: which model a run's checkpoints belong to, for whoever reads them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import from_json, to_json
from tastemaker.store.atomic import write_json

FILE = "base.json"


@dataclass(frozen=True)
class FitBase:
    """What a run started from.

    Attributes:
        model: what `load_family` takes: a path from the root on, a packaged name or a hub id.
        method: how it was made trainable, see `training.method`.
        seed: of the run; new adapters are drawn with it.
        schedule: arguments of `load_family` that change its noise schedule.
        prompts: a few texts to draw pictures of while it trains.
        adapter: LoRA weights that it started from; empty for none.
    """

    model: str
    method: Mapping[str, Any]
    seed: int
    schedule: Mapping[str, Any] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    adapter: str = ""


def write_fit_base(checkpoints: Path, base: FitBase) -> None:
    """Write it into the folder of the checkpoints, before the first of them."""
    write_json(checkpoints / FILE, to_json(base))


def read_fit_base(place: Path) -> FitBase:
    """The base of a checkpoint, of the folder of checkpoints, or of a fit step's folder.

    Raises:
        InputError: there is none.
        CorruptFile: it is not what `write_fit_base` writes.
    """
    for folder in (place / "checkpoints", place, place.parent, place.parent.parent):
        if (folder / FILE).is_file():
            return _read(folder / FILE)
    raise InputError(
        place,
        f"no {FILE} with it",
        "a checkpoint inside the folder of its fit step",
        "Leave checkpoints in the folder where the fit wrote them, or copy base.json too.",
    )


def _read(path: Path) -> FitBase:
    try:
        return from_json(FitBase, json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CorruptFile(
            f"{path}: not the description of a base model ({error}). "
            "Run the fit again: it writes this file when it starts."
        ) from error
