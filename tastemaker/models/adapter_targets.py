"""Which layers get adapters: looked at before anything in a model is changed."""

from collections.abc import Mapping, Sequence

from torch import nn

from tastemaker.errors import InputError

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention layers of a CLIP text encoder."""

_LONGER_ENDS = ("to_out.0", "ff.net.0.proj", "ff.net.2")


def short_name(layer: str) -> str:
    """The end of a layer's name that says what it is."""
    return next((k for k in _LONGER_ENDS if layer.endswith(k)), layer.rsplit(".", 1)[-1])


def ends_of_group(part: nn.Module, group: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The ends of layer names in a named group that this network has.

    A group may hold names that one variant of the architecture lacks.

    Raises:
        InputError: there is no such group, or nothing of it in the network.
    """
    if group not in groups:
        known = ", ".join(groups)
        raise InputError("targets", f"'{group}'", f"one of {known}", "Name a group of layers.")
    found = [end for end in groups[group] if _fitting(part, end)]
    if not found:
        raise _no_layer(", ".join(groups[group]), type(part).__name__)
    return found


def ends_in(part: nn.Module, part_name: str, ends: Sequence[str]) -> list[str]:
    """The same ends of layer names, when each fits a layer.

    Raises:
        InputError: one fits none, or there are none.
    """
    if not ends:
        raise InputError("targets", "an empty list", "ends of layer names", "Name some layers.")
    for end in ends:
        if not _fitting(part, end):
            raise _no_layer(f"'{end}'", part_name)
    return list(ends)


def refuse_unfit(part: nn.Module, part_name: str, ends: Sequence[str], rank: int) -> None:
    """Refuse layers that can have no adapter of this rank.

    Raises:
        InputError: a layer is neither linear nor a convolution, or its own rank is lower.
    """
    for end in ends:
        for name, layer in _fitting(part, end).items():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                raise InputError(
                    "targets",
                    f"{part_name}.{name}, a {type(layer).__name__}",
                    "linear and convolution layers",
                    "Leave it out, or name the layers inside it.",
                )
            most = min(layer.weight.shape[0], layer.weight[0].numel())
            if rank > most:
                raise InputError(
                    "rank",
                    rank,
                    f"at most {most}, the rank of {part_name}.{name} itself",
                    "Lower the rank, or leave this layer out of the targets.",
                )


def _fitting(part: nn.Module, end: str) -> dict[str, nn.Module]:
    """Layers whose name is `end` or ends with it behind a dot, as PEFT chooses them."""
    return {
        name: layer
        for name, layer in part.named_modules()
        if name == end or name.endswith(f".{end}")
    }


def _no_layer(got: str, part: str) -> InputError:
    return InputError("targets", got, f"the end of a layer's name in {part}", "Mend the list.")
