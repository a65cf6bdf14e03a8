"""Validation on a fixed grid."""

import numpy as np
import pytest
import torch

from tastemaker.diffusion.noise import batch_noise
from tastemaker.errors import Diverged
from tastemaker.records.draws import Draw
from tastemaker.training.validate import even_timesteps, fixed_grid, validate

IDS, TIMES = ["a", "b", "c"], (10, 500)


def errors_of(points):
    """A made-up error that depends on image, timestep and noise."""
    noise = batch_noise([point.draw for point in points], (2, 2, 2)).square().flatten(1).mean(1)
    return noise + torch.tensor([ord(p.sample_id) / p.timestep for p in points])


def test_means_are_over_the_grid():
    values = {
        (i, t): Draw(3, "validation noise", i, t).generator().standard_normal((2, 2, 2), np.float32)
        for i in IDS for t in TIMES
    }  # fmt: skip
    expected = {
        t: np.mean([np.mean(values[i, t].astype(np.float64) ** 2) + ord(i) / t for i in IDS])
        for t in TIMES
    }
    found = validate(errors_of, fixed_grid(IDS, TIMES, seed=3), batch=2)
    assert found.by_timestep == pytest.approx(expected, rel=1e-6)
    assert found.mean == pytest.approx(np.mean(list(expected.values())), rel=1e-6)
    assert found.images == 3
    assert list(found.figures("stable")) == ["stable/loss", "stable/loss_t10", "stable/loss_t500"]


def test_neither_batch_nor_buckets_nor_earlier_calls_change_it():
    points = fixed_grid(IDS, TIMES, seed=3)
    first = validate(errors_of, points, batch=6)
    calls = []

    def recorded(some):
        calls.append({point.sample_id == "b" for point in some})
        return errors_of(some)

    assert validate(recorded, points, batch=2, bucket_of=lambda i: i == "b") == first
    assert all(len(kinds) == 1 for kinds in calls)
    assert validate(errors_of, fixed_grid(IDS, TIMES, seed=4), batch=6) != first


def test_every_point_has_noise_of_its_own():
    points = fixed_grid(IDS, TIMES, seed=0)
    assert len({point.draw.key() for point in points}) == len(points) == 6


def test_it_builds_no_graph():
    weight = torch.ones((), requires_grad=True)
    seen = []

    def errors(points):
        value = weight * errors_of(points)
        seen.append(value.requires_grad)
        return value

    validate(errors, fixed_grid(IDS, TIMES, 0), batch=4)
    assert seen == [False, False]


def test_timesteps_are_the_middles_of_equal_parts():
    assert even_timesteps(4, 1000) == (125, 375, 625, 875)
    assert even_timesteps(1, 1000) == (500,)
    assert even_timesteps(5, 5) == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match="timesteps"):
        even_timesteps(0, 1000)


def test_an_error_that_is_not_finite_names_image_and_timestep():
    def errors(points):
        return torch.tensor([float("nan") if p.sample_id == "b" else 1.0 for p in points])

    with pytest.raises(Diverged, match="2 errors .*b at t=10, b at t=500"):
        validate(errors, fixed_grid(IDS, TIMES, 0), batch=4)


def test_a_wrong_shape_and_an_empty_grid_are_refused():
    with pytest.raises(ValueError, match="errors of 4 points"):
        validate(lambda p: torch.tensor(1.0), fixed_grid(IDS, TIMES, 0), batch=4)
    with pytest.raises(ValueError, match="at least one image"):
        validate(errors_of, (), batch=4)
