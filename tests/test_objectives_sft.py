"""Supervised fine-tuning: golden values, and independence of the batch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.objectives.protocol import Objective, SingleBatch
from tastemaker.objectives.sft import SFT

SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def schedule_of(prediction: str, zero: bool = False) -> DiscreteSchedule:
    return DiscreteSchedule.from_config(
        {**SDXL, "prediction_type": prediction, "rescale_betas_zero_snr": zero}
    )


def batch_of(count: int = 5, dtype: torch.dtype = torch.float64) -> SingleBatch:
    generator = torch.Generator().manual_seed(0)
    x0, noise, perturbation = torch.randn(
        3, count, 2, 3, 4, generator=generator, dtype=torch.float64
    ).to(dtype)
    offset = torch.randn(count, 2, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.tensor([0, 100, 500, 998, 999] * 4)[:count]
    cond = torch.linspace(-1, 1, count, dtype=torch.float64).to(dtype)
    return SingleBatch(x0, noise, t, cond, offset, perturbation)


def rows(batch: SingleBatch, chosen: list[int]) -> SingleBatch:
    given = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return SingleBatch(
        **{name: None if value is None else value[chosen] for name, value in given.items()}
    )


def policy(x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """A denoiser that uses all it is given, sample by sample."""
    return (
        torch.tanh(x_t) * cond[:, None, None, None] + 0.001 * t.to(x_t.dtype)[:, None, None, None]
    )


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["plain", "min_snr"])
def test_golden(weighting: str, prediction: str, zero: bool) -> None:
    """Everything anew in numpy, with offset noise and input perturbation."""
    schedule, batch, s, p, g = schedule_of(prediction, zero), batch_of(), 0.1, 0.2, 4.0
    terms = SFT(weighting, g, noise_offset=s, input_perturbation=p)(policy, {}, batch, schedule)  # type: ignore[arg-type]
    expected, plain = [], []
    for i, t in enumerate(batch.t.tolist()):
        ab = schedule.alpha_bar[t].item()
        x0 = batch.x0[i].numpy()
        e = batch.noise[i].numpy() + s * batch.offset[i].numpy()[:, None, None]
        x_t = math.sqrt(ab) * x0 + math.sqrt(1 - ab) * (e + p * batch.perturbation[i].numpy())
        target = {
            "epsilon": e,
            "v_prediction": math.sqrt(ab) * e - math.sqrt(1 - ab) * x0,
            "sample": x0,
        }[prediction]
        answer = np.tanh(x_t) * batch.cond[i].item() + 0.001 * t
        mse = np.mean((answer - target) ** 2)
        snr = ab / (1 - ab)
        if weighting == "plain" or (prediction == "epsilon" and snr == 0.0):
            weight = 1.0
        else:
            weight = (
                min(snr, g) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[prediction]
            )
        expected.append(weight * mse)
        plain.append(mse)
    np.testing.assert_allclose(terms.per_sample, expected, rtol=1e-12)
    np.testing.assert_allclose(terms.metrics["mse"], plain, rtol=1e-12)


@given(st.permutations(range(8)), st.integers(1, 7))
def test_the_loss_does_not_depend_on_the_micro_batch(order: list[int], cut: int) -> None:
    """Any order and split: the same terms, bit for bit, and so the same global mean."""
    schedule, whole = schedule_of("v_prediction"), batch_of(8, torch.float32)
    terms = SFT()(policy, {}, whole, schedule).per_sample
    parts = [
        SFT()(policy, {}, rows(whole, part), schedule).per_sample
        for part in (order[:cut], order[cut:])
    ]
    assert torch.equal(torch.cat(parts), terms[list(order)])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_answer_costs_nothing(prediction: str) -> None:
    schedule, batch = schedule_of(prediction, zero=True), batch_of()
    answer = schedule.target(batch.x0, batch.noise, batch.t)
    terms = SFT()(lambda x_t, t, cond: answer, {}, batch, schedule)
    assert torch.equal(terms.per_sample, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_term_and_gradient_is_finite_with_zero_terminal_snr(prediction: str) -> None:
    schedule, batch = schedule_of(prediction, zero=True), batch_of(dtype=torch.float32)
    scale = torch.ones((), requires_grad=True)
    for weighting in ("plain", "min_snr", "debiased"):
        terms = SFT(weighting)(lambda x_t, t, cond: scale * x_t, {}, batch, schedule).per_sample
        (gradient,) = torch.autograd.grad(terms.mean(), scale)
        assert terms.shape == (5,)
        assert bool(terms.isfinite().all())
        assert bool(gradient.isfinite())


def test_half_precision_models_have_a_float32_loss() -> None:
    schedule, batch = schedule_of("epsilon"), batch_of(dtype=torch.float32)
    terms = SFT()(lambda x_t, t, cond: x_t.bfloat16(), {}, batch, schedule)
    assert terms.per_sample.dtype == torch.float32


def test_metrics_carry_no_gradient() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    terms = SFT()(lambda x_t, t, cond: weight * x_t, {}, batch_of(), schedule_of("epsilon"))
    assert terms.per_sample.requires_grad
    assert not terms.metrics["mse"].requires_grad


def test_the_perturbation_stays_out_of_the_target() -> None:
    """The offset moves input and target, the perturbation the input alone."""
    schedule, batch, seen = schedule_of("epsilon"), batch_of(), []

    def spy(x_t: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        seen.append(x_t)
        return batch.noise

    perturbed = SFT("plain", input_perturbation=0.3)(spy, {}, batch, schedule).per_sample
    offset = SFT("plain", noise_offset=0.3)(spy, {}, batch, schedule).per_sample
    assert torch.equal(perturbed, torch.zeros(5, dtype=torch.float64))
    assert bool((offset > 0).all())
    clean = schedule.add_noise(batch.x0, batch.noise, batch.t)
    assert not any(torch.equal(x_t, clean) for x_t in seen)


@pytest.mark.parametrize("field", ["noise_offset", "input_perturbation"])
def test_a_batch_without_the_asked_normals_is_refused(field: str) -> None:
    bare = dataclasses.replace(batch_of(), offset=None, perturbation=None)
    with pytest.raises(ValueError, match="asks for"):
        SFT(**{field: 0.1})(policy, {}, bare, schedule_of("epsilon"))  # type: ignore[arg-type]
    assert SFT()(policy, {}, bare, schedule_of("epsilon")).per_sample.shape == (5,)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma"):
        SFT(gamma=0.0)
    with pytest.raises(Exception, match="weighting|Type-check"):
        SFT("min-snr")  # type: ignore[arg-type]


def test_it_declares_what_the_trainer_reads() -> None:
    objective: Objective = SFT()
    assert (objective.name, objective.batch_kind, objective.error_space) == (
        "sft",
        "single",
        "native",
    )
    assert dict(objective.references) == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.gamma = 1.0  # type: ignore[attr-defined]


def masks_of(count: int = 5) -> torch.Tensor:
    """Weights from 0 to 1, many of them 0, and one mask of ones."""
    weight = torch.rand(count, 1, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    weight[weight < 0.4] = 0.0
    weight[0] = 1.0
    return weight


def test_a_loss_mask_renormalises_by_the_kept_area() -> None:
    """sum(w * error) / (C * sum(w)), anew in numpy; the metric is of the whole latents."""
    schedule = schedule_of("epsilon")
    batch = dataclasses.replace(batch_of(), weight=masks_of())
    terms = SFT("plain")(policy, {}, batch, schedule)
    x_t = schedule.add_noise(batch.x0, batch.noise, batch.t)
    errors = ((policy(x_t, batch.t, batch.cond) - batch.noise) ** 2).numpy()
    weight = masks_of().numpy()
    kept = (weight * errors).sum((1, 2, 3)) / (errors.shape[1] * weight.sum((1, 2, 3)))
    np.testing.assert_allclose(terms.per_sample, kept, rtol=1e-12)
    np.testing.assert_allclose(terms.metrics["mse"], errors.mean((1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_of_ones_is_no_mask_bit_for_bit(dtype: torch.dtype) -> None:
    schedule, batch = schedule_of("v_prediction"), batch_of(dtype=dtype)
    whole = dataclasses.replace(batch, weight=torch.ones(5, 1, 3, 4, dtype=dtype))
    found = []
    for one in (batch, whole):
        scale = torch.ones(5, dtype=dtype, requires_grad=True)
        own = dataclasses.replace(one, cond=one.cond * scale)
        terms = SFT("min_snr")(policy, {}, own, schedule).per_sample
        terms.sum().backward()
        found.append((terms.detach(), scale.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_masked_cells_have_no_gradient_and_do_not_matter() -> None:
    schedule, weight = schedule_of("epsilon"), masks_of()
    batch = dataclasses.replace(batch_of(), weight=weight)
    shift = torch.zeros_like(batch.x0, requires_grad=True)

    def shifted(x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return policy(x_t, t, cond) + shift

    terms = SFT("plain")(shifted, {}, batch, schedule).per_sample
    terms.sum().backward()
    assert shift.grad is not None
    masked = (weight == 0).expand_as(shift)
    assert masked.any()
    assert (shift.grad[masked] == 0).all()
    assert (shift.grad[~masked] != 0).all()
    with torch.no_grad():
        shift[masked] = 100.0
    assert torch.equal(SFT("plain")(shifted, {}, batch, schedule).per_sample, terms)
