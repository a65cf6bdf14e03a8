"""From a checkpoint to a model: what the run started from, with the weights it had got to.

A checkpoint holds trained tensors only, by `part.name`. `base.json` beside the checkpoints says
which model they belong to and how it was made trainable.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.config import Config
from tastemaker.records.run import Artefact
from tastemaker.store.checkpoints import Checkpoint, CheckpointStore
from tastemaker.store.fit_base import FitBase, read_fit_base, write_fit_base
from tastemaker.store.retention import tensor_names

if TYPE_CHECKING:
    from tastemaker.models.family import Family, Precision

_WEIGHTS, _AVERAGE = "weights", "average"
_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class CheckpointWeights:
    """What was put into a model.

    Attributes:
        step: optimiser steps done.
        images: images seen.
        averaged: whether it is the running average, not the last weights.
    """

    step: int
    images: int
    averaged: bool


def describe_fit(
    step: Path,
    model: Artefact,
    method: Config,
    seed: int,
    prompts: Sequence[str],
    adapter: Path | None = None,
) -> None:
    """Write `base.json` of a fit that begins, so that its checkpoints can be used by themselves.

    Args:
        step: the fit step's folder.
        model: the base.
        method: see `training.method`.
        seed: of the run.
        prompts: texts that previews may be drawn of.
        adapter: LoRA weights that it starts from.
    """
    place = Path(model.path)
    name = str(place.resolve()) if place.exists() else str(model.path)
    start = str(adapter.resolve()) if adapter is not None else ""
    base = FitBase(name, method.model_dump(mode="json"), seed, {}, tuple(prompts), start)
    write_fit_base(step / "checkpoints", base)


def checkpoint_family(
    folder: Path, *, model: str | None = None, precision: "Precision" = "fp32", average: bool = True
) -> "Family":
    """The model of a checkpoint, frozen and in evaluation mode.

    Args:
        folder: `checkpoints/step-000123`, or `checkpoints/weights/step-000123`.
        model: the base model, where it is no more at the place that `base.json` tells.
        precision: of the networks; adapters stay in fp32.
        average: take the running average, when the checkpoint has one.

    Raises:
        InputError: the folder is no checkpoint, or not of this model.
        CorruptFile: a file of it is damaged.
    """
    # A checkpoint has all that was trained, whatever adapters the run started from.
    base = replace(read_fit_base(folder), adapter="")
    family = base_family(base, model=model, precision=precision)
    load_checkpoint_weights(family, folder, average)
    return family


def base_family(
    base: FitBase, *, model: str | None = None, precision: "Precision" = "fp32"
) -> "Family":
    """The model that a run started from, without new adapters, frozen.

    Raises:
        MissingModel: it is not there.
        InputError: neither are the adapters that the run started from.
    """
    from tastemaker.models.family import load_family
    from tastemaker.training.method import AnyMethod
    from tastemaker.training.start import start_parts

    family = load_family(model or base.model, precision=precision, **base.schedule)
    if base.adapter:
        method = TypeAdapter(AnyMethod).validate_python(base.method)
        start_parts(family, method, base.seed, Path(base.adapter))
    family.trainable(())
    return family


def load_checkpoint_weights(
    family: "Family", folder: Path, average: bool = True
) -> CheckpointWeights:
    """Put a checkpoint's weights into the model it was trained from.

    The first checkpoint of a LoRA fit also puts the adapters in. Another checkpoint of the same run
    may follow: every one has the same tensors.

    Args:
        family: by `base_family`, or after an earlier checkpoint of the same run; frozen afterwards.
        folder: the checkpoint, whole or thinned to its weights.
        average: take the running average, when the checkpoint has one.

    Raises:
        InputError: the folder is no checkpoint, or not of this model; the model is as it was,
            except for adapters.
        CorruptFile: a file is missing or damaged, as when it was removed meanwhile.
    """
    from tastemaker.models.adapters import has_lora
    from tastemaker.training.method import AnyMethod, trained_parts

    match = _STEP.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        raise InputError(folder, "no checkpoint", "a folder step-NUMBER of a fit", "Name one.")
    base = read_fit_base(folder)
    try:
        found, tensors, averaged = _read(folder, int(match[1]), average=average)
    except FileNotFoundError as error:
        raise CorruptFile(f"{folder}: removed while it was read") from error
    if not tensors:
        raise CorruptFile(f"{folder}: it has no weights")
    if base.method["kind"] == "lora" and not has_lora(family):
        trained_parts(family, TypeAdapter(AnyMethod).validate_python(base.method), base.seed)
        family.trainable(())
    _copy(tensors, family, folder)
    return CheckpointWeights(found.step, found.state["images"], averaged)


def _read(
    folder: Path, step: int, *, average: bool
) -> tuple[Checkpoint, Mapping[str, Tensor], bool]:
    """The checkpoint, its weights, and whether they are averages; reads no more than it needs."""
    store = CheckpointStore(folder.parent)
    if average and (averages := (found := store.load(step, (_AVERAGE,))).tensors.get(_AVERAGE)):
        # What is no parameter, such as the statistics of a normalisation, has no average.
        if tensor_names(folder, _WEIGHTS) <= averages.keys():
            return found, averages, True
        found = store.load(step, (_WEIGHTS,))
        return found, {**found.tensors[_WEIGHTS], **averages}, True
    found = store.load(step, (_WEIGHTS, _AVERAGE))
    weights = found.tensors.get(_WEIGHTS) or found.tensors.get(_AVERAGE, {})
    return found, weights, _WEIGHTS not in found.tensors


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], family: "Family", folder: Path) -> None:
    """All of them or none; a number format other than the model's is changed into it."""
    own: dict[str, Any] = {}
    for part, module in family.parts.items():
        own |= {f"{part}.{name}": t for name, t in module.named_parameters()}
        own |= {f"{part}.{name}": t for name, t in module.named_buffers()}
    odd = [n for n, t in tensors.items() if n not in own or own[n].shape != t.shape]
    if odd:
        raise InputError(
            folder,
            f"{len(odd)} of {len(tensors)} tensors that do not fit, first {odd[0]}",
            "a checkpoint of this model",
            "Name the base model that the run was trained from.",
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
