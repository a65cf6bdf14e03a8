"""Noise and timesteps: from the sample's own key, whatever batch it lands in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.diffusion.noise import batch_noise, noise
from tastemaker.diffusion.timesteps import timestep, timesteps
from tastemaker.records.draws import Draw

SHAPE = (4, 3, 5)


def named(purpose: str, count: int, seed: int = 7) -> list[Draw]:
    return [Draw(seed, purpose, f"image-{i}") for i in range(count)]


@given(st.permutations(range(6)), st.integers(1, 5))
def test_the_batch_does_not_matter(order: list[int], cut: int) -> None:
    """Any order, any split into micro-batches: every sample keeps its noise and its timestep."""
    noises, steps = named("noise", 6), named("timestep", 6)
    whole, t = batch_noise(noises, SHAPE), timesteps(steps, 0, 999)
    for part in (order[:cut], order[cut:]):
        assert torch.equal(batch_noise([noises[i] for i in part], SHAPE), whole[list(part)])
        assert torch.equal(timesteps([steps[i] for i in part], 0, 999), t[list(part)])


def test_noise_is_float32_of_the_asked_shape() -> None:
    whole = batch_noise(named("noise", 2), SHAPE)
    assert (whole.shape, whole.dtype, whole.device.type) == ((2, *SHAPE), torch.float32, "cpu")
    assert noise(named("offset", 1)[0], [4]).shape == (4,)


def test_noise_is_numpys_philox() -> None:
    draw = Draw(1, "noise", "a", 3)
    expected = np.random.Generator(np.random.Philox(key=draw.key())).standard_normal(
        SHAPE, "float32"
    )
    assert np.array_equal(noise(draw, SHAPE), expected)


def test_noise_is_standard_normal_and_independent() -> None:
    from scipy.stats import kstest

    values = batch_noise(named("noise", 100), (4, 5, 5)).reshape(100, 100).double()
    assert kstest(values.flatten().numpy(), "norm").pvalue > 0.01
    between = torch.corrcoef(values) - torch.eye(100)
    assert between.abs().max() < 0.5  # 4,950 pairs of 100 numbers: 5 sigma


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 2**31))
def test_the_range_is_hard_and_holds_both_ends(a: int, b: int, seed: int) -> None:
    least, most = min(a, b), max(a, b)
    t = timesteps(named("timestep", 8, seed), least, most)
    assert t.dtype == torch.int64
    assert least <= t.min() <= t.max() <= most


def test_every_timestep_of_the_range_comes_up_equally_often() -> None:
    from scipy.stats import chisquare

    t = timesteps(named("timestep", 2000), 3, 7)
    counts = torch.bincount(t - 3, minlength=5)
    assert len(counts) == 5
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("least", "most"), [(5, 4), (-1, 10)])
def test_an_empty_range_is_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="is empty or below 0"):
        timestep(Draw(0, "timestep", "a"), least, most)
