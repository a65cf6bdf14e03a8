"""The error of one picture."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.diffusion.errors import per_image_mse


def pair(dtype: torch.dtype, shape: tuple[int, ...] = (3, 2, 4, 5)) -> tuple[torch.Tensor, ...]:
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a.to(dtype), b.to(dtype)


def test_golden() -> None:
    a, b = pair(torch.float64)
    expected = [np.sum((x - y) ** 2) / x.size for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(per_image_mse(a, b), expected, rtol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_a_picture_knows_nothing_of_its_batch(rows: list[int]) -> None:
    a, b = pair(torch.float32, (5, 2, 3, 3))
    assert torch.equal(per_image_mse(a[rows], b[rows]), per_image_mse(a, b)[rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_squared_and_averaged_in_float32(dtype: torch.dtype) -> None:
    """Half precision would lose the last digits: the answer equals that on the widened inputs."""
    a, b = pair(dtype, (2, 4, 32, 32))
    found = per_image_mse(a, b)
    assert found.dtype == torch.float32
    assert torch.equal(found, per_image_mse(a.float(), b.float()))
    np.testing.assert_allclose(found, (a.double() - b.double()).square().mean((1, 2, 3)), rtol=1e-6)


def test_a_large_half_precision_error_does_not_overflow() -> None:
    a = torch.full((1, 1, 2, 2), 60000.0, dtype=torch.float16)
    assert per_image_mse(a, -a).item() == pytest.approx(120000.0**2, rel=1e-3)


def test_gradient_is_that_of_the_mean_square() -> None:
    a, b = pair(torch.float64)
    a.requires_grad_()
    per_image_mse(a, b).sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad, 2 * (a.detach() - b) / 40, rtol=1e-12)


def test_shapes_that_would_broadcast_are_refused() -> None:
    """By the shape check while testing, by our own error in the product."""
    a, _ = pair(torch.float32)
    with pytest.raises(Exception, match="equal shapes|Type-check"):
        per_image_mse(a, a[:1])


def test_weights_for_other_cells_are_refused() -> None:
    a, b = pair(torch.float32)
    for weight in (torch.ones(3, 1, 5, 4), torch.ones(1, 1, 4, 5), torch.ones(3, 2, 4, 5)):
        with pytest.raises(Exception, match="a number for each latent cell|Type-check"):
            per_image_mse(a, b, weight)


def test_a_mask_of_nothing_is_no_number() -> None:
    """It must never be a loss of 0: the run would go on, and learn nothing from the picture."""
    a, b = pair(torch.float32)
    assert per_image_mse(a, b, torch.zeros(3, 1, 4, 5)).isnan().all()
