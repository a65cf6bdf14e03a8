"""Schedules against an independent float64 transcription of the papers, and against diffusers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.errors import InputError

SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = {
    "sdxl": SDXL,
    "default": {},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "short": {**SDXL, "num_train_timesteps": 50},
    "trained": {"trained_betas": [0.1, 0.2, 0.5, 0.9]},
}


def transcribed(config: dict, zero_terminal: bool = False) -> np.ndarray:
    """alpha_bar, step by step as the papers print it, in plain Python floats."""
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", "linear")

    def beta(i: int) -> float:
        if "trained_betas" in config:
            return config["trained_betas"][i]
        if kind == "linear":
            return start + (end - start) * i / (count - 1)
        if kind == "scaled_linear":
            return (start**0.5 + (end**0.5 - start**0.5) * i / (count - 1)) ** 2
        now, after = ((k / count + 0.008) / 1.008 for k in (i, i + 1))
        return min(1 - math.cos(after * math.pi / 2) ** 2 / math.cos(now * math.pi / 2) ** 2, 0.999)

    product, table = 1.0, []
    for i in range(len(config.get("trained_betas", range(count)))):
        product *= 1.0 - beta(i)
        table.append(product)
    if zero_terminal:
        roots = [math.sqrt(ab) for ab in table]
        shifted = [root - roots[-1] for root in roots]
        table = [(s * roots[0] / (roots[0] - roots[-1])) ** 2 for s in shifted]
    return np.array(table)


def build(config: dict, prediction: str = "epsilon", zero: bool = False) -> DiscreteSchedule:
    extra = {"prediction_type": prediction, "rescale_betas_zero_snr": zero}
    return DiscreteSchedule.from_config({**config, **extra})


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_alpha_bar_is_the_papers(name: str, zero: bool) -> None:
    schedule = build(CONFIGS[name], zero=zero)
    expected = transcribed(CONFIGS[name], zero)
    assert schedule.alpha_bar.dtype == torch.float64
    assert len(schedule) == len(expected)
    # sqrt(ab_t) - sqrt(ab_T) cancels near T, where only the digits of sqrt(ab_T) are left.
    np.testing.assert_allclose(schedule.alpha_bar, expected, rtol=1e-12, atol=1e-14 * zero)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_alpha_bar_is_that_of_diffusers(name: str, zero: bool) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(**CONFIGS[name], rescale_betas_zero_snr=zero).alphas_cumprod
    # Theirs is a float32 product of up to 1000 factors.
    np.testing.assert_allclose(
        build(CONFIGS[name], zero=zero).alpha_bar, theirs, rtol=2e-4, atol=1e-6
    )


def test_the_config_that_diffusers_saves_is_understood() -> None:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    saved = EulerDiscreteScheduler(
        **SDXL, prediction_type="v_prediction", timestep_spacing="leading"
    ).config
    schedule = DiscreteSchedule.from_config(saved)
    assert schedule.prediction_type == "v_prediction"
    np.testing.assert_allclose(schedule.alpha_bar, transcribed(SDXL), rtol=1e-12)


def test_known_values_of_sdxl() -> None:
    schedule = build(SDXL)
    np.testing.assert_allclose(schedule.alpha_bar[[0, 999]], [0.99915, 0.00466], atol=1e-5)
    assert schedule.snr(torch.tensor([100])).item() == pytest.approx(8.4539, abs=5e-5)


def test_known_values_of_sdxl_turbo() -> None:
    """Zero-terminal rescale at the four steps of SDXL-Turbo."""
    ab = build(SDXL, zero=True).alpha_bar[[249, 499, 749, 999]]
    np.testing.assert_allclose(ab, [0.6542, 0.2424, 0.0332, 0.0], atol=5e-5)


def test_zero_terminal_keeps_the_first_and_makes_the_last_exactly_zero() -> None:
    before, after = build(SDXL), build(SDXL, zero=True)
    assert after.alpha_bar[-1].item() == 0.0
    assert after.alpha_bar[0].item() == pytest.approx(before.alpha_bar[0].item(), rel=1e-15)
    assert bool((after.alpha_bar.diff() < 0).all())
    assert (before.last_informative, after.last_informative) == (999, 998)
    assert after.snr(torch.tensor([999])).item() == 0.0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero", [False, True])
def test_noising_and_targets_are_the_papers(prediction: str, zero: bool) -> None:
    schedule = build(SDXL, prediction, zero)
    ab = schedule.alpha_bar.numpy()
    rng = np.random.default_rng(0)
    t = np.array([0, 1, 500, 998, 999])
    x0, e = rng.standard_normal((2, 5, 2, 3, 4))
    x_t = np.stack(
        [math.sqrt(ab[k]) * a + math.sqrt(1 - ab[k]) * b for k, a, b in zip(t, x0, e, strict=True)]
    )
    v = np.stack(
        [math.sqrt(ab[k]) * b - math.sqrt(1 - ab[k]) * a for k, a, b in zip(t, x0, e, strict=True)]
    )
    target = {"epsilon": e, "v_prediction": v, "sample": x0}[prediction]
    a, b, steps = torch.tensor(x0), torch.tensor(e), torch.tensor(t)
    np.testing.assert_allclose(schedule.add_noise(a, b, steps), x_t, rtol=1e-12)
    np.testing.assert_allclose(schedule.target(a, b, steps), target, rtol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_velocity_are_those_of_diffusers(prediction: str) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs, ours = DDPMScheduler(**SDXL), build(SDXL, prediction)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 4, 5, 6, generator=generator)
    t = torch.tensor([0, 300, 700, 999])
    torch.testing.assert_close(
        ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        ours.velocity(x0, noise, t), theirs.get_velocity(x0, noise, t), rtol=1e-5, atol=1e-5
    )


@given(
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    t=st.integers(0, 999),
    zero=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_perfect_prediction_gives_back_sample_and_noise(
    prediction: str, t: int, zero: bool, seed: int
) -> None:
    schedule = build(SDXL, prediction, zero)
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 1, 2, 3, 2, generator=generator, dtype=torch.float64)
    steps = torch.tensor([t])
    x_t, target = schedule.add_noise(x0, noise, steps), schedule.target(x0, noise, steps)
    torch.testing.assert_close(schedule.eps_from(target, x_t, steps), noise, rtol=1e-9, atol=1e-9)
    if prediction != "epsilon" or schedule.alpha_bar[t] > 0:
        torch.testing.assert_close(schedule.x0_from(target, x_t, steps), x0, rtol=1e-9, atol=1e-9)


@given(t=st.integers(0, 999), zero=st.booleans())
def test_noising_preserves_variance(t: int, zero: bool) -> None:
    """x_t and v of orthonormal x0 and noise are orthonormal too: a rotation."""
    schedule = build(SDXL, "v_prediction", zero)
    x0 = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    noise = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    x_t, v = (
        schedule.add_noise(x0, noise, torch.tensor([t])),
        schedule.velocity(x0, noise, torch.tensor([t])),
    )
    assert x_t.square().sum().item() == pytest.approx(1.0, rel=1e-14)
    assert v.square().sum().item() == pytest.approx(1.0, rel=1e-14)
    assert (x_t * v).sum().item() == pytest.approx(0.0, abs=1e-15)


def test_half_precision_is_widened() -> None:
    schedule = build(SDXL, "v_prediction")
    x0, noise = torch.randn(2, 1, 1, 2, 2, generator=torch.Generator().manual_seed(1)).bfloat16()
    t = torch.tensor([999])
    for half in (
        schedule.add_noise(x0, noise, t),
        schedule.velocity(x0, noise, t),
        schedule.x0_from(x0, noise, t),
    ):
        assert half.dtype == torch.float32
    assert torch.equal(
        schedule.add_noise(x0, noise, t), schedule.add_noise(x0.float(), noise.float(), t)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_schedule", "sigmoid"),
        ("prediction_type", "flow"),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_an_unknown_kind_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{key}: got {value}"):
        DiscreteSchedule.from_config({key: value})


@pytest.mark.parametrize("table", [[], [0.5, 0.6], [1.0, 0.5], [0.5, -0.1], [math.nan]])
def test_an_impossible_table_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="alpha_bar must"):
        DiscreteSchedule(torch.tensor(table, dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        DiscreteSchedule(torch.tensor([0.5]))
