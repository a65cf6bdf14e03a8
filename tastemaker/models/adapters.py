"""LoRA adapters in a family's denoiser: add, save, load, merge (Hu et al. 2021, arXiv:2106.09685).

A layer W gains W x + (alpha / rank) B A x; B starts at zero, so that a new adapter changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from tastemaker.errors import InputError
from tastemaker.models.quiet import quiet

if TYPE_CHECKING:
    from tastemaker.models.family import Family

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_NAME = "default"


def add_lora(
    family: "Family",
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = "attention",
    seed: int = 0,
) -> list[nn.Parameter]:
    """Put new adapters into the UNet and freeze everything else; the parameters that now learn.

    The adapters are kept in fp32 at every precision of the model: small updates of half-precision
    numbers are lost in rounding.

    Args:
        family: changed in place.
        rank: r of every update.
        alpha: the update is scaled by alpha / rank.
        targets: a group of `family.lora_targets`, or ends of layer names.
        seed: chooses A, by peft's uniform draw; the global generator is left as it was.

    Raises:
        InputError: there are adapters already, or the targets name no layer.
    """
    from peft import LoraConfig

    unet = _unet(family)
    if has_lora(family):
        raise InputError(
            "model", "adapters inside it", "a plain model", "Merge or unload them first."
        )
    layers = _layers(family, targets)
    # peft counts in whole numbers; the scale is what matters, and it takes fractions.
    config = LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules=layers)
    family.trainable(())
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        unet.add_adapter(config, _NAME)
    return trainable_lora(family)


def trainable_lora(family: "Family") -> list[nn.Parameter]:
    """Let the adapters learn, in fp32, and nothing else; their parameters.

    Raises:
        InputError: there are none.
    """
    family.trainable(())
    found = lora_parameters(family)
    if not found:
        raise InputError("model", "no adapters", "a model with adapters", "Add or load them first.")
    for parameter in found.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    _unet(family).train()
    return list(found.values())


def has_lora(family: "Family") -> bool:
    """Whether the UNet has adapters."""
    return bool(lora_parameters(family))


def lora_parameters(family: "Family") -> dict[str, nn.Parameter]:
    """The adapters' parameters by name in the UNet."""
    named = family.parts["unet"].named_parameters()
    return {name: parameter for name, parameter in named if ".lora_" in name}


@dataclass(frozen=True)
class LoraSettings:
    """What describes the adapters of a model.

    Attributes:
        rank: r of every update.
        alpha: the update is scaled by alpha / rank.
        targets: ends of the names of the adapted layers, sorted.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


def lora_settings(family: "Family") -> LoraSettings:
    """Settings of the adapters in a model.

    Raises:
        InputError: there are none.
    """
    if not has_lora(family):
        raise InputError("model", "no adapters", "a model with adapters", "Add or load them first.")
    config = _unet(family).peft_config[_NAME]
    targets = config.target_modules
    # A saved file may name every layer in full; their last parts say it shorter.
    ends = {_end(name) for name in ([targets] if isinstance(targets, str) else targets)}
    return LoraSettings(int(config.r), float(config.lora_alpha), tuple(sorted(ends)))


def _end(name: str) -> str:
    known = ("to_out.0", "ff.net.0.proj", "ff.net.2")
    return next((k for k in known if name.endswith(k)), name.rsplit(".", 1)[-1])


def save_lora(family: "Family", folder: Path) -> Path:
    """Write `pytorch_lora_weights.safetensors` as diffusers and PEFT have it; the file.

    Names are `unet.<layer>.lora_A.weight` and `.lora_B.weight`; rank, alpha and targets are in the
    file's metadata, without which other tools guess alpha = rank.

    Raises:
        InputError: the model has no adapters.
    """
    from peft.utils import get_peft_model_state_dict

    if not has_lora(family):
        raise InputError("model", "no adapters", "a model with adapters", "Add or load them first.")
    unet = _unet(family)
    settings = unet.peft_config[_NAME].to_dict()
    # peft keeps a set, whose order differs from process to process.
    settings["target_modules"] = sorted(settings["target_modules"])
    with quiet():
        pipeline = family.pipeline()
        pipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet, adapter_name=_NAME),
            unet_lora_adapter_metadata=settings,
        )
    return folder / ADAPTER_FILE


def load_lora(family: "Family", path: Path) -> None:
    """Put saved adapters into the UNet: a folder, or one file in PEFT's or kohya's layout.

    Raises:
        InputError: there is no such file, it does not fit the model, or the model has adapters.
    """
    file = path / ADAPTER_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(path, f"no {ADAPTER_FILE}", "a LoRA folder or file", "Check the path.")
    if has_lora(family):
        raise InputError(
            "model", "adapters inside it", "a plain model", "Merge or unload them first."
        )
    try:
        with quiet():
            family.pipeline().load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=_NAME, local_files_only=True
            )
    except (RuntimeError, ValueError, LookupError) as error:
        raise _misfit(file, str(error).strip().splitlines()[0]) from error
    if not has_lora(family):
        raise _misfit(file, "no layer of this model's UNet")
    family.trainable(())


def merge_lora(family: "Family") -> None:
    """Add every update to its weight and take the adapters out; the model is plain again."""
    unet = _unet(family)
    with quiet():
        unet.fuse_lora(adapter_names=[_NAME])
        unet.unload_lora()
    family.trainable(())


def unload_lora(family: "Family") -> None:
    """Take the adapters out; the model is what it was before them, bit for bit."""
    with quiet():
        _unet(family).unload_lora()
    family.trainable(())


def _unet(family: "Family") -> Any:
    return family.parts["unet"]


def _layers(family: "Family", targets: str | Sequence[str]) -> list[str]:
    groups = family.lora_targets
    if isinstance(targets, str) and targets not in groups:
        known = ", ".join(groups)
        raise InputError("targets", f"'{targets}'", f"one of {known}", "Name a group of layers.")
    layers = list(groups[targets] if isinstance(targets, str) else targets)
    names = [name for name, _ in family.parts["unet"].named_modules()]
    for layer in layers:
        if not any(name == layer or name.endswith(f".{layer}") for name in names):
            raise InputError(
                "targets", f"'{layer}'", "the end of a layer's name in the UNet", "Mend the list."
            )
    return layers


def _misfit(file: Path, got: str) -> InputError:
    return InputError(
        file, got, "LoRA weights of this architecture", "Use the model that they were trained on."
    )
