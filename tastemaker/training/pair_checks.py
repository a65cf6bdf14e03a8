"""What a run on pairs must not be asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from tastemaker.diffusion.pair_timesteps import TimestepDraws
from tastemaker.errors import InputError
from tastemaker.models.family import Family

if TYPE_CHECKING:
    from tastemaker.training.reference import Reference


def refuse_text(family: Family, parts: Mapping[str, nn.Module]) -> None:
    """The denoiser alone may be trained on pairs.

    Raises:
        InputError: other parts are.
    """
    if list(parts) != [family.denoiser]:
        raise InputError(
            "method.parts",
            ", ".join(parts),
            f"{family.denoiser} alone",
            "Leave out the text encoders: policy and reference must hear the same text.",
        )


def refuse_silent_choice(timesteps: TimestepDraws, most: int) -> None:
    """Look at all timesteps that may be drawn, before the first step.

    Args:
        timesteps: how they are drawn.
        most: the highest one with a signal.

    Raises:
        InputError: one has none.
    """
    silent = [t for t in timesteps.among if t > most]
    if silent:
        raise InputError(
            "objective.timesteps",
            f"up to {silent[-1]}",
            f"up to {most}: above it the input is pure noise, the same for both sides of a pair, "
            "so that margin and gradient are exactly 0",
            "Leave these timesteps out; `diffusion.pair_timesteps.informative` does it.",
        )


def refuse_unshared(reference: "Reference", parallel: str, world: int) -> None:
    """Look whether the reference can be computed where the policy's weights are spread.

    Raises:
        InputError: it is made of the policy's own weights, of which each process has rows alone.
    """
    if parallel == "ddp" or world == 1 or reference.separate:
        return
    raise InputError(
        "parallel",
        f"{parallel} in {world} processes with a reference inside the trained network",
        "ddp, or a reference of its own",
        "Choose parallel: ddp, or objective.reference {kind: frozen, how: copy}, or {kind: table}.",
    )
