"""The three tasks: what a visit's loss depends on, and what it must not depend on."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tastemaker.curation.prompts import CaptionPrompt
from tastemaker.diffusion.noise import noise
from tastemaker.models.autoencoder import build_autoencoder, standardise_latents
from tastemaker.models.image_text import ImageText
from tastemaker.objectives.autoencoder import Autoencoding
from tastemaker.objectives.contrastive import Contrastive
from tastemaker.objectives.sft import SFT
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.training import diffusion
from tastemaker.training.autoencoder import AutoencoderTask, dihedral, latent_statistics
from tastemaker.training.diffusion import DiffusionTask
from tastemaker.training.image_text import ImageTextTask
from tastemaker.training.prompting import Prompter
from tests.tiny_models import CLIP, CONFIG, WORDS, pictures, tiny_sdxl, tokenizers

IDS = ("a", "b", "c", "d", "e")
WIDE = ("d", "e")
RECORDS = {
    name: ImageRecord(
        id=name, path=name, source="s", key=f"concept {name}", size=Size(32, 32),
        captions=(text, f"{text} again"),
    )
    for name, text in zip(IDS, WORDS, strict=False)
}  # fmt: skip
VISITS = [Visit("a", 0), Visit("b", 3), Visit("c", 1), Visit("a", 7)]
TEXT = ("unet", "text_encoder_1", "text_encoder_2")


def latent_of(sample_id: str, _visit: int) -> tuple[Tensor, ImageSizes]:
    target = Size(16, 32) if sample_id in WIDE else Size(32, 32)
    latent = noise(Draw(1, "latent", sample_id), (4, target.h // 4, target.w // 4))
    return latent, ImageSizes(Size(32, 32), 0, 0, target)


def task(parts: Sequence[str] = ("unet",), **grids: Sequence[str]) -> DiffusionTask:
    family = tiny_sdxl()
    family.trainable(parts)
    chosen = {name: family.parts[name] for name in parts}
    texts = Prompter(RECORDS, CaptionPrompt(weights=(1.0, 1.0), empty=0.2), 0)
    return DiffusionTask(family, chosen, texts, latent_of, SFT(), seed=0, **grids)


# --- diffusion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("unet",), TEXT])
def test_a_visits_loss_does_not_depend_on_its_neighbours(parts):
    made = task(parts)
    whole = made.terms(VISITS).per_sample.detach()
    for order in ([3, 1, 0, 2], [2], [0, 3]):
        some = made.terms([VISITS[i] for i in order]).per_sample.detach()
        torch.testing.assert_close(some, whole[order], rtol=1e-4, atol=1e-6)
    assert len({round(float(loss), 6) for loss in whole}) == 4  # another visit, another draw


def test_gradients_of_micro_batches_add_up_to_the_batchs():
    grads = []
    for size in (4, 2, 1):
        made = task(TEXT)
        for start in range(0, 4, size):
            (made.terms(VISITS[start : start + size]).per_sample.sum() / 4).backward()
        grads.append({n: p.grad for n, p in made.family.parts["unet"].named_parameters()})
    for name, gradient in grads[0].items():
        scale = float(gradient.abs().max())
        for other in grads[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_only_text_encoders_that_are_trained_get_gradients():
    frozen, trained = task(), task(TEXT)
    for made in (frozen, trained):
        made.terms(VISITS).per_sample.sum().backward()
    first = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    for name in TEXT[1:]:
        got = {
            n.removeprefix("text_model."): p.grad for n, p in trained.parts[name].named_parameters()
        }
        assert got[first.removeprefix("text_model.")].abs().max() > 0
        assert all(p.grad is None for p in frozen.family.parts[name].parameters())


def test_frozen_text_states_are_the_encoders_own_and_do_not_depend_on_autocast():
    made = task()
    with torch.autocast("cpu", torch.bfloat16):
        made.terms(VISITS)
    assert made._text_states
    for (text, windows), states in made._text_states.items():
        own = made.family.encode_text([text], windows)
        assert torch.equal(states.context, own.context), text
        assert torch.equal(states.pooled, own.pooled), text


def test_the_fixed_grids_move_with_the_model_only(monkeypatch):
    monkeypatch.setattr(diffusion, "GRID_TIMESTEPS", 3)
    made = task(held_out=("d", "a"), stable=("b", "c"))
    first = made.validate()
    assert len(first) == 2 * (1 + 3)
    made.terms(VISITS)
    assert made.validate() == first
    monkeypatch.setattr(diffusion, "GRID_BATCH", 3)
    assert made.validate() == pytest.approx(first, rel=1e-4)
    swapped = task(held_out=("a", "d"), stable=("c", "b")).validate()
    assert swapped == pytest.approx(first, rel=1e-4)
    with torch.no_grad():
        made.family.parts["unet"].conv_out.bias += 0.1
    assert all(made.validate()[name] != value for name, value in first.items())
    assert task().validate() == {}


# --- autoencoder ---------------------------------------------------------------------------------


def coded(**options: Sequence[str]) -> AutoencoderTask:
    tensors = dict(zip(IDS, pictures(5, side=16), strict=True))
    vae = build_autoencoder(CONFIG["vae"], seed=1)
    return AutoencoderTask(vae, tensors, Autoencoding(), seed=0, **options)


def test_the_eight_symmetries_are_eight():
    picture = torch.arange(3 * 9).view(3, 3, 3)
    seen = {tuple(dihedral(picture, which).flatten().tolist()) for which in range(8)}
    assert len(seen) == 8
    assert torch.equal(dihedral(picture, 0), picture)
    assert torch.equal(dihedral(picture, 4), picture.flip(2))


def test_a_pictures_reconstruction_does_not_depend_on_its_neighbours():
    made = coded(held_out=("d", "e"))
    whole = made.terms(VISITS).per_sample.detach()
    alone = torch.cat([made.terms([visit]).per_sample.detach() for visit in VISITS])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-6)
    figures = made.validate()
    assert figures.keys() == {"validation/mse", "validation/psnr_db"}
    assert figures == made.validate()
    assert coded().validate() == {}


def test_measured_statistics_standardise_without_changing_pictures():
    made = coded()
    shown = list(made.pictures.values())
    inputs = torch.stack(shown).float() / 127.5 - 1
    with torch.no_grad():
        before = made.vae.decode(made.vae.encode(inputs).latent_dist.mean).sample
        standardise_latents(made.vae, *latent_statistics(made.vae, shown, batch=2))
        after = made.vae.decode(made.vae.encode(inputs).latent_dist.mean).sample
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    mean, std = latent_statistics(made.vae, shown)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-4)


# --- image and text ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ImageText:
    folder = tokenizers(tmp_path_factory.mktemp("tokenizers"))
    return ImageText.build(CLIP, folder / "tokenizer", seed=0)


def matched(clip: ImageText, records=RECORDS, **options: Sequence[str]) -> ImageTextTask:
    tensors = dict(zip(IDS, pictures(5, side=16), strict=True))
    texts = Prompter(records, CaptionPrompt(weights=(1.0, 1.0), empty=0), 0)
    return ImageTextTask(clip, texts, tensors, Contrastive(), seed=0, **options)


def test_contrastive_terms_are_of_the_whole_batch_and_repeat(clip):
    made = matched(clip, held_out=("d", "e"))
    assert made.whole_batch
    visits = [Visit(name, 0) for name in ("a", "b", "c")]
    first = made.terms(visits)
    assert torch.equal(made.terms(visits).per_sample, first.per_sample)
    turned = made.terms(visits[::-1]).per_sample
    torch.testing.assert_close(turned, first.per_sample.flip(0), rtol=1e-4, atol=1e-5)
    assert made.validate() == made.validate()
    assert {"validation/loss", "validation/accuracy"} <= made.validate().keys()
    assert matched(clip).validate() == {}


def test_the_scale_of_the_logits_has_clips_ceiling(clip):
    made, visits = matched(clip), [Visit(name, 0) for name in ("a", "b", "c")]
    scale = clip.model.logit_scale
    before = scale.detach().clone()
    with torch.no_grad():
        scale.fill_(math.log(100.0))
        at_ceiling = made.terms(visits).per_sample
        scale.fill_(50.0)
        above = made.terms(visits).per_sample
        scale.copy_(before)
    assert torch.equal(at_ceiling, above)


def test_shifted_pictures_keep_their_size_and_colours(clip):
    made = matched(clip)
    picture = made.pictures["a"]
    shifted = [made._augmented(Visit("a", visit)) for visit in range(20)]
    assert all(one.shape == picture.shape and one.dtype == torch.uint8 for one in shifted)
    assert all(set(one.flatten().tolist()) <= set(picture.flatten().tolist()) for one in shifted)
    assert len({tuple(one.flatten().tolist()) for one in shifted}) > 10
