"""The one protocol that every architecture answers, and the table of architectures.

Axes: B batch, c h w latent.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Real, Shaped
from torch import Tensor, nn

from tastemaker.errors import InputError
from tastemaker.models.checkpoints import family_name
from tastemaker.models.conditioning import Conditioning, TextStates
from tastemaker.models.locate import locate
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.records.size import ImageSizes, Size

if TYPE_CHECKING:
    from tastemaker.diffusion.schedule import DiscreteSchedule, PredictionType
    from tastemaker.models.sdxl import SDXLFamily
    from tastemaker.models.text import TokenReport

__all__ = [
    "DTYPES",
    "FAMILIES",
    "Conditioning",
    "Family",
    "Precision",
    "TextStates",
    "build_family",
    "build_sdxl",
    "family_class",
    "load_family",
]


class Family(Protocol):
    """One architecture: text, latents and denoiser, over real diffusers modules.

    Pixels are uint8 or floats in [0, 1]; latents are scaled as the denoiser sees them, in fp32.
    """

    name: str
    denoiser: str
    """Name of the part that denoises: `unet` or `transformer`."""
    precision: Precision
    scheduler: Any
    """The model's diffusers scheduler, for its config."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by name, for example `unet`, `text_encoder_1`, `text_encoder_2`, `vae`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        ...

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels."""
        ...

    @property
    def own_size(self) -> Size:
        """The size of picture that the denoiser's config names."""
        ...

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Named groups of layers for LoRA; `attention` and `attention+ff` always exist."""
        ...

    def windows(self, prompts: Sequence[str]) -> int:
        """Text windows that the longest prompt needs."""
        ...

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, start and end not counted."""
        ...

    def token_reports(self, prompts: Sequence[str]) -> "list[TokenReport]":
        """Tokens, windows and lost tokens of each prompt."""
        ...

    def encode_text(self, prompts: Sequence[str], windows: int | None = None) -> TextStates:
        """Text states; with `windows` given, a prompt's do not depend on its neighbours."""
        ...

    def conditioning(
        self, text: TextStates, sizes: Sequence[ImageSizes], *, negative: bool = False
    ) -> Conditioning:
        """Text states joined with the sizes of the pictures they belong to.

        With `negative`, what guidance moves away from (the refiner is told a low score then).
        """
        ...

    def encode_image(
        self, pixels: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
        """Mean and log-variance of the latents."""
        ...

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in [0, 1]."""
        ...

    def denoise(
        self, x_t: Float[Tensor, "B c h w"], t: Real[Tensor, " B"], cond: Conditioning
    ) -> Float[Tensor, "B c h w"]:
        """The denoiser's raw prediction (noise, v or x0, as `schedule` says), in fp32.

        As many channels as a latent has: a variance that the network predicts too is left out.
        Training uses whole timesteps; samplers may ask between them.
        """
        ...

    def schedule(self) -> "DiscreteSchedule":
        """The noise schedule that the denoiser was trained with."""
        ...

    def set_schedule(
        self, *, prediction: "PredictionType | None" = None, zero_terminal: bool | None = None
    ) -> None:
        """Change what the model is taken to predict, or rescale to zero terminal SNR."""
        ...

    def trainable(self, parts: Sequence[str]) -> list[nn.Parameter]:
        """Unfreeze these parts and freeze the others; the parameters that now learn."""
        ...

    def to(self, device: torch.device | str) -> "Family":
        """Move every part."""
        ...

    def channels_last(self) -> "Family":
        """Store convolution weights channels last: faster on CPUs and tensor cores."""
        ...

    def pipeline(self) -> Any:
        """A diffusers pipeline over the same modules."""
        ...

    def save(self, folder: Path, *, precision: Precision | None = None) -> None:
        """Write a diffusers folder."""
        ...


FAMILIES: dict[str, str] = {
    "sd15": "tastemaker.models.sd15:SD15Family",
    "sdxl": "tastemaker.models.sdxl:SDXLFamily",
    "pixart": "tastemaker.models.pixart:PixArtFamily",
}
"""Name -> class, loaded when it is asked for."""


def family_class(name: str) -> Any:
    """The class of one architecture.

    Raises:
        InputError: the architecture is not known.
    """
    if name not in FAMILIES:
        raise InputError(
            "family", name, f"one of {', '.join(FAMILIES)}", "Choose a supported architecture."
        )
    module, cls = FAMILIES[name].split(":")
    return getattr(import_module(module), cls)


def load_family(
    reference: str | Path,
    *,
    precision: Precision = "fp32",
    prediction: "PredictionType | None" = None,
    zero_terminal: bool | None = None,
) -> Family:
    """Load a model: a packaged name, a diffusers folder, a single `.safetensors` file or a hub id.

    Args:
        reference: what the user wrote.
        precision: of the denoiser and the text encoders.
        prediction: what the model predicts, where its config does not tell the truth.
        zero_terminal: whether its schedule ends in an SNR of 0, where the config does not tell.

    Raises:
        MissingModel: it is nowhere to be found.
        InputError: it is not a model of a supported architecture.
    """
    path = locate(str(reference), "model")
    family: Family = family_class(family_name(path)).load(path, precision=precision)
    if prediction is not None or zero_terminal is not None:
        family.set_schedule(prediction=prediction, zero_terminal=zero_terminal)
    return family


def build_family(
    name: str, config: Mapping[str, Any], tokenizers: Path, *, seed: int = 0, **options: Any
) -> Family:
    """A new model with untrained weights; see `build` of the family's class."""
    return family_class(name).build(config, tokenizers, seed=seed, **options)


def build_sdxl(
    config: Mapping[str, Any],
    tokenizers: Path,
    *,
    vae: Any = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> "SDXLFamily":
    """A new SDXL with untrained weights; see `SDXLFamily.build`."""
    return family_class("sdxl").build(config, tokenizers, vae=vae, seed=seed, precision=precision)
