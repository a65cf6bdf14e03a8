from pathlib import Path

import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import (
    build_autoencoder,
    decode,
    latent_factor,
    load_autoencoder,
    posterior,
    set_posterior_logvar,
    standardise_latents,
    to_network_range,
    to_pixels,
    to_unit_range,
    weights_hash,
)
from tests.tiny_models import CONFIG, pictures


@pytest.fixture
def vae():
    return build_autoencoder(CONFIG["vae"], seed=3).eval().requires_grad_(False)


def test_weights_depend_on_the_seed_alone(vae) -> None:
    before = torch.random.get_rng_state()
    again = build_autoencoder(CONFIG["vae"], seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights_hash(again) == weights_hash(vae)
    assert weights_hash(build_autoencoder(CONFIG["vae"], seed=4)) != weights_hash(vae)


def test_hash_covers_the_scaling_factor(vae) -> None:
    before = weights_hash(vae)
    vae.register_to_config(scaling_factor=0.25)
    assert weights_hash(vae) != before


def test_ranges() -> None:
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.allclose(to_unit_range(bytes_), torch.tensor([0, 0.2, 1.0]))
    assert torch.allclose(to_network_range(bytes_), torch.tensor([-1, -0.6, 1.0]))
    assert to_pixels(torch.tensor([-2.0, 0.0, 2.0])).tolist() == [0, 0.5, 1]
    with pytest.raises(TypeError, match="int64"):
        to_unit_range(torch.tensor([1]))


def test_posterior_is_scaled_and_decodes_to_the_same_picture(vae) -> None:
    pixels = pictures(2)
    raw = vae.encode(pixels.float() / 127.5 - 1).latent_dist
    mean, logvar = posterior(vae, pixels)
    assert mean.shape == (2, 4, 64 // latent_factor(vae), 16)
    torch.testing.assert_close(mean, raw.mean * 0.5)
    # The variance of a scaled variable grows by the square of the scale.
    torch.testing.assert_close(logvar.exp(), raw.logvar.exp() * 0.25)
    torch.testing.assert_close(
        decode(vae, mean), (vae.decode(raw.mean).sample / 2 + 0.5).clamp(0, 1)
    )


def test_shift_and_channel_statistics_of_a_config_are_used(vae) -> None:
    pixels = pictures(1)
    raw = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mean
    vae.register_to_config(shift_factor=0.25)
    torch.testing.assert_close(posterior(vae, pixels)[0], (raw - 0.25) * 0.5)
    m, s = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    vae.register_to_config(latents_mean=m.tolist(), latents_std=s.tolist())
    mean, _ = posterior(vae, pixels)
    torch.testing.assert_close(mean, (raw - m.view(1, 4, 1, 1)) / s.view(1, 4, 1, 1) * 0.5)
    torch.testing.assert_close(decode(vae, mean), (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))


def test_standardised_latents_have_unit_moments_and_the_same_pictures(vae) -> None:
    pixels = pictures(3)
    distribution = vae.encode(to_network_range(pixels)).latent_dist
    raw, logvar = distribution.mean, distribution.logvar
    shown = vae.decode(raw).sample
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    standardise_latents(vae, mean, std)
    now, now_logvar = posterior(vae, pixels)
    torch.testing.assert_close(now.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(now.std((0, 2, 3)), torch.ones(4))
    torch.testing.assert_close(
        now_logvar, logvar - 2 * std.log().view(1, 4, 1, 1), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(decode(vae, now), to_pixels(shown), atol=1e-5, rtol=0)


def test_posterior_logvar_can_be_set(vae) -> None:
    set_posterior_logvar(vae, -6.0)
    logvar = vae.encode(to_network_range(pictures(2))).latent_dist.logvar
    assert abs(float(logvar.mean()) + 6) < 1.5


def test_load_takes_the_folder_or_its_pipeline(vae, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "whole" / "vae")
    for path in (tmp_path / "whole", tmp_path / "whole" / "vae"):
        assert weights_hash(load_autoencoder(path)) == weights_hash(vae)
    with pytest.raises(InputError, match="AutoencoderKL"):
        load_autoencoder(tmp_path)
