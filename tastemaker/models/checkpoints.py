"""Which architecture is at a path: a diffusers folder, or a single file told by its tensors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError

PIPELINES = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionImg2ImgPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "PixArtAlphaPipeline": "pixart",
}
"""Pipeline class in `model_index.json` -> family."""

_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"

_KINDS = (
    # SDXL's second text encoder is the first of the refiner.
    ("conditioner.embedders.1.model.", "sdxl"),
    ("conditioner.embedders.0.model.", "sdxl-refiner"),
    ("cond_stage_model.transformer.", "sd15"),
)
"""Prefix of a tensor's name -> kind of file, the first that is found."""


@dataclass(frozen=True)
class SingleFile:
    """What the tensor names of a checkpoint tell.

    Attributes:
        path: the file.
        kind: `sd15`, `sdxl` or `sdxl-refiner`.
        v_prediction: it is marked as predicting v (a tensor named `v_pred`).
        zero_terminal: it is marked as trained with zero terminal SNR (`ztsnr`).
    """

    path: Path
    kind: str
    v_prediction: bool = False
    zero_terminal: bool = False

    @property
    def family(self) -> str:
        """The architecture."""
        return self.kind.split("-")[0]


def family_name(path: Path) -> str:
    """The architecture of the model at a path.

    Raises:
        InputError: it is none that is supported.
    """
    if path.is_file():
        return inspect_single_file(path).family
    index = read_index(path)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise InputError(
            path / "model_index.json",
            f"pipeline {pipeline}",
            f"one of {known}",
            "Choose a model of a supported architecture.",
        )
    return PIPELINES[pipeline]


def read_index(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a diffusers folder.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise InputError(
            folder,
            "no model_index.json",
            "a diffusers folder",
            "Give the top folder of a saved diffusers pipeline.",
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            path, f"no JSON ({error})", "a JSON object", "Download it again."
        ) from error
    if not isinstance(index, dict):
        raise InputError(path, type(index).__name__, "a JSON object", "Download it again.")
    return index


def inspect_single_file(path: Path) -> SingleFile:
    """Look at the names and shapes in a checkpoint; no weights are read.

    Raises:
        InputError: it is unreadable, or of no supported architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            # A whole UNet takes 4 channels; those for inpainting and editing take more.
            channels = file.get_slice(_UNET_INPUT).get_shape()[1] if _UNET_INPUT in names else None
    except SafetensorError as error:
        raise InputError(
            path, f"an unreadable file ({error})", "a safetensors checkpoint", "Download it again."
        ) from error
    kind = next((kind for prefix, kind in _KINDS if any(n.startswith(prefix) for n in names)), None)
    if kind is None or channels != 4 or "edm_mean" in names:
        raise _unsupported(path, names, channels)
    return SingleFile(path, kind, "v_pred" in names, "ztsnr" in names)


def config_folder(path: Path) -> Path:
    """Where the configuration of a single file may lie: beside it, named without its suffix."""
    return path.with_suffix("")


def _unsupported(path: Path, names: set[str], channels: int | None) -> InputError:
    bare = {name.removeprefix("model.").removeprefix("diffusion_model.") for name in names}
    if any(name.startswith(("adaln_single.", "t_block.", "y_embedder.")) for name in bare):
        got = "a bare PixArt transformer, without text encoder, autoencoder and tokenizer"
        todo = "Use the diffusers folder, for example PixArt-alpha/PixArt-XL-2-512x512."
    elif "edm_mean" in names:
        got, todo = "a model of continuous noise levels (EDM)", "Choose another model."
    elif channels not in (None, 4):
        got = f"a UNet of {channels} input channels, for inpainting or editing"
        todo = "Choose the text-to-image model."
    elif channels is None:
        got, todo = "no UNet among its tensors", "Choose a whole model, not one part or an adapter."
    else:
        got, todo = "no text encoder of SD1.5 or SDXL among its tensors", "Choose a whole model."
    return InputError(path, got, "a whole SD1.5 or SDXL checkpoint in the original layout", todo)
