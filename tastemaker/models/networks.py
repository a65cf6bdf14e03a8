"""What all families share: their networks by name, precision, freezing, pictures to latents.

Axes: B batch, c h w latent, H W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tastemaker.diffusion.schedule import DiscreteSchedule, PredictionType
from tastemaker.errors import InputError
from tastemaker.models import autoencoder
from tastemaker.models.precision import DTYPES, Precision
from tastemaker.models.quiet import quiet
from tastemaker.models.schedulers import scheduler_with
from tastemaker.records.size import Size

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")

UNET_LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+ff": _ATTENTION + _FEED_FORWARD,
    "transformer": (*_ATTENTION, *_FEED_FORWARD, "proj_in", "proj_out"),
}
"""Groups of the transformer layers inside the UNet of SD1.5 and SDXL."""

TRANSFORMER_LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+ff": _ATTENTION + _FEED_FORWARD,
    "transformer": (
        *_ATTENTION,
        *_FEED_FORWARD,
        *("proj_out", "proj", "linear", "linear_1", "linear_2"),
    ),
}
"""Groups of PixArt's layers; the last is the list of PixArt's own LoRA script (its `proj_in` names
no layer of this network)."""


class Networks:
    """Base of the families: a denoiser, text encoders and an autoencoder, over diffusers modules.

    The autoencoder stays in fp32 at every precision: SDXL's overflows in fp16, and mixed
    autoencoder precisions cost the bigASP author a run.
    """

    name: str
    denoiser: str
    precision: Precision
    vae: AutoencoderKL
    scheduler: Any

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by name."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.parts[self.denoiser].parameters()).device

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side: 8 in the published models."""
        return autoencoder.latent_factor(self.vae)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 in the published models."""
        return int(self.vae.config["latent_channels"])

    @property
    def size_multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels."""
        raise NotImplementedError

    @property
    def own_size(self) -> Size:
        """The size of picture that the denoiser's config names."""
        side = self._denoiser_config["sample_size"] or 64
        h, w = (side, side) if isinstance(side, int) else side
        return Size(h * self.latent_factor, w * self.latent_factor)

    def encode_image(
        self, pixels: Shaped[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
        """Mean and log-variance of the latents, scaled as the denoiser sees them."""
        return autoencoder.posterior(self.vae, pixels)

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in [0, 1]."""
        return autoencoder.decode(self.vae, latents)

    def schedule(self) -> DiscreteSchedule:
        """The noise schedule in the model's scheduler config."""
        return DiscreteSchedule.from_config(dict(self.scheduler.config))

    def set_schedule(
        self, *, prediction: PredictionType | None = None, zero_terminal: bool | None = None
    ) -> None:
        """Change what the model is taken to predict, or rescale its schedule to zero terminal SNR.

        For checkpoints whose config does not tell it, and to train towards either. Training,
        sampling and the saved folder follow.

        Args:
            prediction: what the denoiser predicts; None leaves it.
            zero_terminal: whether the last SNR is 0 (Lin et al. 2024, algorithm 1); None leaves it.
        """
        changes: dict[str, Any] = {}
        if prediction is not None:
            changes["prediction_type"] = prediction
        if zero_terminal is not None:
            changes["rescale_betas_zero_snr"] = zero_terminal
        # A scheduler that cannot hold these settings (PNDM) would drop them without a word.
        able = set(changes) <= set(self.scheduler.config)
        kind: Any = type(self.scheduler) if able else DDIMScheduler
        self.scheduler = scheduler_with(kind, self.scheduler.config, changes)

    def trainable(self, parts: Sequence[str]) -> list[nn.Parameter]:
        """Unfreeze these parts and set them to training mode; freeze the others in evaluation mode.

        Raises:
            InputError: a part is not one of `parts`.
        """
        for name in parts:
            if name not in self.parts:
                raise InputError(
                    "trainable",
                    name,
                    f"one of {', '.join(self.parts)}",
                    "Name a part of the model.",
                )
        for name, part in self.parts.items():
            part.requires_grad_(name in parts)
            part.train(name in parts)
        return [p for name in parts for p in self.parts[name].parameters()]

    def to(self, device: torch.device | str) -> Self:
        """Move every part."""
        for part in self.parts.values():
            part.to(device)
        return self

    def channels_last(self) -> Self:
        """Store convolution weights channels last: faster on CPUs and tensor cores."""
        for part in (self.parts[self.denoiser], self.vae):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self

    @property
    def _denoiser_config(self) -> Mapping[str, Any]:
        network: Any = self.parts[self.denoiser]
        return network.config

    def _unet_multiple(self) -> int:
        """A UNet halves the latent between its levels."""
        return self.latent_factor * 2 ** (len(self._denoiser_config["block_out_channels"]) - 1)

    def _settle(self) -> None:
        """Give every part its precision; freeze all."""
        with quiet():
            for name, part in self.parts.items():
                part.to(torch.float32 if name == "vae" else DTYPES[self.precision])
        self.trainable(())
