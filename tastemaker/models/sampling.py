"""From text to pictures: a sampler's loop over a family, with noise that the caller drew.

Axes: B pictures, c h w latent, H W pixels.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Real
from torch import Tensor

from tastemaker.errors import InputError, TastemakerError
from tastemaker.models.conditioning import Conditioning, TextStates
from tastemaker.models.presets import Spacing
from tastemaker.models.schedulers import scheduler_with
from tastemaker.records.samplers import SamplerName
from tastemaker.records.size import ImageSizes, Size

if TYPE_CHECKING:
    from tastemaker.models.family import Family

Generators = Sequence[torch.Generator]
"""One a picture, on the CPU, so that the noise between steps depends on no neighbour."""

_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Song et al. 2021, arXiv:2010.02502, eta = 0.
    "ddim": ("DDIMScheduler", {}),
    # Lu et al. 2022, arXiv:2211.01095, second order, multistep; the third adds noise between steps.
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    # Karras et al. 2022, arXiv:2206.00364, algorithm 2 without noise and correction.
    "euler": ("EulerDiscreteScheduler", {}),
    # The same with the ancestral noise of Ho et al. 2020, arXiv:2006.11239; SDXL-Turbo's own.
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    # Karras et al. 2022, algorithm 1: with correction, two passes a step.
    "heun": ("HeunDiscreteScheduler", {}),
    # Zhao et al. 2023, arXiv:2302.04867.
    "unipc": ("UniPCMultistepScheduler", {}),
    # Luo et al. 2023, arXiv:2310.04378: for models and adapters distilled for it.
    "lcm": ("LCMScheduler", {}),
}


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn.

    Attributes:
        sampler: name in the table.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 and less turn it off (Ho and Salimans 2022).
        size: of the pictures.
        original: the size before resizing that SDXL is told; the pictures' own when None.
        spacing: how the steps lie in the schedule; the model's own when None.
    """

    sampler: SamplerName
    steps: int
    guidance: float
    size: Size
    original: Size | None = None
    spacing: Spacing | None = None


def make_sampler(name: str, config: Any, spacing: Spacing | None = None) -> Any:
    """A diffusers scheduler of this name over a model's scheduler config.

    Raises:
        InputError: the name is not in the table, or this sampler cannot begin where the model's
            schedule does.
    """
    import diffusers

    if name not in _SAMPLERS:
        known = ", ".join(get_args(SamplerName))
        raise InputError("sampler", name, f"one of {known}", "Choose one of these.")
    kind, options = _SAMPLERS[name]
    # Latents have no bounds: clipping them, the default of some schedulers, is for pixels.
    fixed = {"clip_sample": False, "thresholding": False, **options}
    if spacing is not None:
        fixed["timestep_spacing"] = spacing
    chosen = getattr(diffusers, kind)
    zero = "rescale_betas_zero_snr"
    if config.get(zero) and zero not in inspect.signature(chosen.__init__).parameters:
        raise InputError(
            "sampler",
            f"{name} for a model of zero terminal SNR",
            "one that can begin at pure noise, such as ddim or euler",
            "Choose another sampler.",
        )
    return scheduler_with(chosen, config, fixed)


def latent_shape(family: "Family", size: Size) -> tuple[int, int, int]:
    """(c, h, w) of the latents of a picture.

    Raises:
        InputError: the size is no multiple of what the networks halve it by.
    """
    factor, least = family.latent_factor, family.size_multiple
    if size.h % least or size.w % least:
        raise InputError("size", size, f"multiples of {least} pixels", "Round the size.")
    return family.latent_channels, size.h // factor, size.w // factor


@torch.no_grad()
def sample_latents(
    family: "Family",
    text: TextStates,
    negative: TextStates,
    noise: Float[Tensor, "B c h w"],
    sampling: Sampling,
    *,
    start: Float[Tensor, "B c h w"] | None = None,
    strength: float = 1.0,
    generators: Generators | None = None,
) -> Float[Tensor, "B c h w"]:
    """Denoise unit noise into latents, in fp32.

    The latents stay in fp32 between the steps at every precision of the networks. In fp32 the
    result is that of the family's diffusers pipeline bit for bit.

    Args:
        family: the model, in evaluation mode.
        text: states of B prompts.
        negative: states of B negative prompts with as many text positions.
        noise: N(0, 1); the sampler scales it.
        sampling: the settings.
        start: latents to change instead of beginning from noise alone (SDEdit).
        strength: share of the steps that are taken from `start`, in (0, 1] (Meng et al. 2021,
            arXiv:2108.01073); without `start` all are.
        generators: what samplers that add noise between the steps draw it with; each is used up.

    Raises:
        TastemakerError: the result is not finite.
    """
    scheduler, steps, x = begin(family, noise, sampling, start=start, strength=strength)
    x = denoised(family, text, negative, sampling, scheduler, steps, x, generators)
    refuse_not_finite(x, sampling)
    return x


def begin(
    family: "Family",
    noise: Float[Tensor, "B c h w"],
    sampling: Sampling,
    *,
    start: Float[Tensor, "B c h w"] | None = None,
    strength: float = 1.0,
) -> tuple[Any, Real[Tensor, " n"], Float[Tensor, "B c h w"]]:
    """A scheduler that is set up, the timesteps to go through, and what they begin from.

    The arguments are those of `sample_latents`.
    """
    device = family.device
    # A scheduler carries the state of one run, so every run gets its own.
    scheduler = make_sampler(sampling.sampler, family.scheduler.config, sampling.spacing)
    scheduler.set_timesteps(sampling.steps, device=device)
    _keep_ancestral_finite(scheduler)
    steps, first = scheduler.timesteps, 0
    if start is not None:
        first = max(sampling.steps - int(sampling.steps * strength), 0) * scheduler.order
        steps = steps[first:]
        if not len(steps):
            raise ValueError(f"strength {strength} of {sampling.steps} steps leaves none")
    if hasattr(scheduler, "set_begin_index"):  # DDIM has no memory of where it is
        scheduler.set_begin_index(first)
    x = noise.to(device, torch.float32)
    if start is None:
        x = x * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(start.to(device, torch.float32), x, steps[:1])
    return scheduler, steps, x


def _keep_ancestral_finite(scheduler: Any) -> None:
    """Give an ancestral sampler its noise levels in fp64 where fp32 would make them NaN.

    It takes the root of to^2 - to^2 (from^2 - to^2) / from^2, which is to^4 / from^2; rounded in
    fp32 that is below 0 for a step from a far higher noise level, as cosine schedules begin with.
    Elsewhere nothing changes, so that pictures stay those of diffusers.
    """
    if type(scheduler).__name__ != "EulerAncestralDiscreteScheduler":
        return
    before, after = scheduler.sigmas[:-1], scheduler.sigmas[1:]
    up = (after**2 * (before**2 - after**2) / before**2) ** 0.5
    if bool((after**2 - up**2 < 0).any()):
        scheduler.sigmas = scheduler.sigmas.double()


def denoised(
    family: "Family",
    text: TextStates,
    negative: TextStates,
    sampling: Sampling,
    scheduler: Any,
    steps: Real[Tensor, " n"],
    x: Float[Tensor, "B c h w"],
    generators: Generators | None = None,
) -> Float[Tensor, "B c h w"]:
    """Some steps of a scheduler that has been set up, by one model."""
    # Samplers without noise of their own do not take generators.
    takes = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": list(generators)} if generators is not None and takes else {}
    sizes = [ImageSizes(sampling.original or sampling.size, 0, 0, sampling.size)] * len(x)
    cond = family.conditioning(text.to(family.device), sizes)
    guided = sampling.guidance > 1
    if guided:
        away = family.conditioning(negative.to(family.device), sizes, negative=True)
        cond = Conditioning.join([away, cond])
    for t in steps:
        both = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
        prediction = family.denoise(both, t.expand(len(both)), cond)
        if guided:
            without, towards = prediction.chunk(2)
            prediction = without + sampling.guidance * (towards - without)
        x = scheduler.step(prediction, t, x, **options, return_dict=False)[0]
    return x


def refuse_not_finite(x: Tensor, sampling: Sampling) -> None:
    """Check the result of all steps.

    Raises:
        TastemakerError: it is not finite.
    """
    if not bool(torch.isfinite(x).all()):
        raise TastemakerError(
            f"{sampling.sampler} with {sampling.steps} steps gave values that are not numbers. "
            "Use precision fp32 or bf16, or another sampler."
        )


class Drawn(NamedTuple):
    """Finished pictures.

    Attributes:
        latents: fp32 [B, c, h, w] as the sampler ended with them, on the model's device.
        pictures: fp32 [B, 3, H, W] in [0, 1], on the CPU.
    """

    latents: Tensor
    pictures: Tensor


@torch.no_grad()
def draw(
    family: "Family",
    prompts: Sequence[str],
    negative: str,
    noise: Tensor,
    sampling: Sampling,
    *,
    start: Tensor | None = None,
    strength: float = 1.0,
    generators: Generators | None = None,
) -> Drawn:
    """One picture a prompt, with its latents.

    The longest text decides the number of windows, so prompts that need the same number belong in
    one call; otherwise a picture depends on its neighbours. The other arguments are those of
    `sample_latents`.
    """
    text, empty = prompt_states(family, prompts, negative, family.windows([*prompts, negative]))
    options = {"start": start, "strength": strength, "generators": generators}
    latents = sample_latents(family, text, empty, noise, sampling, **options)
    return Drawn(latents, family.decode(latents).cpu())


def sample_pictures(
    family: "Family", prompts: Sequence[str], negative: str, noise: Tensor, sampling: Sampling
) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] on the CPU, one a prompt, as `draw` makes them."""
    generators = [torch.Generator().manual_seed(number) for number in range(len(prompts))]
    return draw(family, prompts, negative, noise, sampling, generators=generators).pictures


def prompt_states(
    family: "Family", prompts: Sequence[str], negative: str, windows: int
) -> tuple[TextStates, TextStates]:
    """States of the prompts, and of the negative prompt as often."""
    text = family.encode_text(prompts, windows)
    return text, family.encode_text([negative], windows)[[0] * len(prompts)]
