"""Preference losses against independent transcriptions in float64 numpy."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tastemaker.diffusion.pair_timesteps import informative
from tastemaker.objectives.dpo import ANCHOR, DPO, WinnerSFT
from tastemaker.objectives.pairs import LINKS, link_loss, pair_margin, space_factor
from tastemaker.objectives.protocol import Objective, SingleBatch
from tastemaker.objectives.sft import SFT
from tests.pair_batches import (
    CELLS,
    POLICY,
    PREDICTIONS,
    REFERENCE,
    batch_of,
    network,
    schedule_of,
    transcribed_errors,
)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_loss_of_the_design(prediction: str, offset: float) -> None:
    """L = -log sigmoid(-(beta/2) [(e_w - r_w) - (e_l - r_l)]), ties with half of each side."""
    schedule, batch, beta = schedule_of(prediction), batch_of(), 7.0
    terms = DPO(beta, noise_offset=offset)(POLICY, REFERENCE, batch, schedule)
    e, _, _ = transcribed_errors(batch, schedule, 1.3, offset)
    r, _, _ = transcribed_errors(batch, schedule, 0.8, offset)
    bracket = (e[0] - r[0]) - (e[1] - r[1])
    p = batch.label.numpy()
    loss = p * softplus(beta / 2 * bracket) + (1 - p) * softplus(-beta / 2 * bracket)
    np.testing.assert_allclose(terms.per_sample, loss, rtol=1e-12)
    for name, value in {
        "winner_error": e[0],
        "loser_error": e[1],
        "reference_winner_error": r[0],
        "reference_loser_error": r[1],
        "margin": -bracket,
        "logit": -beta / 2 * bracket,
        "accuracy": np.where(p == 0.5, 0.5, np.where(bracket < 0, 1.0, 0.0)),
        "beta": np.full(5, beta),
    }.items():
        np.testing.assert_allclose(terms.metrics[name], value, rtol=1e-11, err_msg=name)


def public_code(name: str, link: str, beta: float, e: Any, r: Any, sums: Any, steps: int) -> Any:
    """What the public codes compute, as they write it; all pairs sure."""
    if name in ("salesforce", "spin"):
        scale_term = -0.5 * beta
        inside_term = scale_term * ((e[0] - e[1]) - (r[0] - r[1]))
        return softplus(-inside_term)
    if name == "diffusers_sd":
        logits = (r[0] - r[1]) - (e[0] - e[1])
        if link == "ipo":
            return (logits - 1 / (2 * beta)) ** 2
        if link == "hinge":
            return np.maximum(1 - beta * logits, 0)
        return softplus(-beta * logits)
    e, r = sums
    if name == "sum":
        return softplus(0.5 * beta * ((e[0] - r[0]) - (e[1] - r[1])))
    return softplus(beta * steps * 1.0 * ((e[0] - r[0]) - (e[1] - r[1])))


@pytest.mark.parametrize(
    ("convention", "link", "beta"),
    [
        ("salesforce", "logistic", 5000.0),
        ("spin", "logistic", 2000.0),
        ("diffusers_sd", "logistic", 2500.0),
        ("diffusers_sd", "hinge", 2.0),
        ("diffusers_sd", "ipo", 2.0),
        ("sum", "logistic", 0.3),
        ("paper", "logistic", 1e-4),
    ],
)
def test_conventions_of_the_public_codes(convention: Any, link: Any, beta: float) -> None:
    schedule = schedule_of()
    batch = dataclasses.replace(batch_of(), label=torch.ones(5, dtype=torch.float64))
    found = DPO(beta, convention, link)(POLICY, REFERENCE, batch, schedule).per_sample
    e, e_sum, _ = transcribed_errors(batch, schedule, 1.3)
    r, r_sum, _ = transcribed_errors(batch, schedule, 0.8)
    theirs = public_code(convention, link, beta, e, r, (e_sum, r_sum), 1000)
    np.testing.assert_allclose(found, theirs, rtol=1e-9, atol=1e-300)


def test_one_beta_in_every_convention() -> None:
    """5000 of the authors is 2500 in diffusers' SD script, 5000/D on sums, 2500/(D T) on paper."""
    schedule, batch = schedule_of(), batch_of()
    betas = {
        "salesforce": 5000.0, "spin": 5000.0, "diffusers_sd": 2500.0,
        "sum": 5000.0 / CELLS, "paper": 2500.0 / CELLS / 1000,
    }  # fmt: skip
    losses = [
        DPO(beta, name)(POLICY, REFERENCE, batch, schedule).per_sample  # type: ignore[arg-type]
        for name, beta in betas.items()
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=0)
    assert betas["salesforce"] / 65_536 == pytest.approx(0.0763, abs=5e-5)  # SDXL, 1024 pixels


@pytest.mark.parametrize("link", list(LINKS))
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_links_golden(link: Any, smoothing: float) -> None:
    u = torch.linspace(-3, 3, 25, dtype=torch.float64)
    label = torch.linspace(0, 1, 25, dtype=torch.float64)
    beta = 1.7
    found = link_loss(link, u, beta, label, smoothing)
    for i, (x, y) in enumerate(zip(u.tolist(), label.tolist(), strict=True)):
        p = (1 - smoothing) * y + smoothing * (1 - y)
        f = {
            "logistic": lambda z: math.log1p(math.exp(-beta * z)),
            "ipo": lambda z: (z - 1 / (2 * beta)) ** 2,
            "hinge": lambda z: max(0.0, 1 - beta * z),
        }[link]
        assert found[i].item() == pytest.approx(p * f(x) + (1 - p) * f(-x), rel=1e-12)


@pytest.mark.parametrize("space", ["native", "eps", "v", "x0"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_margins_in_every_space_belong_to_the_same_answers(prediction: str, space: Any) -> None:
    """Errors of the converted predictions, computed anew, give the same margin."""
    schedule, batch = schedule_of(prediction), batch_of()
    terms = DPO(3.0, error_space=space)(POLICY, REFERENCE, batch, schedule)
    margins = np.zeros((2, 2, 5))
    for model, scale in enumerate((1.3, 0.8)):
        for side, x0 in enumerate((batch.winner, batch.loser)):
            x_t = schedule.add_noise(x0, batch.noise, batch.t)
            answer = network(scale)(x_t, batch.t, batch.cond[5 * side : 5 * side + 5])
            e = schedule.eps_from(answer, x_t, batch.t)
            clean = schedule.x0_from(answer, x_t, batch.t)
            pairs = {
                "native": (answer, schedule.target(x0, batch.noise, batch.t)),
                "eps": (e, batch.noise),
                "x0": (clean, x0),
                "v": (
                    schedule.velocity(clean, e, batch.t),
                    schedule.velocity(x0, batch.noise, batch.t),
                ),
            }
            a, b = pairs[space]
            margins[model, side] = (a - b).square().mean(dim=(1, 2, 3)).numpy()
    expected = (margins[1, 0] - margins[0, 0]) - (margins[1, 1] - margins[0, 1])
    np.testing.assert_allclose(terms.metrics["margin"], expected, rtol=1e-6, atol=1e-12)


def test_published_ratios_of_spaces() -> None:
    """v-error = eps-error / a, x0-error = eps-error (1 - a) / a, at alpha_bar a."""
    schedule, t = schedule_of(), torch.tensor([0, 300, 999])
    a, snr = schedule.alpha_bar[t], schedule.snr(t)
    np.testing.assert_allclose(space_factor(snr, "epsilon", "v"), 1 / a, rtol=1e-12)
    np.testing.assert_allclose(space_factor(snr, "epsilon", "x0"), (1 - a) / a, rtol=1e-12)


# --- what is around the loss ---------------------------------------------------------------------


def test_the_mix_adds_the_winners_error() -> None:
    batch, schedule = batch_of(), schedule_of("v_prediction")
    plain = DPO(4.0)(POLICY, REFERENCE, batch, schedule)
    mixed = DPO(4.0, sft_weight=0.7)(POLICY, REFERENCE, batch, schedule)
    e, _, _ = transcribed_errors(batch, schedule, 1.3)
    p = batch.label.numpy()
    extra = 0.7 * (p * e[0] + (1 - p) * e[1])
    np.testing.assert_allclose(mixed.per_sample - plain.per_sample, extra, rtol=1e-10)


def test_winners_alone_are_plain_fine_tuning() -> None:
    batch, schedule = batch_of(), schedule_of("v_prediction")
    single = SingleBatch(batch.winner, batch.noise, batch.t, batch.cond[:5], batch.offset)
    for weighting in ("plain", "min_snr"):
        found = WinnerSFT(weighting, 4.0, 0.1)(POLICY, {}, batch, schedule)  # type: ignore[arg-type]
        own = SFT(weighting, 4.0, 0.1)(POLICY, {}, single, schedule)  # type: ignore[arg-type]
        assert torch.equal(found.per_sample, own.per_sample)
        assert torch.equal(found.metrics["winner_error"], own.metrics["mse"])


def test_errors_from_a_table_stand_for_the_reference() -> None:
    batch, schedule = batch_of(), schedule_of()
    live = DPO(9.0)(POLICY, REFERENCE, batch, schedule)
    names = ("reference_winner_error", "reference_loser_error")
    stored = torch.stack([live.metrics[name] for name in names])
    found = DPO(9.0, reference="table")(
        POLICY, {}, dataclasses.replace(batch, reference_errors=stored), schedule
    )
    assert torch.equal(found.per_sample, live.per_sample)
    with pytest.raises(ValueError, match="reference"):
        DPO(9.0)(POLICY, {}, batch, schedule)


def test_the_beta_of_a_batch_replaces_the_constant() -> None:
    batch, schedule = batch_of(), schedule_of()
    given_beta = dataclasses.replace(batch, beta=torch.tensor(9.0))
    found = DPO(1.0)(POLICY, REFERENCE, given_beta, schedule)
    assert torch.equal(found.per_sample, DPO(9.0)(POLICY, REFERENCE, batch, schedule).per_sample)
    assert torch.equal(found.metrics["beta"], torch.full((5,), 9.0, dtype=torch.float64))


def test_the_reference_has_no_gradient_and_sees_what_the_policy_sees() -> None:
    batch, seen = batch_of(), []

    def spy(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        seen.append((x_t, t, cond, torch.is_grad_enabled()))
        return POLICY(x_t, t, cond)

    DPO(2.0)(spy, {ANCHOR: spy}, batch, schedule_of())
    policy, reference = seen
    assert (policy[3], reference[3]) == (True, False)
    assert all(torch.equal(a, b) for a, b in zip(policy[:3], reference[:3], strict=True))
    # One noise and one timestep for both sides.
    x_t, t = policy[:2]
    assert torch.equal(t[:5], t[5:])
    signal = schedule_of().alpha_bar[batch.t].sqrt()[:, None, None, None]
    torch.testing.assert_close(x_t[:5] - x_t[5:], signal * (batch.winner - batch.loser))


def test_no_signal_is_refused_and_left_out_of_draws() -> None:
    zero = schedule_of("v_prediction", zero=True)
    silent = dataclasses.replace(batch_of(), t=torch.tensor([0, 1, 2, 3, 999]))
    for objective in (DPO(2.0), WinnerSFT()):
        with pytest.raises(ValueError, match="alpha_bar 0"):
            objective(POLICY, REFERENCE, silent, zero)
    assert informative(zero, (249, 499, 749, 999)) == (249, 499, 749)
    assert informative(schedule_of(), (249, 999)) == (249, 999)
    assert informative(zero) == tuple(range(999))
    with pytest.raises(ValueError, match="no timestep"):
        informative(zero, (999,))


def test_at_no_signal_the_public_codes_waste_the_step() -> None:
    """Why: both inputs are the same noise there, so the margin is 0 whatever the policy is."""
    zero, batch = schedule_of("epsilon", zero=True), batch_of()
    t = torch.full((5,), 999)
    inputs = [zero.add_noise(x0, batch.noise, t) for x0 in (batch.winner, batch.loser)]
    assert torch.equal(*inputs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0.0}, {"label_smoothing": 0.5}, {"guard_mu": 1.5}, {"sft_weight": -1.0},
        {"link": "log"}, {"convention": "kohya"}, {"guard": "yes"}, {"error_space": "flow"},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=f"{next(iter(wrong))}|Type-check"):
        DPO(**wrong)


def test_it_declares_what_the_trainer_reads() -> None:
    objective: Objective = DPO(reference="ema")
    assert (objective.name, objective.batch_kind, objective.error_space, objective.needs) == (
        "dpo", "pair", "native", "errors",
    )  # fmt: skip
    assert dict(objective.references) == {ANCHOR: "ema"}
    baseline: Objective = WinnerSFT()
    assert (baseline.batch_kind, dict(baseline.references)) == ("pair", {})


def test_margins_keep_their_digits_in_float32() -> None:
    """Errors near 0.09 with differences of 1e-6: equal errors give exactly 0."""
    e = torch.tensor([[0.09, 0.09], [0.11, 0.11]])
    assert torch.equal(pair_margin(e, e.clone()), torch.zeros(2))
    moved = e - torch.tensor([[1e-6, 0.0], [0.0, 1e-6]])
    assert pair_margin(moved, e).sign().tolist() == [1.0, -1.0]
