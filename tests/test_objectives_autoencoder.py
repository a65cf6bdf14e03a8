"""The autoencoder's terms against their formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.objectives.autoencoder import (
    Autoencoding,
    edge_distance,
    kl_to_standard_normal,
    psnr,
)


def sample(count: int = 3) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (count, 3, 6, 5))
    answer = pixels + 0.1 * rng.standard_normal(pixels.shape)
    mean, logvar = rng.standard_normal((2, count, 4, 3, 2))
    return tuple(torch.tensor(a) for a in (pixels, answer, mean, logvar))


def numpy_distance(name: str, x: np.ndarray, y: np.ndarray, below: float) -> float:
    d = np.abs(x - y)
    if name == "l1":
        return d.mean()
    if name == "mse":
        return (d**2).mean()
    return np.where(d < below, 0.5 * d**2 / below, d - 0.5 * below).mean()


@pytest.mark.parametrize("distance", ["l1", "smooth_l1", "mse"])
@pytest.mark.parametrize("edge_weight", [0.0, 0.7])
def test_golden(distance: str, edge_weight: float) -> None:
    tensors = sample()
    terms = Autoencoding(distance, 0.08, edge_weight, 0.01)(*tensors)  # type: ignore[arg-type]
    expected = []
    for x, y, m, s in zip(*(t.numpy() for t in tensors), strict=True):
        kl = np.mean(0.5 * (m**2 + np.exp(s) - 1 - s))
        across = np.abs((x[:, :, 1:] - x[:, :, :-1]) - (y[:, :, 1:] - y[:, :, :-1])).mean()
        down = np.abs((x[:, 1:] - x[:, :-1]) - (y[:, 1:] - y[:, :-1])).mean()
        expected.append(
            numpy_distance(distance, x, y, 0.08) + edge_weight * (across + down) + 0.01 * kl
        )
    np.testing.assert_allclose(terms.per_sample, expected, rtol=1e-12)
    mse = ((tensors[0] - tensors[1]).numpy() ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(terms.metrics["mse"], mse, rtol=1e-12)
    np.testing.assert_allclose(terms.metrics["psnr"], 10 * np.log10(4 / mse), rtol=1e-12)


def test_a_picture_knows_nothing_of_its_batch() -> None:
    tensors = sample()
    whole = Autoencoding(edge_weight=1.0)(*tensors).per_sample
    alone = [
        Autoencoding(edge_weight=1.0)(*(t[i : i + 1] for t in tensors)).per_sample for i in range(3)
    ]
    assert torch.equal(torch.cat(alone), whole)


def test_kl_is_that_of_torch_distributions() -> None:
    _, _, mean, logvar = sample()
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    np.testing.assert_allclose(
        kl_to_standard_normal(mean, logvar), exact.mean((1, 2, 3)), rtol=1e-12
    )


@given(st.floats(-5, 5), st.floats(-8, 5))
def test_kl_is_zero_only_at_the_standard_normal(mean: float, logvar: float) -> None:
    kl = kl_to_standard_normal(
        *(torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (mean, logvar))
    ).item()
    assert kl >= -1e-15
    if abs(mean) > 1e-3 or abs(logvar) > 1e-3:
        assert kl > 0
    zero = torch.zeros(1, 4, 2, 2)
    assert kl_to_standard_normal(zero, zero).item() == 0.0


def test_a_perfect_picture() -> None:
    pixels, _, _, _ = sample()
    zero = torch.zeros(3, 4, 3, 2, dtype=torch.float64)
    terms = Autoencoding(edge_weight=1.0)(pixels, pixels.clone(), zero, zero)
    assert torch.equal(terms.per_sample, torch.zeros(3, dtype=torch.float64))
    assert bool(terms.metrics["psnr"].isfinite().all())


def test_the_edge_term_sees_blur_but_not_brightness() -> None:
    step = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    step[..., 2:] = 1.0
    blurred = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64).expand(1, 1, 4, 4)
    assert edge_distance(step, step + 0.5).item() == 0.0
    assert edge_distance(step, blurred).item() == pytest.approx((0.25 + 0.5 + 0.25) / 3)
    assert edge_distance(step, -step).item() == pytest.approx(2 / 3)


def test_psnr_of_known_errors() -> None:
    """One 8-bit step on [-1, 1] is 2/255: 20 log10(255) = 48.13 dB."""
    found = psnr(torch.tensor([(2 / 255) ** 2, 4.0, 0.04], dtype=torch.float64))
    assert found.tolist() == pytest.approx([20 * math.log10(255), 0.0, 20.0])


def test_half_precision_is_widened_and_gradients_flow() -> None:
    pixels, answer, mean, logvar = (t.bfloat16() for t in sample())
    answer.requires_grad_()
    logvar.requires_grad_()
    terms = Autoencoding("smooth_l1", edge_weight=0.5)(pixels, answer, mean, logvar)
    assert terms.per_sample.dtype == torch.float32
    terms.per_sample.mean().backward()
    assert answer.grad is not None
    assert logvar.grad is not None
    assert bool(answer.grad.isfinite().all())
    assert not any(m.requires_grad for m in terms.metrics.values())
