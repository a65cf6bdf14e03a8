"""Names of a family's parts, as a recipe gives them: `denoiser` fits every architecture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tastemaker.errors import InputError

if TYPE_CHECKING:
    from tastemaker.models.family import Family

DENOISER = "denoiser"
"""What a recipe may call the denoiser whatever its own name (`unet`, `transformer`)."""


def part_names(family: "Family", parts: Sequence[str]) -> tuple[str, ...]:
    """The parts' own names, in the family's order.

    The autoencoder is not among those that can be named: a diffusion loss does not reach it.

    Args:
        family: whose parts.
        parts: `denoiser`, its own name, or text encoders.

    Raises:
        InputError: a name is not one of them, or stands twice.
    """
    denoiser = family.denoiser
    known = [name for name in family.parts if name == denoiser or name.startswith("text_encoder")]
    found = [denoiser if name == DENOISER else name for name in parts]
    for given, name in zip(parts, found, strict=True):
        if name not in known:
            raise InputError(
                "parts",
                f"'{given}'",
                f"one of {', '.join(dict.fromkeys((DENOISER, *known)))}",
                "Name parts of this model that a diffusion loss trains.",
            )
        if found.count(name) > 1:
            raise InputError(
                "parts", f"'{given}' more than once", "each part once", "Name it once."
            )
    return tuple(name for name in known if name in found)
