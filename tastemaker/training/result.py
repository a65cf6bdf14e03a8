"""What a fit leaves: the trained weights as other tools load them."""

from pathlib import Path
from typing import TYPE_CHECKING

from tastemaker.training.method import FullMethod, LoraMethod

if TYPE_CHECKING:
    from tastemaker.models.family import Family


def save_trained(family: "Family", method: FullMethod | LoraMethod, folder: Path) -> str:
    """Write the trained weights into `folder`; the kind of artefact that they are."""
    from tastemaker.models.adapters import save_lora
    from tastemaker.store.atomic import atomic_folder

    kind = "model" if isinstance(method, FullMethod) else "adapter"
    with atomic_folder(folder / kind) as temporary:
        family.save(temporary) if kind == "model" else save_lora(family, temporary)
    return kind
