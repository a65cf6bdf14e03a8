"""From text to pictures: a sampler's loop over a family, with noise that the caller drew.

Axes: B pictures, c h w latent, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tastemaker.errors import InputError, TastemakerError
from tastemaker.records.size import Size

if TYPE_CHECKING:
    from tastemaker.models.family import Family, TextStates

SamplerName = Literal["ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler"]

_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Song et al. 2021, arXiv:2010.02502, eta = 0.
    "ddim": ("DDIMScheduler", {}),
    # Lu et al. 2022, arXiv:2211.01095, second order, multistep.
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    # Karras et al. 2022, arXiv:2206.00364, algorithm 2 without noise and correction.
    "euler": ("EulerDiscreteScheduler", {}),
}
"""All of them deterministic: the initial noise decides the picture."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn.

    Attributes:
        sampler: name in the table.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 turns it off (Ho and Salimans 2022).
        size: of the pictures.
        original: the size before resizing that SDXL is told; the pictures' own when None.
    """

    sampler: SamplerName
    steps: int
    guidance: float
    size: Size
    original: Size | None = None


def make_sampler(name: str, config: Any) -> Any:
    """A diffusers scheduler of this name over a model's scheduler config.

    Raises:
        InputError: the name is not in the table.
    """
    import diffusers

    if name not in _SAMPLERS:
        known = ", ".join(get_args(SamplerName))
        raise InputError("sampler", name, f"one of {known}", "Choose one of these.")
    kind, options = _SAMPLERS[name]
    # Latents have no bounds: clipping them, the default of some schedulers, is for pixels.
    fixed = {"clip_sample": False, "thresholding": False, **options}
    return getattr(diffusers, kind).from_config({**dict(config), **fixed})


def latent_shape(family: "Family", size: Size) -> tuple[int, int, int]:
    """(c, h, w) of the latents of a picture.

    Raises:
        InputError: the size is no multiple of what the networks halve it by.
    """
    factor = family.latent_factor
    unet: Any = family.parts["unet"]
    least = factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    if size.h % least or size.w % least:
        raise InputError("size", size, f"multiples of {least} pixels", "Round the size.")
    return family.latent_channels, size.h // factor, size.w // factor


@torch.no_grad()
def sample_latents(
    family: "Family",
    text: "TextStates",
    negative: "TextStates",
    noise: Float[Tensor, "B c h w"],
    sampling: Sampling,
) -> Float[Tensor, "B c h w"]:
    """Denoise unit noise into latents, in fp32.

    Args:
        family: the model, in evaluation mode.
        text: states of B prompts.
        negative: states of B negative prompts with as many text positions.
        noise: N(0, 1); the sampler scales it.
        sampling: the settings.

    Raises:
        TastemakerError: the result is not finite.
    """
    pipeline = family.pipeline()
    # A scheduler carries the state of one run, so every run gets its own.
    pipeline.scheduler = make_sampler(sampling.sampler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    original = tuple(sampling.original or sampling.size)
    device, dtype = family.device, text.context.dtype
    latents = pipeline(
        prompt_embeds=text.context.to(device),
        pooled_prompt_embeds=text.pooled.to(device),
        negative_prompt_embeds=negative.context.to(device),
        negative_pooled_prompt_embeds=negative.pooled.to(device),
        latents=noise.to(device=device, dtype=dtype),
        height=sampling.size.h,
        width=sampling.size.w,
        original_size=original,
        target_size=tuple(sampling.size),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        output_type="latent",
    ).images
    if not bool(torch.isfinite(latents).all()):
        raise TastemakerError(
            f"{sampling.sampler} with {sampling.steps} steps gave values that are not numbers. "
            "Use precision fp32 or bf16, or another sampler."
        )
    return latents.float()


@torch.no_grad()
def sample_pictures(
    family: "Family", prompts: Sequence[str], negative: str, noise: Tensor, sampling: Sampling
) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] on the CPU, one a prompt.

    The longest text decides the number of windows, so prompts that need the same number belong in
    one call; otherwise a picture depends on its neighbours.
    """
    windows = family.windows([*prompts, negative])
    text = family.encode_text(prompts, windows)
    empty = family.encode_text([negative], windows)[[0] * len(prompts)]
    return family.decode(sample_latents(family, text, empty, noise, sampling)).cpu()
