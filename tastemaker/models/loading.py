"""Read a family's networks and tokenizers from a diffusers folder or a single file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError
from transformers import CLIPTokenizer

from tastemaker.errors import InputError, MissingModel
from tastemaker.models.checkpoints import SingleFile, config_folder
from tastemaker.models.locate import locate
from tastemaker.models.networks import Networks
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.models.quiet import quiet
from tastemaker.models.tokenizer import load_tokenizer
from tastemaker.models.weights import own_memory

CONFIGS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-refiner": "stabilityai/stable-diffusion-xl-refiner-1.0",
}
"""Kind of single file -> the hub id of its configuration and tokenizers, which it does not hold."""


def load_part(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One network from its folder, in memory of its own."""
    return own_memory(kind.from_pretrained(folder, local_files_only=True, dtype=dtype))


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder, always in fp32."""
    return load_part(AutoencoderKL, folder, torch.float32)


@contextmanager
def whole_folder(path: Path, needed: str) -> Iterator[None]:
    """Turn what the libraries say of a missing or broken part into our error.

    Args:
        path: the model's folder.
        needed: the names of its parts, for people.

    Raises:
        MissingModel: a part is missing or unreadable.
    """
    try:
        with quiet():
            yield
    except (OSError, SafetensorError) as error:
        raise MissingModel(
            path,
            str(error).strip().splitlines()[0],
            needed,
            "Download or copy the whole folder again.",
        ) from error


def load_single_file(pipeline: Any, file: SingleFile, precision: Precision) -> Any:
    """A diffusers pipeline from a checkpoint in the original layout, the autoencoder in fp32.

    Sizes of the networks and the tokenizers are not in such a file. They come from a folder beside
    it that has the file's name without its suffix (a diffusers folder; weights in it are not
    read), or else from the hub or its cache.

    Args:
        pipeline: the pipeline's class.
        file: what `inspect_single_file` found.
        precision: of everything but the autoencoder.

    Raises:
        MissingModel: the configuration is nowhere to be found.
        InputError: the weights do not fit the configuration.
    """
    folder = _configuration(file)
    # diffusers makes tokenizers of components by class alone, so those of the folder are read here.
    config: dict[str, Any] = {"config": str(folder), "local_files_only": True}
    try:
        with quiet():
            # By itself, because a pipeline would be read in one precision throughout.
            vae = AutoencoderKL.from_single_file(
                str(file.path), subfolder="vae", dtype=torch.float32, **config
            )
            whole = pipeline.from_single_file(
                str(file.path), vae=vae, dtype=DTYPES[precision], **_tokenizers(folder), **config
            )
    except OSError as error:
        raise _no_configuration(file, str(error).strip().splitlines()[0]) from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            file.path,
            f"weights that do not fit ({str(error).strip().splitlines()[0]})",
            f"a whole checkpoint with the shapes that {folder} names",
            "Download it again, or put its own configuration beside it.",
        ) from error
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (part := getattr(whole, name, None)) is not None:
            own_memory(part)
    return whole


def _configuration(file: SingleFile) -> Path:
    """The folder with the configuration of a single file: beside it, or from the hub."""
    beside = config_folder(file.path)
    if beside.is_dir():
        return beside
    try:
        return locate(CONFIGS[file.kind], "configuration")
    except MissingModel as error:
        raise _no_configuration(
            file, "none beside it, in the local hub cache or the hub"
        ) from error


def _no_configuration(file: SingleFile, got: str) -> MissingModel:
    hub_id = CONFIGS[file.kind]
    return MissingModel(
        file.path,
        f"a checkpoint without its configuration and tokenizers ({got})",
        f"those of {hub_id}",
        f"Run `hf download {hub_id} --include '*.json' '*.txt'` once; without a hub, copy those "
        f"files from another machine into {config_folder(file.path)}, or use a diffusers folder.",
    )


def apply_marks(family: Networks, file: SingleFile) -> None:
    """Follow the marker tensors of a file: its configuration cannot know of them."""
    if file.v_prediction or file.zero_terminal:
        family.set_schedule(
            prediction="v_prediction" if file.v_prediction else None,
            zero_terminal=True if file.zero_terminal else None,
        )


def _tokenizers(folder: Path) -> dict[str, CLIPTokenizer]:
    names = ("tokenizer", "tokenizer_2")
    return {name: load_tokenizer(folder / name) for name in names if (folder / name).is_dir()}
