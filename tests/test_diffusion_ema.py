"""Moving averages of weights: exact at the ends, right in between."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.diffusion.ema import ema_update, warm_decay


def weights(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in [(3, 4), (5,), ()]]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decay_one_is_frozen_and_decay_zero_is_the_policy(dtype: torch.dtype) -> None:
    average, current = weights(0), weights(1, dtype)
    ema_update(average, current, 1.0)
    assert same(average, weights(0))
    ema_update(average, current, 0.0)
    assert same(average, [c.float() for c in current])


@given(st.floats(0.0, 1.0))
def test_golden(decay: float) -> None:
    average, current = weights(0), weights(1)
    expected = [
        decay * a.double() + (1 - decay) * c.double() for a, c in zip(average, current, strict=True)
    ]
    ema_update(average, current, decay)
    for found, exact in zip(average, expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)


def test_many_updates_are_a_weighted_sum_of_the_past() -> None:
    average, decay = [torch.zeros(1)], 0.9
    for n in range(1, 30):
        ema_update(average, [torch.full((1,), float(n))], decay)
    expected = sum(0.1 * 0.9 ** (29 - n) * n for n in range(1, 30))
    assert average[0].item() == pytest.approx(expected, rel=1e-5)


def test_it_moves_even_at_a_slow_decay() -> None:
    """1 - 0.9999 of a bfloat16 policy is far below half precision's step."""
    average, current = [torch.ones(1)], [torch.full((1,), 2.0, dtype=torch.bfloat16)]
    ema_update(average, current, 0.9999)
    assert average[0].item() == pytest.approx(1.0001, rel=1e-6)


def test_in_place_without_gradient_and_the_policy_untouched() -> None:
    average, current = weights(0), [w.requires_grad_() for w in weights(1)]
    kept = average[0]
    ema_update(average, current, 0.5)
    assert kept is average[0]
    assert not kept.requires_grad
    assert same([c.detach() for c in current], weights(1))


@pytest.mark.parametrize(
    ("average", "current", "decay", "message"),
    [
        ([torch.zeros(2)], [], 0.5, "number or shape"),
        ([torch.zeros(2)], [torch.zeros(1)], 0.5, "number or shape"),
        ([torch.zeros(2).bfloat16()], [torch.zeros(2)], 0.5, "float32"),
        ([torch.zeros(2)], [torch.zeros(2)], 1.5, "decay"),
    ],
)
def test_misuse_is_refused(average: list, current: list, decay: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ema_update(average, current, decay)


def test_warm_up_of_the_decay() -> None:
    assert [warm_decay(0.999, n) for n in (0, 8, 90)] == pytest.approx([0.1, 0.5, 0.91])
    assert warm_decay(0.999, 10**6) == 0.999
    assert warm_decay(0.0, 5) == 0.0
    decays = [warm_decay(0.95, n) for n in range(300)]
    assert decays == sorted(decays)
