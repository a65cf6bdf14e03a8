"""Our sampling against the diffusers pipelines, for every family."""

from typing import Any, get_args

import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.models.family import Family
from tastemaker.models.sampling import (
    Sampling,
    latent_shape,
    make_sampler,
    sample_latents,
    sample_pictures,
)
from tastemaker.models.schedulers import scheduler_with
from tastemaker.records.samplers import SamplerName
from tastemaker.records.size import Size
from tests.tiny_models import FAMILIES, tiny_family

PROMPTS = ["a red apple", "the tiger's green tree"]
SIZE = Size(64, 48)

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def family(name: str) -> Any:
    return tiny_family(name)


@pytest.fixture(scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def _noise(count: int, family: Family, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *latent_shape(family, SIZE), generator=generator)


def _usual_schedule(family: Any) -> Any:
    """That of SDXL; a cosine one begins at a noise level of 20,000, which costs digits."""
    scheduler = family.scheduler
    return scheduler_with(type(scheduler), scheduler.config, {"beta_schedule": "scaled_linear"})


# The refiner's pipeline takes a picture: see the next test.
@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "refiner"], indirect=True)
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_pictures_equal_those_of_the_pipeline_bit_for_bit(
    family: Any, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampler == "euler_a":  # the pipeline's is NaN with a cosine schedule
        monkeypatch.setattr(family, "scheduler", _usual_schedule(family))
    noise = _noise(2, family)
    ours = sample_pictures(family, PROMPTS, "", noise, Sampling(sampler, 3, 4.0, SIZE))
    assert ours.shape == (2, 3, 64, 48)
    pipeline = family.pipeline()
    pipeline.scheduler = make_sampler(sampler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    # Encoded as ours are, one empty text for all: the bits of a text depend on the batch.
    text, empty = family.encode_text(PROMPTS), family.encode_text([""])[[0, 0]]
    options = {"prompt_embeds": text.context, "negative_prompt_embeds": empty.context}
    if family.name == "sdxl":
        options |= {"pooled_prompt_embeds": text.pooled}
        options |= {"negative_pooled_prompt_embeds": empty.pooled}
    if family.name == "pixart":
        options |= {"prompt_attention_mask": text.mask, "use_resolution_binning": False}
        options |= {"negative_prompt_attention_mask": empty.mask, "negative_prompt": None}
    theirs = pipeline(
        latents=noise.clone(), guidance_scale=4.0, height=SIZE.h, width=SIZE.w,
        num_inference_steps=3, output_type="pt", **options,
        generator=[torch.Generator().manual_seed(number) for number in range(2)],
    ).images  # fmt: skip
    assert torch.equal(ours, theirs)
    unguided = sample_pictures(family, PROMPTS, "", noise, Sampling(sampler, 3, 0.0, SIZE))
    assert not torch.equal(unguided, ours)


@pytest.mark.parametrize("name", ["sdxl", "refiner"], indirect=True)
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_pictures_from_a_start_equal_those_of_img2img(family: Any, sampler: Any) -> None:
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img

    start, noise = _noise(2, family, seed=1), _noise(2, family, seed=5)
    sampling = Sampling(sampler, 4, 3.0, SIZE)
    ours = sample_latents(
        family, family.encode_text(PROMPTS), family.encode_text([""] * 2), noise, sampling,
        start=start, strength=0.5,
    )  # fmt: skip
    assert family.is_refiner == (len(family.parts) == 3)
    pipeline = pipeline_stable_diffusion_xl_img2img.StableDiffusionXLImg2ImgPipeline(
        **family.pipeline().components, requires_aesthetics_score=family.is_refiner,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    pipeline.scheduler = make_sampler(sampler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS, negative_prompt=[""] * 2, image=start, strength=0.5, num_inference_steps=4,
        guidance_scale=3.0, original_size=tuple(SIZE), target_size=tuple(SIZE),
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="leaves none"):
        sample_latents(family, family.encode_text(["a"]), family.encode_text([""]), noise[:1],
                       sampling, start=start[:1], strength=0.1)  # fmt: skip


@pytest.mark.parametrize("name", ["sd15", "pixart-512"], indirect=True)
def test_latents_stay_whole_between_the_steps_of_half_precision(name: str, family: Any) -> None:
    """Rounding them to bf16 at every step would add up."""
    half = tiny_family(name, precision="bf16")
    noise, sampling = _noise(1, family), Sampling("ddim", 6, 3.0, SIZE)
    ours = sample_pictures(half, ["a"], "", noise, sampling)
    whole = sample_pictures(family, ["a"], "", noise, sampling)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, whole, atol=0.05, rtol=0)


NOISY = ["dpmpp_2m_sde_karras", "euler_a", "lcm"]


@pytest.mark.parametrize("name", ["sdxl"], indirect=True)
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_the_noise_between_steps_is_each_picture_s_own(
    family: Any, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It depends on no neighbour, and no other sampler uses it."""
    monkeypatch.setattr(family, "scheduler", _usual_schedule(family))
    noise, sampling = _noise(3, family), Sampling(sampler, 3, 3.0, SIZE)
    text, empty = family.encode_text(["a tree"] * 3), family.encode_text([""] * 3)

    def draw(seeds: list[int], rows: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = (text[rows], empty[rows], noise[rows], sampling)
        return sample_latents(family, *given, generators=generators)

    whole = draw([7, 8, 9], [0, 1, 2])
    torch.testing.assert_close(whole[1:2], draw([8], [1]), atol=1e-4, rtol=1e-4)
    other = draw([7, 18, 9], [0, 1, 2])
    assert torch.equal(whole[0], other[0])
    assert torch.equal(whole[1], other[1]) is (sampler not in NOISY)


@pytest.mark.parametrize("name", ["sdxl"], indirect=True)
def test_a_sampler_that_cannot_begin_at_pure_noise_is_refused(family: Any) -> None:
    config = {**family.scheduler.config, "rescale_betas_zero_snr": True}
    with pytest.raises(InputError, match="heun for a model of zero terminal SNR"):
        make_sampler("heun", config)
    assert make_sampler("euler_a", config).alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("name", ["sdxl"], indirect=True)
@pytest.mark.parametrize("steps", [2, 3, 10, 30])
def test_ancestral_steps_from_far_noise_are_finite(family: Any, steps: int) -> None:
    """The cosine schedule's first step, where diffusers' arithmetic in fp32 gives NaN."""
    made = sample_pictures(
        family, ["a tree"], "", _noise(1, family), Sampling("euler_a", steps, 3.0, SIZE)
    )
    assert bool(torch.isfinite(made).all())
