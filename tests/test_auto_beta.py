"""A beta that follows the margins: golden values, ranks and micro-batches, resume, bounds."""

import json
import math
from typing import Any

import pytest
import torch

from tastemaker.objectives.auto_beta import AutoBeta, MarginAverage
from tastemaker.objectives.dpo import DPO
from tastemaker.objectives.pairs import LINKS


def after(rule: AutoBeta, steps: list[list[float]], average: MarginAverage | None = None):
    average = average or MarginAverage.empty()
    for u in steps:
        values = torch.tensor(u)
        average = rule.updated(average, values.abs().sum(), torch.tensor(float(len(u))))
    return average


def test_the_average_margin_gets_the_logit_of_the_target() -> None:
    """SimpleTuner's 2 logit(1 - g) / mean |m| with u = m / 2; 1.386 for g = 0.2."""
    rule = AutoBeta()
    beta = rule.beta(after(rule, [[0.001, -0.003]] * 5), first=5000.0).item()
    assert beta == pytest.approx(2 * math.log(0.8 / 0.2) / 0.004, rel=1e-6)
    assert 0.002 * beta == pytest.approx(1.3863, abs=1e-4)
    assert 1 / (1 + math.exp(0.002 * beta)) == pytest.approx(0.2, rel=1e-5)


def test_the_average_is_decayed_without_a_bias_at_the_start() -> None:
    rule = AutoBeta(decay=0.9)
    steps = [0.5, 0.25, 0.125]
    weights = [0.1 * 0.9**age for age in (2, 1, 0)]
    mean = sum(w * u for w, u in zip(weights, steps, strict=True)) / sum(weights)
    beta = rule.beta(after(rule, [[u] for u in steps]), first=1.0).item()
    assert beta == pytest.approx(math.log(4) / mean, rel=1e-6)


def test_steps_without_a_margin_say_nothing() -> None:
    """The first step has only zeros: policy and reference are the same."""
    rule = AutoBeta()
    average = after(rule, [[0.0, 0.0]])
    assert rule.beta(average, first=777.0).item() == 777.0
    seen = after(rule, [[0.1]])
    assert after(rule, [[0.0]], seen).state() == seen.state()


@pytest.mark.parametrize("link", ["logistic", "ipo"])
def test_only_links_that_push_can_have_it(link: Any) -> None:
    """Free margins, moved by the gradient of their loss: with IPO's they shrink to 0."""
    rule = AutoBeta(decay=0.0)
    margins = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    average = rule.updated(MarginAverage.empty(), margins.sum(), torch.tensor(8.0))
    for _ in range(200):
        u = margins.clone().requires_grad_(True)
        loss = LINKS[link](u, rule.beta(average, 1.0).double()).sum()
        (slope,) = torch.autograd.grad(loss, u)
        margins = margins - 0.05 * slope
        average = rule.updated(average, margins.abs().sum(), torch.tensor(8.0))
    if link == "logistic":
        assert margins.mean() > 2.0
        return
    assert margins.abs().max() < 1e-3
    with pytest.raises(ValueError, match="pulls margins"):
        DPO(link="ipo", auto_beta=rule)


def test_beta_stays_in_its_bounds() -> None:
    rule = AutoBeta(least=10.0, most=100.0)
    assert rule.beta(after(rule, [[1e-9]]), first=1.0).item() == 100.0
    assert rule.beta(after(rule, [[1e9]]), first=1.0).item() == 10.0


def test_a_resumed_average_goes_on_bit_for_bit() -> None:
    rule, steps = AutoBeta(), [[0.3, 0.1], [0.7], [0.05, 0.2, 0.9]]
    whole = after(rule, steps)
    stored = json.loads(json.dumps(after(rule, steps[:2]).state()))
    resumed = after(rule, steps[2:], MarginAverage.restored(stored))
    assert resumed.state() == whole.state()


@pytest.mark.parametrize(
    "wrong", [{"gradient": 0.0}, {"gradient": 0.5}, {"decay": 1.0}, {"least": 2.0, "most": 1.0}]
)
def test_bad_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie|betas"):
        AutoBeta(**wrong)
