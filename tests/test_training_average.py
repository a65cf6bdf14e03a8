"""The moving average of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from tastemaker.training.average import Average


def constant(value: float, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(2, 2, dtype=dtype)
    put(layer, value)
    return layer


@torch.no_grad()
def put(layer: nn.Linear, value: float) -> None:
    for parameter in layer.parameters():
        parameter.fill_(value)


def test_the_recursion_and_its_warm_up():
    layer = constant(0.0)
    average = Average({"m": layer}, decay=0.2)
    expected = np.float64(0)
    for n in range(20):
        put(layer, float(n))
        average.update()
        decay = min(0.2, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        np.testing.assert_allclose(average.tensors["m.weight"].numpy(), expected, rtol=1e-6)


def test_bf16_weights_are_averaged_in_fp32():
    layer = constant(1.0, torch.bfloat16)
    average = Average({"m": layer}, decay=0.9999)
    average.updates = 10**6
    put(layer, 2.0)
    for _ in range(100):
        average.update()
    value = average.tensors["m.weight"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, torch.full((2, 2), 2 - 0.9999**100), rtol=1e-5, atol=0)


def test_the_modules_hold_it_only_inside_even_after_an_error():
    layer = constant(1.0)
    average = Average({"m": layer}, decay=0.5)
    put(layer, 3.0)
    seen = []

    def fail() -> None:
        with average.applied():
            seen.append(layer.weight[0, 0].item())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [1.0]
    assert layer.weight[0, 0] == 3.0


def test_it_can_be_put_into_a_copy_or_kept():
    layer, copy = constant(1.0), constant(7.0).requires_grad_(requires_grad=False)
    average = Average({"m": layer}, decay=0.5)
    put(layer, 3.0)
    with average.applied({"m": copy}):
        assert copy.weight[0, 0] == 1.0
        assert layer.weight[0, 0] == 3.0
    assert copy.weight[0, 0] == 7.0
    average.adopt()
    assert layer.weight[0, 0] == 1.0


def test_frozen_parameters_are_left_out():
    layer = constant(1.0)
    layer.bias.requires_grad_(requires_grad=False)
    assert set(Average({"m": layer}, decay=0.5).tensors) == {"m.weight"}


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Average({"m": constant(1.0)}, decay)
