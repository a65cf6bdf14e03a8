"""What a run on pairs starts from: a model, perhaps with adapters, and another to compare with."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tastemaker.errors import InputError
from tastemaker.models.parts import part_names
from tastemaker.training.method import FullMethod, LoraMethod, trained_parts

if TYPE_CHECKING:
    from torch import nn

    from tastemaker.models.family import Family


def start_parts(
    family: "Family", method: FullMethod | LoraMethod, seed: int, adapter: Path | None = None
) -> "dict[str, nn.Module]":
    """Make a model trainable, from saved adapters on where there are any.

    Adapters are gone on with where adapters are trained, and merged where whole networks are.

    Raises:
        InputError: they do not fit the model, are of other parts than the trained ones, or differ
            from those of the method.
    """
    from tastemaker.models.adapters import (
        load_lora,
        lora_parameters,
        lora_settings,
        merge_lora,
        unload_lora,
    )

    if adapter is None:
        return trained_parts(family, method, seed)
    load_lora(family, adapter)
    stored, told = lora_parameters(family), lora_settings(family)
    names = part_names(family, method.parts)
    if others := sorted(set(told.parts) - set(names)):
        raise InputError(
            adapter,
            f"adapters of {', '.join(others)}",
            f"adapters of {', '.join(names)} alone",
            "Merge them into the model with the export step, and start from that.",
        )
    if isinstance(method, FullMethod):
        merge_lora(family)
        return trained_parts(family, method, seed)
    unload_lora(family)
    parts = trained_parts(family, method, seed)
    own, wanted = lora_parameters(family), lora_settings(family)
    kinds = {"scale": (told.scale, wanted.scale), "dora": (told.dora, wanted.dora)}
    odd = [f"{name} {a}, not {b}" for name, (a, b) in kinds.items() if a != b]
    shapes = {n: p.shape for n, p in stored.items()}
    if odd or shapes != {n: p.shape for n, p in own.items()}:
        same = f"; {odd[0]}" if odd else ""
        raise InputError(
            adapter,
            f"{len(stored)} tensors of rank {told.rank}, targets {', '.join(told.targets)}{same}",
            f"{len(own)} tensors of rank {wanted.rank}, targets {', '.join(wanted.targets)}",
            "Give the method the rank, alpha and targets that the adapters were trained with.",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
    return parts


def other_denoiser(place: str, family: "Family") -> "nn.Module":
    """The denoiser of another model, which the family's inputs can be given to.

    Raises:
        InputError: it is of another architecture, or predicts something else.
    """
    from tastemaker.models.family import load_family

    other = load_family(place)
    ours, theirs = (
        {
            name.replace(".base_layer.", "."): tuple(p.shape)
            for name, p in one.parts[one.denoiser].named_parameters()
            if ".lora_" not in name
        }
        for one in (family, other)
    )
    kinds = [one.schedule().prediction_type for one in (family, other)]
    if ours != theirs or kinds[0] != kinds[1]:
        raise InputError(
            place,
            f"{other.name}, {len(theirs)} weights, which predicts {kinds[1]}",
            f"{family.name} with the same {len(ours)} weights, which predicts {kinds[0]}",
            "Compare with a model of the same architecture.",
        )
    return other.parts[other.denoiser]
