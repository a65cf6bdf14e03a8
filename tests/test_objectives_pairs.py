"""Identities and invariances of preference losses, and the winner guard."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tastemaker.objectives.dpo import ANCHOR, DPO
from tastemaker.objectives.pairs import LINKS, link_loss, winner_guard
from tastemaker.objectives.protocol import PairBatch
from tests.pair_batches import POLICY, REFERENCE, batch_of, network, rows, schedule_of, swapped

LN2 = math.log(2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("guard", ["none", "sdpo"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_policy_as_reference_costs_ln_2_in_every_precision(
    dtype: torch.dtype, guard: Any, smoothing: float
) -> None:
    """Whatever the networks answer in: squares and means are in float32."""

    def half(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return POLICY(x_t, t, cond).to(dtype)

    batch = batch_of(dtype=torch.float32)
    objective = DPO(5000.0, guard=guard, label_smoothing=smoothing)
    terms = objective(half, {ANCHOR: half}, batch, schedule_of())
    assert terms.per_sample.dtype in (torch.float32, torch.float64)
    assert (terms.per_sample - LN2).abs().max() <= 1e-6
    assert torch.equal(terms.metrics["accuracy"], torch.full((5,), 0.5, dtype=torch.float32))


@given(st.sampled_from(list(LINKS)), st.floats(0.1, 100), st.sampled_from(["none", "v", "x0"]))
def test_exchanging_the_sides_flips_the_margin(link: Any, beta: float, space: str) -> None:
    batch, schedule = batch_of(), schedule_of()
    objective = DPO(beta, link=link, error_space="native" if space == "none" else space)  # type: ignore[arg-type]
    one = objective(POLICY, REFERENCE, batch, schedule)
    other = objective(POLICY, REFERENCE, swapped(batch), schedule)
    assert torch.equal(other.metrics["margin"], -one.metrics["margin"])
    # Exchanged sides with the exchanged label are the same pair.
    again = dataclasses.replace(swapped(batch), label=1 - batch.label)
    torch.testing.assert_close(
        objective(POLICY, REFERENCE, again, schedule).per_sample, one.per_sample, rtol=1e-12, atol=0
    )
    sure = one.metrics["accuracy"] != 0.5
    flipped = (other.metrics["accuracy"] + one.metrics["accuracy"])[sure]
    assert torch.equal(flipped, torch.ones_like(flipped))


def gradient(objective: Any, batch: PairBatch, scale: float = 1.0) -> Tensor:
    """Of the global mean, by a policy of one weight a cell."""
    weight = torch.full((3, 4), scale, dtype=batch.winner.dtype, requires_grad=True)
    reference = {ANCHOR: network(1.0)}
    network_of = network(weight)
    objective(network_of, reference, batch, schedule_of()).per_sample.mean().backward()
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize("convention", ["salesforce", "diffusers_sd"])
def test_gradient_at_the_start_in_closed_form(convention: Any) -> None:
    """There it is -(p - 1/2) c beta dm: the pull of winners against losers, and none of a tie."""
    batch, beta = batch_of(), 30.0
    weight = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    schedule = schedule_of()
    e = []
    for side, x0 in enumerate((batch.winner, batch.loser)):
        x_t = schedule.add_noise(x0, batch.noise, batch.t)
        answer = network(weight)(x_t, batch.t, batch.cond[5 * side : 5 * side + 5])
        e.append(((answer - batch.noise) ** 2).mean(dim=(1, 2, 3)))
    c = {"salesforce": 0.5, "diffusers_sd": 1.0}[convention]
    (expected,) = torch.autograd.grad(
        ((batch.label - 0.5) * c * beta * (e[0] - e[1])).mean(), weight
    )
    torch.testing.assert_close(gradient(DPO(beta, convention), batch), expected, rtol=1e-12, atol=0)
    doubled = gradient(DPO(2 * beta, convention), batch)
    torch.testing.assert_close(doubled, 2 * expected, rtol=1e-12, atol=0)
    ties = dataclasses.replace(batch, label=torch.full((5,), 0.5, dtype=torch.float64))
    assert torch.equal(gradient(DPO(beta, convention), ties), torch.zeros(3, 4).double())


def test_equal_sides_have_no_gradient() -> None:
    batch = batch_of()
    cond = torch.cat([batch.cond[:5]] * 2)
    same = dataclasses.replace(batch, loser=batch.winner, cond=cond)
    for link in LINKS:
        found = gradient(DPO(50.0, link=link), same, scale=1.4)  # type: ignore[arg-type]
        assert found.abs().max() < 1e-15


def test_limits_of_ipo() -> None:
    """Least at u = 1/(2 beta), 1/(4 beta^2) at the start, and twice the logistic's pull there."""
    beta = 4.0
    one = torch.ones(1, dtype=torch.float64)
    at = torch.tensor([1 / (2 * beta)], dtype=torch.float64, requires_grad=True)
    loss = link_loss("ipo", at, beta, one)
    (slope,) = torch.autograd.grad(loss.sum(), at)
    assert (loss.item(), slope.item()) == (0.0, 0.0)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    start = link_loss("ipo", zero, beta, one)
    (pull,) = torch.autograd.grad(start.sum(), zero)
    (logistic,) = torch.autograd.grad(link_loss("logistic", zero, beta, one).sum(), zero)
    assert start.item() == pytest.approx(1 / (4 * beta**2), rel=1e-12)
    assert (beta**2 * pull).item() == pytest.approx(2 * logistic.item(), rel=1e-12)


def test_limits_of_conservative_dpo() -> None:
    """Smoothing 0 is DPO; s has its least at the logit log((1-s)/s); 1/2 would be even."""
    u, one = torch.linspace(-2, 2, 9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    assert torch.equal(link_loss("logistic", u, 3.0, one, 0.0), LINKS["logistic"](u, 3.0))
    s = 0.1
    best = torch.tensor([math.log((1 - s) / s) / 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(link_loss("logistic", best, 3.0, one[:1], s).sum(), best)
    assert abs(slope.item()) < 1e-12
    even = link_loss("logistic", u, 3.0, one, 0.5)
    torch.testing.assert_close(even, even.flip(0), rtol=1e-12, atol=0)


def test_dpo_is_the_group_objective_of_two() -> None:
    """DGPO with G = 2 and advantages +1, -1 has DPO's gradient / beta (its w is detached)."""
    batch, schedule, beta = batch_of(), schedule_of(), 6.0
    sure = dataclasses.replace(batch, label=torch.ones(5, dtype=torch.float64))
    weight = torch.full((3, 4), 1.2, dtype=torch.float64, requires_grad=True)
    errors, anchor = [], []
    for side, x0 in enumerate((batch.winner, batch.loser)):
        x_t = schedule.add_noise(x0, batch.noise, batch.t)
        cond = batch.cond[5 * side : 5 * side + 5]
        for model, into in ((network(weight), errors), (network(1.0), anchor)):
            into.append((model(x_t, batch.t, cond) - batch.noise).square().mean(dim=(1, 2, 3)))
    signed = sum(a * beta * (e - r) for a, e, r in zip((1, -1), errors, anchor, strict=True)) / 2
    w = torch.sigmoid(torch.as_tensor(signed)).detach()
    group = (w * (errors[0] - errors[1]) / 2).mean()
    (expected,) = torch.autograd.grad(group, weight)
    found = gradient(DPO(beta), sure, scale=1.2)
    torch.testing.assert_close(found / beta, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("guard", ["none", "sdpo"])
def test_one_gradient_in_any_micro_batches(guard: Any) -> None:
    """64 x 1, 8 x 8 and 1 x 64 pairs: the same mean, and the same gradient to 1e-6."""
    whole = batch_of(64, torch.float32)
    schedule, grads = schedule_of(), []
    objective = DPO(20.0, guard=guard, sft_weight=0.2)
    for size in (64, 8, 1):
        weight = torch.full((3, 4), 1.2, requires_grad=True)
        for start in range(0, 64, size):
            part = rows(whole, list(range(start, start + size)))
            terms = objective(network(weight), REFERENCE, part, schedule).per_sample
            (terms.sum() / 64).backward()
        grads.append(weight.grad)
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=1e-6, atol=1e-6)


@given(st.permutations(range(8)), st.integers(1, 7))
def test_a_pairs_loss_does_not_depend_on_its_neighbours(order: list[int], cut: int) -> None:
    whole, schedule = batch_of(8, torch.float32), schedule_of("v_prediction")
    objective = DPO(9.0, guard="sdpo")
    terms = objective(POLICY, REFERENCE, whole, schedule).per_sample
    parts = [
        objective(POLICY, REFERENCE, rows(whole, part), schedule).per_sample
        for part in (order[:cut], order[cut:])
    ]
    assert torch.equal(torch.cat(parts), terms[list(order)])


# --- guard ---------------------------------------------------------------------------------------


def test_the_guard_is_what_autograd_gives() -> None:
    """lambda by the gradients of each pair's errors, as SDPO's code has it for a whole batch."""
    generator = torch.Generator().manual_seed(4)
    target = torch.randn(6, 2, 3, 4, generator=generator, dtype=torch.float64)
    answers = torch.randn(2, 6, 2, 3, 4, generator=generator, dtype=torch.float64)
    answers[1, :3] = answers[0, :3] * 0.9 + 0.3 * answers[1, :3]  # three that pull together
    for mu in (0.0, 0.3, 0.9, 1.0):
        found = winner_guard(answers[0] - target, answers[1] - target, mu)
        for i in range(6):
            grads = []
            for side in range(2):
                answer = answers[side, i].clone().requires_grad_(True)
                (g,) = torch.autograd.grad((answer - target[i]).square().mean(), answer)
                grads.append(g)
            dot = (grads[0] * grads[1]).sum().item()
            own = grads[0].square().sum().item()
            expected = min(1.0, max(0.0, (1 - mu) * own / dot)) if dot > 0 else 1.0
            assert found[i].item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_guard_keeps_the_winners_error_from_rising() -> None:
    """A small step of the predictions against the guarded gradient, and against the plain one."""
    generator = torch.Generator().manual_seed(2)
    r_w = torch.randn(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    r_l = 2.0 * r_w + 0.5 * torch.randn(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    scale = winner_guard(r_w, r_l, 0.1)
    changes = []
    for factor in (scale, torch.ones_like(scale)):
        step = -1e-4 * (r_w - factor[:, None, None, None] * r_l)
        changes.append((r_w + step).square().sum(dim=(1, 2, 3)) - r_w.square().sum(dim=(1, 2, 3)))
    assert (changes[0] <= 0).all()
    assert (changes[1] > 0).all()  # without the guard every winner gets worse
    assert (scale < 1).all()


def test_a_full_guard_kills_losers_that_pull_the_same_way() -> None:
    r = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(winner_guard(r, 0.5 * r, 1.0), torch.zeros(3))
    assert torch.equal(winner_guard(r, -r, 1.0), torch.ones(3))


def test_the_guard_changes_gradients_and_not_values() -> None:
    batch = batch_of()
    plain, safe = DPO(30.0), DPO(30.0, guard="sdpo", guard_mu=0.9)
    one = plain(POLICY, REFERENCE, batch, schedule_of())
    other = safe(POLICY, REFERENCE, batch, schedule_of())
    assert torch.equal(one.per_sample, other.per_sample)
    scale = other.metrics["loser_scale"]
    assert scale[1] == 1.0  # a tie has no winner to be guarded
    assert ((scale >= 0) & (scale <= 1)).all()
    assert (scale[[0, 2, 3, 4]] < 1).any()
    assert not torch.allclose(gradient(plain, batch, 1.3), gradient(safe, batch, 1.3))
