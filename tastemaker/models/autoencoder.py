"""The variational autoencoder (Rombach et al. 2022, section 3.1) as diffusers' AutoencoderKL.

Axes: B batch, C = 3 colours, H and W pixels, c latent channels, h and w latent cells.
Pixels cross every border of `models` as uint8, or as floats in [0, 1]; the network's own range is
[-1, 1].
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tastemaker.errors import InputError
from tastemaker.models.weights import own_memory

Autoencoder = AutoencoderKL
"""The class, for annotations elsewhere: only models and scorers import the model libraries."""


def build_autoencoder(config: Mapping[str, Any], *, seed: int = 0) -> AutoencoderKL:
    """A new autoencoder with weights that depend on `seed` alone.

    Args:
        config: the fields of a diffusers `vae/config.json`.
        seed: chooses the initial weights; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(AutoencoderKL, AutoencoderKL.from_config(dict(config)))


def load_autoencoder(path: Path | str) -> AutoencoderKL:
    """The autoencoder in a diffusers folder: the `vae` folder itself, or a pipeline that holds one.

    Raises:
        InputError: there is no AutoencoderKL in the folder.
    """
    folder = Path(path)
    if (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    if not (folder / "config.json").is_file():
        raise InputError(
            folder,
            "no config.json",
            "a diffusers AutoencoderKL folder",
            "Give the folder of a saved autoencoder.",
        )
    loaded = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    return own_memory(cast(AutoencoderKL, loaded))


def given_or_built(
    vae: AutoencoderKL | Path | None, config: Mapping[str, Any] | None, *, seed: int
) -> AutoencoderKL:
    """The autoencoder of a new model: the one given, that in a folder, or an untrained one."""
    if isinstance(vae, Path):
        return load_autoencoder(vae)
    if vae is not None:
        return vae
    if config is None:
        raise InputError("vae", "none", "an autoencoder, or its config", "Give one of them.")
    return build_autoencoder(config, seed=seed)


def to_unit_range(pixels: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Floats in [0, 1] from uint8, or floats unchanged.

    Raises:
        TypeError: integers of another width, whose range is not known.
    """
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise TypeError(f"pixels must be uint8 or float in [0, 1], got {pixels.dtype}")
    return pixels


def to_network_range(pixels: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """The autoencoder's range [-1, 1] from pixels."""
    return to_unit_range(pixels) * 2 - 1


def to_pixels(output: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Floats in [0, 1] from the decoder's output, clipped."""
    return (output.float() / 2 + 0.5).clamp(0, 1)


def latent_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent cell along one side."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def posterior(
    vae: AutoencoderKL, pixels: Shaped[Tensor, "B C H W"]
) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
    """Mean and log-variance of the latents, scaled as the diffusion model sees them, in fp32.

    With z the raw latent, the model sees s (z - m): s is the scaling factor (over the channel's
    standard deviation if the config has one), m the channel's mean or the shift (0 if unset); so
    the log-variance grows by 2 ln s. Sampling is left to the caller.
    """
    weight = next(vae.parameters())
    inputs = to_network_range(pixels).to(weight.device, weight.dtype)
    distribution = cast(Any, vae.encode(inputs)).latent_dist
    scale, shift = (each.to(weight.device) for each in _scaling(vae))
    mean = (distribution.mean.float() - shift) * scale
    return mean, distribution.logvar.float() + 2 * scale.log()


def decode(vae: AutoencoderKL, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
    """Pixels in [0, 1] of scaled latents."""
    weight = next(vae.parameters())
    scale, shift = (each.to(weight.device) for each in _scaling(vae))
    raw = latents.to(weight.device).float() / scale + shift
    return to_pixels(cast(Any, vae).decode(raw.to(weight.dtype)).sample)


def _scaling(vae: AutoencoderKL) -> tuple[Float[Tensor, "1 k 1 1"], Float[Tensor, "1 k 1 1"]]:
    return scaling_of(vae.config)


def scaling_of(
    config: Mapping[str, Any],
) -> tuple[Float[Tensor, "1 k 1 1"], Float[Tensor, "1 k 1 1"]]:
    """Factor and shift: one number each, or one a channel where the config has statistics.

    Args:
        config: the fields of an autoencoder's `config.json`.
    """
    factor = torch.tensor(float(config["scaling_factor"])).view(1, 1, 1, 1)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return factor / torch.tensor(std).view(1, -1, 1, 1), torch.tensor(mean).view(1, -1, 1, 1)
    return factor, torch.tensor(float(config.get("shift_factor") or 0.0)).view(1, 1, 1, 1)


def weights_hash(vae: nn.Module) -> str:
    """Hash of an autoencoder: weights, and settings such as the scaling factor; 64 hex digits.

    Latents of another autoencoder have another hash; a copy in another place has the same.
    """
    digest = blake2b(digest_size=32)
    # Names with an underscore tell where it was loaded from and by which version.
    config = getattr(vae, "config", {})
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, value in sorted(vae.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


@torch.no_grad()
def set_posterior_logvar(vae: AutoencoderKL, logvar: float) -> None:
    """Start a new autoencoder with nearly this log-variance everywhere.

    At its usual start the noise of the latents drowns what the encoder has to say.
    """
    convolution = _pointwise(vae, "quant_conv")
    channels = convolution.out_channels // 2
    convolution.weight[channels:] *= 0.1
    _bias(convolution)[channels:] = logvar


@torch.no_grad()
def standardise_latents(
    vae: AutoencoderKL, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]
) -> None:
    """Fold per-channel statistics into the weights: latents get mean 0 and deviation 1.

    Decoded pictures stay the same. Diffusers' SDXL pipeline knows one scaling factor for all
    channels, or per-channel statistics of exactly four; with z' = (z - m) / s in the two 1x1
    convolutions around the latent, every tool works with a scaling factor of 1.

    Args:
        vae: changed in place; its scaling factor becomes 1.
        mean: m of each raw latent channel.
        std: s of each raw latent channel.
    """
    into, out_of = _pointwise(vae, "quant_conv"), _pointwise(vae, "post_quant_conv")
    m, s = mean.to(into.weight), std.to(into.weight)
    channels = len(m)
    # Rows of the mean: (W x + b - m) / s. Of the log-variance: - 2 ln s.
    into.weight[:channels] /= s[:, None, None, None]
    bias = _bias(into)
    bias[:channels] = (bias[:channels] - m) / s
    bias[channels:] -= 2 * s.log()
    # The way back: W (s z' + m) + b.
    _bias(out_of).add_((out_of.weight[:, :, 0, 0] * m).sum(dim=1))
    out_of.weight *= s[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0, shift_factor=None)


def _pointwise(vae: AutoencoderKL, name: str) -> nn.Conv2d:
    module = getattr(vae, name)
    if not isinstance(module, nn.Conv2d):
        raise InputError(
            name,
            "none",
            "the 1x1 convolution of a Stable Diffusion autoencoder",
            "Set use_quant_conv.",
        )
    return module


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
