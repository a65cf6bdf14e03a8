import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.errors import InputError
from tastemaker.models.family import FAMILIES
from tastemaker.models.presets import PRESETS, preset
from tastemaker.models.sampling import make_sampler
from tastemaker.records.size import Size
from tests.full_size import SCHEDULER
from tests.tiny_models import tiny_family

OWN = DiscreteSchedule.from_config(SCHEDULER)


def test_turbo_is_trained_at_its_four_steps_with_zero_terminal_snr() -> None:
    turbo = preset("sdxl-turbo")
    assert (turbo.size, turbo.guidance, turbo.empty_captions) == (Size(512, 512), 0, 0)
    assert 1 <= turbo.steps <= 4
    schedule = turbo.schedule(OWN)
    times = turbo.training_timesteps(OWN)
    assert times == (249, 499, 749, 999)
    expected = torch.tensor([0.6542, 0.2424, 0.0332, 0.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha_bar[list(times)], expected, atol=5e-5, rtol=0)
    # At 999 both pictures of a pair are the same noise: no gradient.
    assert turbo.training_timesteps(OWN, informative=True) == (249, 499, 749)
    # What is rescaled already stays.
    assert turbo.schedule(schedule) is schedule


def test_turbo_samples_where_it_is_trained() -> None:
    turbo = preset("sdxl-turbo")
    sampler = make_sampler("ddim", {**SCHEDULER, "timestep_spacing": "leading"}, turbo.spacing)
    sampler.set_timesteps(turbo.steps)
    assert sampler.timesteps.tolist() == [999, 749, 499, 249]


def test_what_we_set_in_a_scheduler_holds_over_defaults() -> None:
    """diffusers drops a setting that the config lists as left at its default."""
    own = DDIMScheduler.from_config(dict(SCHEDULER)).config  # type: ignore[union-attr]
    assert {"clip_sample", "timestep_spacing"} <= set(own["_use_default_values"])
    sampler = make_sampler("ddim", own, "trailing")
    assert sampler.config.timestep_spacing == "trailing"
    assert sampler.config.clip_sample is False  # latents have no bounds


def test_the_refiner_is_trained_on_low_noise() -> None:
    times = preset("sdxl-refiner").training_timesteps(OWN)
    assert (times[0], times[-1], len(times)) == (0, 199, 200)


def test_others_use_the_whole_schedule_as_it_is() -> None:
    plain = preset("sdxl")
    assert plain.schedule(OWN) is OWN
    assert plain.training_timesteps(OWN) == tuple(range(1000))


def test_a_preset_is_applied_to_its_own_architecture() -> None:
    family = tiny_family("sdxl")
    preset("sdxl-turbo").apply(family)
    assert family.schedule().alpha_bar[-1] == 0
    with pytest.raises(InputError, match="architecture sdxl"):
        preset("sd15").apply(family)


def test_every_preset_is_of_a_known_architecture() -> None:
    assert {each.family for each in PRESETS.values()} == set(FAMILIES)
    with pytest.raises(InputError, match="sdxl-turbo"):
        preset("turbo")
