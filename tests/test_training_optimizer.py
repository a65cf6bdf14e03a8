"""AdamW: which parameters are trained, which decay, at which rate."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tastemaker.errors import InputError
from tastemaker.training.optimizer import AdamWConfig, build_optimizer, trained_parameters


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.LayerNorm((4, 6, 6))  # its weight has three axes, and still must not decay
        self.scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)


def test_norms_biases_and_scalars_do_not_decay():
    optimizer = build_optimizer({"unet": Part()}, AdamWConfig(weight_decay=0.1))
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    assert decay == {
        "unet.conv.weight": 0.1,
        "unet.conv.bias": 0.0,
        "unet.norm.weight": 0.0,
        "unet.norm.bias": 0.0,
        "unet.scale": 0.0,
    }


def test_lengths_of_dora_do_not_decay_whatever_their_axes():
    adapted = nn.Module()
    adapted.conv = nn.Module()
    adapted.conv.lora_magnitude_vector = nn.ModuleDict({"default": nn.Module()})
    adapted.conv.lora_magnitude_vector["default"].weight = nn.Parameter(torch.ones(1, 4, 1, 1))
    adapted.conv.lora_A = nn.ModuleDict({"default": nn.Conv2d(4, 2, 1, bias=False)})
    optimizer = build_optimizer({"unet": adapted}, AdamWConfig(weight_decay=0.1))
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    assert decay == {
        "unet.conv.lora_magnitude_vector.default.weight": 0.0,
        "unet.conv.lora_A.default.weight": 0.1,
    }


@pytest.mark.parametrize("rate", [0.0, -1e-4, float("nan")])
def test_a_rate_of_a_part_is_above_zero(rate):
    """A part that is not to change is left out of the parts instead."""
    with pytest.raises(ValidationError, match="greater than 0"):
        AdamWConfig(part_lr={"unet": rate})


def test_each_part_has_its_own_rate():
    parts = {"text": nn.Linear(2, 2), "text_2": nn.Linear(2, 2)}
    optimizer = build_optimizer(parts, AdamWConfig(lr=1e-3, part_lr={"text": 1e-5}))
    rates = {n: g["initial_lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates == {
        "text.weight": 1e-5, "text.bias": 1e-5, "text_2.weight": 1e-3, "text_2.bias": 1e-3,
    }  # fmt: skip


def test_a_tied_parameter_is_trained_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    names = set(trained_parameters({"a": first, "b": second}))
    assert names == {"a.weight", "a.bias", "b.bias"}


def test_the_update_is_adamw_as_published():
    """Loshchilov & Hutter 2019, algorithm 2, in float64 numpy."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    config = AdamWConfig(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    optimizer = build_optimizer({"m": layer}, config)
    theta = layer.weight.detach().numpy().copy()
    m = v = 0.0
    for step in range(1, 4):
        layer(torch.full((1, 3), float(step), dtype=torch.float64)).square().sum().backward()
        grad = layer.weight.grad.numpy().copy()
        optimizer.step()
        optimizer.zero_grad()
        m, v = 0.8 * m + 0.2 * grad, 0.9 * v + 0.1 * grad**2
        update = (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)) ** 0.5 + 1e-6)
        theta = theta - 0.01 * (update + 0.1 * theta)
        torch.testing.assert_close(
            layer.weight.detach(), torch.from_numpy(theta), rtol=1e-12, atol=0
        )


def test_a_rate_for_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="'tex'.*one of text"):
        build_optimizer({"text": nn.Linear(1, 1)}, AdamWConfig(part_lr={"tex": 1e-5}))


def test_nothing_to_train_is_refused():
    with pytest.raises(InputError, match="no parameter to train"):
        build_optimizer({"m": nn.Linear(1, 1).requires_grad_(requires_grad=False)}, AdamWConfig())
