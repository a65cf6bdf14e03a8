import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.errors import InputError, MissingModel
from tastemaker.models.family import Conditioning, TextStates, family_class, load_family
from tastemaker.models.quiet import quiet
from tastemaker.models.sdxl import SDXLFamily
from tastemaker.records.size import ImageSizes, Size
from tests.tiny_models import WINDOW, pictures, saved_sdxl, tiny_sdxl

PROMPTS = ["a red apple", "the tiger's green tree", ""]
SIZES = [ImageSizes(Size(100 + n, 200 + n), 3 + n, 5 + n, Size(64, 48)) for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sdxl(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def family(folder: Path) -> SDXLFamily:
    loaded = load_family(folder)
    assert isinstance(loaded, SDXLFamily)
    return loaded


def _inputs(family: SDXLFamily) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    x = torch.randn(3, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    cond = family.conditioning(family.encode_text(PROMPTS), SIZES)
    return x, torch.tensor([0, 500, 999]), cond


def test_text_equals_diffusers_bit_for_bit(family: SDXLFamily) -> None:
    pipeline = family.pipeline()
    theirs = pipeline.encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=True, negative_prompt=""
    )
    ours = family.encode_text(PROMPTS)
    assert ours.context.shape == (3, WINDOW, 40)
    assert torch.equal(ours.context, theirs[0])
    assert torch.equal(ours.pooled, theirs[2])
    # The empty text is encoded, never zeros.
    negative = family.encode_text([""] * 3)
    assert torch.equal(negative.context, theirs[1])
    assert torch.equal(negative.pooled, theirs[3])


def test_time_ids_equal_diffusers_and_height_comes_first(family: SDXLFamily) -> None:
    sizes = ImageSizes(Size(111, 222), 7, 9, Size(64, 48))
    ours = family.conditioning(family.encode_text(["a"]), [sizes]).time_ids
    theirs = family.pipeline()._get_add_time_ids((111, 222), (7, 9), (64, 48), torch.float32, 16)
    assert torch.equal(ours, theirs)
    assert ours.tolist() == [[111, 222, 7, 9, 64, 48]]


def test_swapping_height_and_width_changes_the_prediction(family: SDXLFamily) -> None:
    x, t, cond = _inputs(family)
    swapped = [
        ImageSizes(Size(s.original.w, s.original.h), s.crop_top, s.crop_left, s.target)
        for s in SIZES
    ]
    other = family.conditioning(family.encode_text(PROMPTS), swapped)
    assert not torch.allclose(family.denoise(x, t, cond), family.denoise(x, t, other))


def test_conditioning_refuses_rows_that_do_not_fit(family: SDXLFamily) -> None:
    with pytest.raises(ValueError, match="3 prompts, but sizes of 2"):
        family.conditioning(family.encode_text(PROMPTS), SIZES[:2])


def test_long_prompts_become_windows(family: SDXLFamily) -> None:
    long = "red apple tree " * 6
    assert family.windows([long]) == 2
    both = family.encode_text([long, "a red apple"])
    assert both.context.shape == (2, 2 * WINDOW, 40)
    # With the number of windows given, a text does not depend on its neighbours.
    alone = family.encode_text(["a red apple"], 2)
    torch.testing.assert_close(both[[1]].context, alone.context)
    torch.testing.assert_close(both[[1]].pooled, family.encode_text(["a red apple"]).pooled)
    first = family.encode_text(["red apple tree " * 3 + "red"], 1)
    torch.testing.assert_close(both[[0]].pooled, first.pooled)
    torch.testing.assert_close(both[[0]].context[:, :WINDOW], first.context)


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    built = tiny_sdxl(seed=5)
    built.save(tmp_path)
    loaded = load_family(tmp_path)
    x, t, cond = _inputs(built)
    assert torch.equal(built.denoise(x, t, cond), loaded.denoise(*_inputs(loaded)))
    assert all(map(torch.equal, built.encode_image(pictures(2)), loaded.encode_image(pictures(2))))
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["force_zeros_for_empty_prompt"] is False
    for name in ("tokenizer", "tokenizer_2"):
        assert {"vocab.json", "merges.txt"} <= {p.name for p in (tmp_path / name).iterdir()}


def test_building_is_deterministic_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    one, two, other = tiny_sdxl(seed=1), tiny_sdxl(seed=1), tiny_sdxl(seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    for name in one.parts:
        weights = [
            torch.cat([p.flatten() for p in f.parts[name].parameters()]) for f in (one, two, other)
        ]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


def test_denoise_is_independent_of_the_batch(family: SDXLFamily) -> None:
    x, t, cond = _inputs(family)
    whole = family.denoise(x, t, cond)
    rows = [family.denoise(x[n : n + 1], t[n : n + 1], cond[[n]]) for n in range(3)]
    torch.testing.assert_close(whole, torch.cat(rows), atol=1e-5, rtol=1e-5)


def test_latents_and_pixels(family: SDXLFamily) -> None:
    mean, logvar = family.encode_image(pictures(2))
    assert mean.shape == logvar.shape == (2, 4, 16, 16)
    assert (family.latent_factor, family.latent_channels) == (4, 4)
    shown = family.decode(mean)
    assert shown.shape == (2, 3, 64, 64)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
    # What the pipeline would show of the same latents.
    raw = family.vae.decode(mean / family.vae.config.scaling_factor).sample
    theirs = family.pipeline().image_processor.postprocess(raw, output_type="pt")
    torch.testing.assert_close(shown, theirs)


def test_schedule_is_that_of_the_scheduler(family: SDXLFamily) -> None:
    schedule = family.schedule()
    assert schedule.prediction_type == "v_prediction"
    torch.testing.assert_close(
        schedule.alpha_bar.float(), family.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4
    )


def test_trainable_freezes_the_rest(family: SDXLFamily) -> None:
    parameters = family.trainable(["text_encoder_1"])
    assert parameters
    assert all(p.requires_grad for p in parameters)
    for name, part in family.parts.items():
        assert part.training is (name == "text_encoder_1")
        assert all(p.requires_grad is (name == "text_encoder_1") for p in part.parameters())
    assert family.encode_text(["a"]).context.requires_grad
    assert family.trainable(()) == []
    with pytest.raises(InputError, match="unet, text_encoder_1"):
        family.trainable(["unit"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_the_autoencoder_whole(
    folder: Path, family: SDXLFamily, precision: str
) -> None:
    half = load_family(folder, precision=precision)  # type: ignore[arg-type]
    assert isinstance(half, SDXLFamily)
    assert half.vae.dtype == torch.float32
    assert half.unet.dtype == half.text_encoder_2.dtype != torch.float32
    assert torch.equal(half.encode_image(pictures(1))[0], family.encode_image(pictures(1))[0])
    x, t, cond = _inputs(family)
    predicted = half.denoise(x, t, _inputs(half)[2])
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted, family.denoise(x, t, cond), atol=0.05, rtol=0.05)


def test_weights_on_disk_can_be_half(family: SDXLFamily, tmp_path: Path) -> None:
    family.save(tmp_path, precision="fp16")
    stored = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert family.unet.dtype == torch.float32
    with quiet():
        again = load_family(tmp_path)
    x, t, cond = _inputs(family)
    torch.testing.assert_close(
        again.denoise(x, t, cond), family.denoise(x, t, cond), atol=2e-2, rtol=1e-2
    )


def test_channels_last_changes_nothing_but_rounding(family: SDXLFamily, folder: Path) -> None:
    other = load_family(folder).channels_last()
    x, t, cond = _inputs(family)
    torch.testing.assert_close(
        other.denoise(x, t, cond), family.denoise(x, t, cond), atol=1e-5, rtol=1e-4
    )


def test_text_states_join_and_index() -> None:
    one = TextStates(torch.randn(2, 3, 4), torch.randn(2, 5))
    two = TextStates(torch.randn(1, 3, 4), torch.randn(1, 5))
    joined = TextStates.join([one, two])
    assert len(joined) == 3
    assert torch.equal(joined[2:].pooled, two.pooled)
    assert torch.equal(joined[[2, 0]].context, torch.stack([two.context[0], one.context[0]]))
    with pytest.raises(ValueError, match="windows"):
        TextStates.join([one, TextStates(torch.randn(1, 6, 4), torch.randn(1, 5))])


def test_conditioning_keeps_the_sizes_in_fp32() -> None:
    cond = Conditioning(torch.ones(1, 2, 3), torch.ones(1, 2), torch.tensor([[1025.0] * 6]))
    half = cond.to(dtype=torch.bfloat16)
    assert half.context.dtype == torch.bfloat16
    assert half.time_ids.tolist() == [[1025.0] * 6]


def test_unsupported_and_broken_models_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model_index\.json"):
        load_family(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="FluxPipeline"):
        load_family(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(MissingModel, match="unet"):
        load_family(tmp_path)
    with pytest.raises(InputError, match="sdxl"):
        family_class("sd9")


def test_a_truncated_part_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MissingModel, match="broken"):
        load_family(broken)
