"""Two models for one picture: one begins, and a refiner does the last steps in the same latents.

Podell et al. 2023, section 2.5, in the form that diffusers calls an ensemble of expert denoisers.
Axes: B pictures, c h w latent, H W pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Real
from torch import Tensor

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import latent_factor, scaling_of
from tastemaker.models.sampling import (
    Drawn,
    Generators,
    Sampling,
    begin,
    denoised,
    prompt_states,
    refuse_not_finite,
)

if TYPE_CHECKING:
    from tastemaker.models.family import Family


def refuse_unfit(base: "Family", refiner: "Family") -> None:
    """Check that a model can go on where another one stops.

    Raises:
        InputError: they do not share the latents or the noise schedule.
    """
    told = {
        "latents": [_latents(each) for each in (base, refiner)],
        "noise schedule": [
            [f"{value:.6g}" for value in each.schedule().alpha_bar[::100].tolist()]
            for each in (base, refiner)
        ],
    }
    for name, (expected, got) in told.items():
        if got != expected:
            raise InputError(
                "refiner",
                f"a model with another {name} ({', '.join(got)})",
                f"that of the model it follows ({', '.join(expected)})",
                "Choose a refiner made for this model.",
            )


def first_of_refiner(steps: Real[Tensor, " n"], start: float, total: int) -> int:
    """Number of the refiner's first step: the first whose noise is below the handover.

    Args:
        steps: timesteps, falling.
        start: share of the denoising that is done before; 0.8 leaves the timesteps below 200 of
            1000 to the refiner, which is what it was trained on.
        total: timesteps of the schedule.

    Raises:
        InputError: one of the two has nothing to do.
    """
    count = int((steps >= round(total * (1 - start))).sum())
    if not 0 < count < len(steps):
        raise InputError(
            "refiner_start",
            f"{start}, which leaves {count} of {len(steps)} steps to the model and "
            f"{len(steps) - count} to the refiner",
            "some for each of the two",
            "Take more steps, or another refiner_start.",
        )
    return count


@torch.no_grad()
def draw_refined(
    base: "Family",
    refiner: "Family",
    prompts: Sequence[str],
    negative: str,
    noise: Float[Tensor, "B c h w"],
    sampling: Sampling,
    *,
    handover: float,
    device: torch.device | str,
    start: Float[Tensor, "B c h w"] | None = None,
    strength: float = 1.0,
    generators: Generators | None = None,
) -> Drawn:
    """One picture a prompt, by a model and then its refiner.

    Both follow one sampler, so that a sampler which remembers earlier steps goes on remembering:
    a model that refines itself draws the very picture that it draws alone. The latents are handed
    over as they are, without decoding. One model at a time is on the device; the base model's
    autoencoder decodes.

    Args:
        base: does the first steps.
        refiner: does the last ones.
        prompts: B texts; those that need the same number of windows belong in one call.
        negative: what guidance moves away from.
        noise: N(0, 1).
        sampling: the settings, of both.
        handover: share of the denoising that is done before the refiner's part.
        device: where the models work.
        start: latents to begin from, see `sampling.sample_latents`.
        strength: share of the steps that are taken from `start`.
        generators: of the noise between the steps.

    Raises:
        InputError: the models do not fit together, or one of them has no step to do.
        TastemakerError: the result is not finite.
    """
    refuse_unfit(base, refiner)
    windows = max(each.windows([*prompts, negative]) for each in (base, refiner))
    refiner.to("cpu")
    base.to(device)
    scheduler, steps, x = begin(base, noise, sampling, start=start, strength=strength)
    first = first_of_refiner(steps, handover, len(base.schedule()))
    texts = prompt_states(base, prompts, negative, windows)
    x = denoised(base, *texts, sampling, scheduler, steps[:first], x, generators)
    base.to("cpu")
    refiner.to(device)
    # What the sampler remembers is clean latents, whatever the networks predict.
    scheduler.register_to_config(prediction_type=refiner.schedule().prediction_type)
    texts = prompt_states(refiner, prompts, negative, windows)
    x = denoised(refiner, *texts, sampling, scheduler, steps[first:], x, generators)
    refuse_not_finite(x, sampling)
    refiner.to("cpu")
    base.parts["vae"].to(device)
    return Drawn(x, base.decode(x).cpu())


def refined_pictures(
    base: "Family",
    refiner: "Family",
    prompts: Sequence[str],
    negative: str,
    noise: Float[Tensor, "B c h w"],
    sampling: Sampling,
    *,
    start: float,
    device: torch.device | str,
) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] on the CPU, one a prompt, as `draw_refined` makes them.

    Args:
        base: does the first steps.
        refiner: does the last ones.
        prompts: B texts.
        negative: what guidance moves away from.
        noise: N(0, 1).
        sampling: the settings, of both.
        start: share of the denoising that the base model does.
        device: where the models work.
    """
    generators = [torch.Generator().manual_seed(number) for number in range(len(prompts))]
    options = {"handover": start, "device": device, "generators": generators}
    return draw_refined(base, refiner, prompts, negative, noise, sampling, **options).pictures


def _latents(family: "Family") -> list[str]:
    vae = family.parts["vae"]
    factor, shift = scaling_of(vae.config)  # pyright: ignore[reportArgumentType]
    scales = [f"{value:.6g}" for value in torch.cat([factor, shift]).flatten().tolist()]
    cells = latent_factor(vae)  # pyright: ignore[reportArgumentType]
    return [f"{family.latent_channels} channels", f"{cells} pixels", *scales]
