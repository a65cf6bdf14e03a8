"""How a model's latents are scaled, told without reading its weights.

Axes: latents are `[c, h, w]`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import scaling_of
from tastemaker.models.checkpoints import family_name

_SINGLE_FILES = {"sd15": 0.18215, "sdxl": 0.13025}
"""Factors of checkpoints in the original layout, which have no config of the autoencoder."""


@dataclass(frozen=True)
class LatentScale:
    """What a model does to its autoencoder's latents.

    Attributes:
        family: its architecture.
        channels: of its latents.
        cell: pixels for each latent cell, along one side.
        factor: of each channel or of all, `[1, k, 1, 1]`.
        shift: what is taken off before, `[1, k, 1, 1]`.
    """

    family: str
    channels: int
    cell: int
    factor: Tensor
    shift: Tensor

    def __call__(self, latent: Tensor, already: float = 1.0) -> Tensor:
        """A latent `[c, h, w]` as the denoiser sees it, float32.

        Args:
            latent: of the autoencoder.
            already: what it has been multiplied by.
        """
        # In double precision, so that what is scaled already comes out with the same bits.
        raw = latent.double() / already
        return ((raw - self.shift[0].double()) * self.factor[0].double()).float()


def read_latent_scale(model: Path) -> LatentScale:
    """The scale of a diffusers folder or of a single file.

    Raises:
        InputError: it is no model of a supported architecture.
    """
    family = family_name(model)
    if model.is_file():
        return LatentScale(family, 4, 8, *scaling_of({"scaling_factor": _SINGLE_FILES[family]}))
    path = model / "vae" / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        # What diffusers takes where the config does not say it: SD1.5's.
        config = {"scaling_factor": 0.18215, "latent_channels": 4, **config}
        cell = 2 ** (len(config["block_out_channels"]) - 1)
        return LatentScale(family, int(config["latent_channels"]), cell, *scaling_of(config))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, f"nothing readable ({error})", "an autoencoder's config", "Download it again."
        ) from error
