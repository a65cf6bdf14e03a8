"""AdamW over the trained parts of a model, every parameter known by its name."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from tastemaker.errors import InputError
from tastemaker.training.settings import AdamWConfig

_NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip


def trained_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters with `requires_grad`, by `part.name`; one that is tied has its first name only."""
    trained: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                trained[f"{part}.{name}"] = parameter
    return trained


def build_optimizer(modules: Mapping[str, nn.Module], config: AdamWConfig) -> torch.optim.AdamW:
    """AdamW with two groups a part: with weight decay, and without.

    Without are norms, biases, scalars and DoRA's lengths. Each group has `part`, `param_names` and
    `initial_lr`; the loop scales `initial_lr` by the course's factor, and `training.state` saves
    the moments by name. The fused kernel is used where torch has one.

    Raises:
        InputError: `part_lr` names no part, or nothing is trained.
    """
    for part in config.part_lr:
        if part not in modules:
            raise InputError(
                "part_lr",
                f"'{part}'",
                f"one of {', '.join(modules)}",
                "Correct the name, or let that part be trained.",
            )
    trained = trained_parameters(modules)
    if not trained:
        raise InputError(
            "optimizer",
            "no parameter to train",
            "at least one with requires_grad",
            "Check which parts the recipe trains.",
        )
    undecayed = {id(p) for module in modules.values() for p in _undecayed(module)}
    groups = []
    for part in modules:
        names = [name for name in trained if name.partition(".")[0] == part]
        lr = config.part_lr.get(part, config.lr)
        for decays in (True, False):
            chosen = [(n, trained[n]) for n in names if (id(trained[n]) not in undecayed) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                groups.append(
                    {
                        "params": chosen,
                        "lr": lr,
                        "initial_lr": lr,
                        "weight_decay": decay,
                        "part": part,
                    }
                )
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=_fused_works(trained.values()),
    )


def _undecayed(module: nn.Module) -> Iterator[nn.Parameter]:
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            if parameter.ndim < 2 or isinstance(child, _NORMS):
                yield parameter
    # DoRA's lengths are one number a row, but of a convolution they have four axes.
    for name, parameter in module.named_parameters():
        if ".lora_magnitude_vector." in name:
            yield parameter


def _fused_works(parameters: Iterable[nn.Parameter]) -> bool:
    # torch refuses the fused kernel for other devices and for complex or integer parameters.
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
