"""Everything a run needs to go on as if it had never stopped, as plain tensors and JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.errors import CorruptFile, Diverged
from tastemaker.training.average import Average
from tastemaker.training.loop import Progress
from tastemaker.training.optimizer import trained_parameters

_WEIGHTS, _OPTIMIZER, _AVERAGE, _RANDOM = "weights", "optimizer", "average", "random"


@dataclass(frozen=True)
class Snapshot:
    """What `store.checkpoints.CheckpointStore.save` takes.

    Attributes:
        tensors: group -> name -> tensor; not copies, so save them before the next step.
        state: JSON values: images, steps, updates of the average, the objective's own small state.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def capture(
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    progress: Progress,
    objective: Mapping[str, Any] | None = None,
) -> Snapshot:
    """The state after a step: trained weights, buffers, moments, average, counts, generators.

    Frozen weights are not in it; they come from the base model. torch's generators are in it for
    the sake of dropout layers only: noise, timesteps and the rest come from counter-based draws
    without state.

    Args:
        modules: part -> module, as given to `build_optimizer`.
        optimizer: made by `build_optimizer`, which names the parameters.
        average: of the same modules, or None.
        progress: `Step.progress` of the last step.
        objective: small state of the objective, JSON values.

    Raises:
        Diverged: a weight is not finite; such a state must never replace a good checkpoint.
    """
    weights = _weights(modules)
    _refuse_non_finite(weights, progress)
    tensors = {
        _WEIGHTS: weights,
        _OPTIMIZER: {
            f"{name}/{key}": value
            for name, parameter in _named(optimizer).items()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
        _RANDOM: {"cpu": torch.get_rng_state()},
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors[_RANDOM]["cuda"] = torch.cuda.get_rng_state()
    state = {
        "images": progress.images,
        "steps": progress.steps,
        "objective": dict(objective or {}),
        "average_updates": None if average is None else average.updates,
    }
    if average is not None:
        tensors[_AVERAGE] = dict(average.tensors)
    return Snapshot(tensors, state)


def restore(
    snapshot: Snapshot,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: Average | None,
) -> tuple[Progress, dict[str, Any]]:
    """Put a captured state into new objects, by name; `optimizer` keeps its own rates and decay.

    Also sets torch's global random generators, which dropout layers use.

    Returns:
        Where to go on, and the objective's state.

    Raises:
        CorruptFile: the checkpoint is of other parts, shapes or settings than the objects.
    """
    weights = _weights(modules)
    stored = snapshot.tensors
    _same_names(weights, stored[_WEIGHTS], "weights")
    _copy(stored[_WEIGHTS], weights)
    if average is not None:
        if _AVERAGE not in stored:
            raise CorruptFile(
                "checkpoint: it has no average of the weights, but the recipe asks for one"
            )
        _same_names(average.tensors, stored[_AVERAGE], "average")
        _copy(stored[_AVERAGE], average.tensors)
        average.updates = snapshot.state["average_updates"]
    _restore_optimizer(optimizer, stored[_OPTIMIZER])
    torch.set_rng_state(stored[_RANDOM]["cpu"])
    if "cuda" in stored[_RANDOM] and torch.cuda.is_available():
        torch.cuda.set_rng_state(stored[_RANDOM]["cuda"])
    progress = Progress(snapshot.state["images"], snapshot.state["steps"])
    return progress, dict(snapshot.state["objective"])


def _weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Trained parameters, and the buffers that the module itself would save."""
    weights: dict[str, Tensor] = {n: p.detach() for n, p in trained_parameters(modules).items()}
    for part, module in modules.items():
        saved = module.state_dict(keep_vars=True)
        weights |= {f"{part}.{n}": b for n, b in module.named_buffers() if n in saved}
    return weights


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    named = _named(optimizer)
    # A weight that never had a gradient (the last layer of a text encoder whose last but one state
    # is used) has no moments, so fewer names are fine and unknown ones are not.
    stored_names = {key.rpartition("/")[0] for key in stored}
    _same_names(named.keys() & stored_names, stored_names, "optimizer")
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(named.items()):
        for key in (key for key in stored if key.rpartition("/")[0] == name):
            value = stored[key]
            if value.shape == parameter.shape:
                # In the parameter's own memory order, which may be channels last.
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(index, {})[key.rpartition("/")[2]] = value
    # torch itself knows which of these (such as `step`) must lie on the parameter's device.
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        if tensor.shape != source[name].shape or tensor.dtype != source[name].dtype:
            raise CorruptFile(
                f"checkpoint: {name} is {source[name].dtype} {tuple(source[name].shape)}, "
                f"but the model has {tensor.dtype} {tuple(tensor.shape)}"
            )
        tensor.copy_(source[name])


def _same_names(ours: Iterable[str], stored: Iterable[str], what: str) -> None:
    missing, unknown = set(ours) - set(stored), set(stored) - set(ours)
    if missing or unknown:
        raise CorruptFile(
            f"checkpoint, {what}: made by another model or recipe; "
            f"{len(missing)} missing ({', '.join(sorted(missing)[:3])}), "
            f"{len(unknown)} unknown ({', '.join(sorted(unknown)[:3])})"
        )


def _refuse_non_finite(weights: Mapping[str, Tensor], progress: Progress) -> None:
    floating = {n: w for n, w in weights.items() if w.is_floating_point()}
    finite = torch.stack([torch.isfinite(w).all() for w in floating.values()]).tolist()
    spoilt = [name for name, good in zip(floating, finite, strict=True) if not good]
    if spoilt:
        raise Diverged(
            f"step {progress.steps}: {len(spoilt)} weights are not finite "
            f"({', '.join(spoilt[:3])}). The last checkpoint is kept; "
            "go on from it with a lower learning rate."
        )
