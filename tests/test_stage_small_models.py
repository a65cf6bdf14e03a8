"""From a folder of pictures to a small SDXL and a small CLIP, step by step."""

from pathlib import Path

import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.models.autoencoder import load_autoencoder
from tastemaker.models.family import load_family
from tastemaker.models.image_text import ImageText
from tastemaker.models.tokenizer import load_tokenizer
from tastemaker.records.run import Artefact
from tastemaker.stages import assemble, cache, fit, fit_autoencoder, fit_image_text, fit_tokenizer
from tastemaker.training.autoencoder import AutoencoderTask, latent_statistics
from tests.tiny_models import CLIP, CONFIG, WINDOW
from tests.tiny_run import collected, run_step, step_dir, write_pictures

ENCODING = {
    "images_total": 16,
    "batch": 4,
    "size_px": 32,
    "held_out": 2,
    "save_every_images": 8,
    "log_every_images": 4,
    "optimizer": {"lr": 1e-3},
    "architecture": CONFIG["vae"],
}
MATCHING = {
    "images_total": 18,
    "batch": 4,
    "size_px": 16,
    "held_out": 2,
    "save_every_images": 8,
    "text": CLIP["text_config"],
    "vision": CLIP["vision_config"],
    "projection_dim": 16,
    "caption_weights": (1.0, 1.0),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    """A collection, a selection, a tokenizer and an autoencoder."""
    root = tmp_path_factory.mktemp("small")
    made = collected(root, write_pictures(root / "pictures", 8))
    _, tokens = run_step(
        fit_tokenizer, step_dir(root, "tokenizer"), made, vocabulary=560, max_tokens=WINDOW
    )
    _, coder = run_step(fit_autoencoder, step_dir(root, "autoencoder"), made, **ENCODING)
    return {**made, **tokens, "autoencoder": coder["model"]}


def test_the_tokenizer_has_the_window_and_knows_the_captions(given):
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = load_tokenizer(Path(given["tokenizer"].path) / name)
        assert tokenizer.model_max_length == WINDOW
        assert len(tokenizer) <= 560
    assert "the cat" in tokenizer.decode(tokenizer("the cat").input_ids)


def test_the_exported_autoencoder_has_latents_with_mean_0_and_deviation_1(given, tmp_path):
    from tastemaker.records.size import Size
    from tastemaker.store.pictures import load_pictures, split_held_out

    vae = load_autoencoder(Path(given["autoencoder"].path))
    assert vae.config["scaling_factor"] == 1.0
    places = Path(given["collection"].path), Path(given["selection"].path)
    loaded = load_pictures(*places, Size(32, 32))
    trained, held_out = split_held_out(loaded, 2)
    assert (len(trained), len(held_out)) == (6, 2)
    tensors = [torch.from_numpy(loaded[i].pixels).permute(2, 0, 1) for i in trained]
    mean, std = latent_statistics(vae, tensors)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-3)


def test_a_killed_autoencoder_fit_resumes_bit_for_bit(given, tmp_path, monkeypatch):
    step, terms, calls = step_dir(tmp_path, "autoencoder"), AutoencoderTask.terms, []

    def terms_or_die(self, visits):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return terms(self, visits)

    monkeypatch.setattr(AutoencoderTask, "terms", terms_or_die)
    with pytest.raises(KeyboardInterrupt):
        run_step(fit_autoencoder, step, given, **ENCODING)
    monkeypatch.undo()
    run_step(fit_autoencoder, step, given, **ENCODING)
    straight, resumed = (
        load_autoencoder(folder).state_dict()
        for folder in (Path(given["autoencoder"].path), step.path / "model")
    )
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def test_the_assembled_model_can_be_cached_for_and_fitted(given, tmp_path):
    parts = {name: CONFIG[name] for name in ("unet", "text_encoder", "text_encoder_2", "scheduler")}
    manifest, made = run_step(assemble, step_dir(tmp_path, "assemble"), given, **parts, seed=4)
    assert manifest.counts["parameters of unet"] > 0
    family = load_family(Path(made["model"].path))
    assert family.schedule().prediction_type == "v_prediction"
    own = load_autoencoder(Path(given["autoencoder"].path)).state_dict()
    assert all(torch.equal(family.parts["vae"].state_dict()[n], t) for n, t in own.items())
    made = {**given, **made}
    _, cached = run_step(cache, step_dir(tmp_path, "cache"), made, size_px=32)
    fields = {"images_total": 8, "batch": 4, "method": {"kind": "full"}}
    _, fitted = run_step(fit, step_dir(tmp_path, "fit"), {**made, **cached}, **fields)
    assert load_family(Path(fitted["model"].path)).parts.keys() == family.parts.keys()


def test_the_image_text_model_loads_and_embeds(given, tmp_path):
    manifest, made = run_step(fit_image_text, step_dir(tmp_path, "clip"), given, **MATCHING)
    assert manifest.counts == {"images": 18, "held out": 2}  # three epochs of 6
    assert "validation/accuracy" in manifest.results
    clip = ImageText.load(Path(made["model"].path))
    embedded = clip.embed_texts(["the cat", "a red apple"])
    assert embedded.shape == (2, 16)
    assert torch.isfinite(embedded).all()


@pytest.mark.parametrize("held_out", [0, 3])
def test_an_image_text_model_needs_captions(tmp_path, given, held_out):
    folder = write_pictures(tmp_path / "pictures", 4)
    for file in folder.glob("0[0-2].txt"):
        file.unlink()
    bare = {**given, **collected(tmp_path, folder)}
    with pytest.raises(InputError, match=r"3 pictures without a caption.*Add captions"):
        run_step(
            fit_image_text, step_dir(tmp_path, "c"), bare, **{**MATCHING, "held_out": held_out}
        )


def test_a_tokenizer_needs_captions_too(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 2)
    for file in folder.glob("*.txt"):
        file.unlink()
    with pytest.raises(InputError, match=r"no caption.*Select pictures that have captions"):
        run_step(fit_tokenizer, step_dir(tmp_path, "t"), collected(tmp_path, folder))


@pytest.mark.parametrize(
    ("stage", "fields"), [(fit_autoencoder, ENCODING), (fit_image_text, MATCHING)]
)
def test_something_must_be_left_to_train_on(stage, fields, given, tmp_path):
    with pytest.raises(InputError, match=r"fewer than the 8 pictures.*Lower held_out"):
        run_step(stage, step_dir(tmp_path, "s"), given, **{**fields, "held_out": 8})
