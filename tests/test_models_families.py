"""The contract that every family answers, on small configs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.errors import InputError, MissingModel
from tastemaker.models.conditioning import Conditioning
from tastemaker.models.family import FAMILIES as CLASSES
from tastemaker.models.family import Family, load_family
from tastemaker.models.quiet import quiet
from tastemaker.models.sampling import Sampling, latent_shape, sample_latents
from tastemaker.records.size import ImageSizes, Size
from tests.tiny_models import FAMILIES, pictures, tiny_family

PROMPTS = ["a red apple", "the tiger's green tree", ""]
SIZES = [ImageSizes(Size(100 + n, 200 + n), 3 + n, 5 + n, Size(64, 48)) for n in range(3)]
SIZE = Size(64, 48)
TOLD_SIZES = {"sdxl": 6, "refiner": 5, "pixart-1024": 3}
"""Families that are told sizes -> how many numbers."""

# diffusers turns torch tensors into arrays the way numpy 2 calls old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / name
    tiny_family(name).save(path)
    return path


@pytest.fixture(scope="module")
def family(folder: Path) -> Any:
    return load_family(folder)


def _inputs(family: Family) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    x = _noise(3, family)
    cond = family.conditioning(family.encode_text(PROMPTS), SIZES)
    return x, torch.tensor([0, 500, 999]), cond


def _noise(count: int, family: Family, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *latent_shape(family, SIZE), generator=generator)


def test_there_is_a_row_for_every_family() -> None:
    assert {family for family, _ in FAMILIES.values()} == set(CLASSES)


# --- load and save --------------------------------------------------------------------------------


def test_save_and_load_are_exact(name: str, family: Family, tmp_path: Path) -> None:
    built = tiny_family(name)
    built.save(tmp_path)
    again = load_family(tmp_path)
    assert again.name == built.name == FAMILIES[name][0]
    assert set(again.parts) == set(built.parts)
    assert torch.equal(built.denoise(*_inputs(built)), again.denoise(*_inputs(again)))
    assert all(map(torch.equal, built.encode_image(pictures(1)), again.encode_image(pictures(1))))
    for part in built.parts:
        ours, theirs = built.parts[part].state_dict(), again.parts[part].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    told = {p.name for p in tmp_path.rglob("*.json") if str(tmp_path) in p.read_text()}
    assert told == set()  # no path of this machine


def test_diffusers_alone_loads_the_folder(family: Family, folder: Path) -> None:
    with quiet():
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        theirs: Any = DiffusionPipeline.from_pretrained(folder)
    assert type(theirs) is type(family.pipeline())
    own = family.parts[family.denoiser].state_dict()
    other = getattr(theirs, family.denoiser).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in own.items())


def test_building_depends_on_the_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        built = tiny_family(name, seed=seed)
        weights.append(
            {part: next(built.parts[part].parameters()).flatten()[:8] for part in built.parts}
        )
    assert torch.equal(before, torch.random.get_rng_state())
    for part in weights[0]:
        assert torch.equal(weights[0][part], weights[1][part]), part
        assert not torch.equal(weights[0][part], weights[2][part]), part


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(name: str, family: Family, folder: Path, precision: str) -> None:
    half = load_family(folder, precision=precision)  # type: ignore[arg-type]
    assert next(half.parts["vae"].parameters()).dtype == torch.float32
    assert next(half.parts[half.denoiser].parameters()).dtype != torch.float32
    assert torch.equal(half.encode_image(pictures(1))[0], family.encode_image(pictures(1))[0])
    x, t, cond = _inputs(half)
    predicted = half.denoise(x, t, cond)
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted, family.denoise(*_inputs(family)), atol=0.08, rtol=0.08)


def test_t5_keeps_its_widest_layers_whole_in_fp16() -> None:
    encoder = tiny_family("pixart-512", precision="fp16").text_encoder
    kinds = {n.rsplit(".", 1)[-1]: m.weight.dtype for n, m in encoder.named_modules()
             if n.endswith((".wo", ".wi_0", ".q"))}  # fmt: skip
    assert kinds == {"wo": torch.float32, "wi_0": torch.float16, "q": torch.float16}


def test_wrong_folders_are_named(name: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model_index\.json"):
        load_family(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        load_family(tmp_path)
    index.write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="FluxPipeline.*PixArtAlphaPipeline"):
        load_family(tmp_path)
    # An index without its parts, then one truncated part.
    index.write_bytes((folder / "model_index.json").read_bytes())
    with pytest.raises(MissingModel, match="whole folder again"):
        load_family(tmp_path)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = next((broken / json.loads(index.read_text())["_class_name"]).parent.glob("*/*.safete*"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MissingModel, match="broken"):
        load_family(broken)


# --- text and conditioning ------------------------------------------------------------------------


def test_text_equals_diffusers_bit_for_bit(name: str, family: Family) -> None:
    ours, empty = family.encode_text(PROMPTS), family.encode_text([""] * 3)
    encode: Any = family.pipeline().encode_prompt
    if name.startswith("pixart"):
        found = encode(PROMPTS, device=torch.device("cpu"))
        assert ours.context.shape == (3, 120, 20)
        assert ours.mask is not None
        assert empty.mask is not None
        assert torch.equal(ours.mask, found[1])
        assert torch.equal(empty.mask, found[3])
        found = (found[0], found[2])
    else:
        found = encode(PROMPTS, device="cpu", num_images_per_prompt=1,
                       do_classifier_free_guidance=True, negative_prompt=[""] * 3)  # fmt: skip
        assert ours.mask is None
    assert torch.equal(ours.context, found[0])
    assert torch.equal(empty.context, found[1])
    if family.name == "sdxl":
        assert ours.pooled is not None
        assert torch.equal(ours.pooled, found[2])
    else:
        assert ours.pooled is None


def test_text_does_not_depend_on_its_neighbours(family: Family) -> None:
    windows = family.windows(["red apple tree " * 6])
    one, other = (
        family.encode_text(["a red apple", neighbour], windows)
        for neighbour in ("a green tree", "red apple tree " * 6)
    )
    assert torch.equal(one.context[0], other.context[0])
    assert not torch.equal(one.context[1], other.context[1])
    alone = family.encode_text(["a red apple"], windows)
    torch.testing.assert_close(alone.context, one[[0]].context)
    if one.pooled is not None and other.pooled is not None:
        assert torch.equal(one.pooled[0], other.pooled[0])


def test_token_reports(family: Family) -> None:
    reports = family.token_reports(["a red apple", "", "red apple tree " * 100])
    assert [r.tokens for r in reports] == family.token_counts(
        ["a red apple", "", "red apple tree " * 100]
    )
    assert [r.cut for r in reports[:2]] == [0, 0]
    assert reports[1].tokens == 0
    room = 119 if family.name == "pixart" else 30
    long = reports[2]
    assert long.cut == long.tokens - room > 0
    assert long.lost.endswith("tree")
    assert long.windows == family.windows(["red apple tree " * 100])


def test_sizes_are_told_height_first(name: str, family: Family) -> None:
    x, t, cond = _inputs(family)
    turned = [
        ImageSizes(Size(s.original.w, s.original.h), s.crop_left, s.crop_top, Size(*s.target[::-1]))
        for s in SIZES
    ]
    other = family.conditioning(family.encode_text(PROMPTS), turned)
    if name not in TOLD_SIZES:
        assert cond.time_ids is None
        assert torch.equal(family.denoise(x, t, cond), family.denoise(x, t, other))
        return
    assert cond.time_ids is not None
    assert cond.time_ids.shape == (3, TOLD_SIZES[name])
    assert cond.time_ids[0, :2].tolist() == [100, 200]
    assert not torch.allclose(family.denoise(x, t, cond), family.denoise(x, t, other))


def test_conditioning_refuses_rows_that_do_not_fit(family: Family) -> None:
    with pytest.raises(ValueError, match="3 prompts, but sizes of 2"):
        family.conditioning(family.encode_text(PROMPTS), SIZES[:2])


# --- denoiser -------------------------------------------------------------------------------------


def test_denoise_is_a_plain_call_of_diffusers(name: str, family: Any) -> None:
    x, t, cond = _inputs(family)
    network = family.parts[family.denoiser]
    with torch.no_grad():
        if family.name == "sd15":
            raw = network(x, t, encoder_hidden_states=cond.context).sample
        elif family.name == "sdxl":
            added = {"text_embeds": cond.pooled, "time_ids": cond.time_ids}
            raw = network(x, t, encoder_hidden_states=cond.context, added_cond_kwargs=added).sample
        else:
            told = name == "pixart-1024"
            added = {
                "resolution": torch.tensor([[100.0 + n, 200 + n] for n in range(3)])
                if told
                else None,
                "aspect_ratio": torch.tensor([[64 / 48]] * 3) if told else None,
            }
            raw = network(
                x, encoder_hidden_states=cond.context, timestep=t, added_cond_kwargs=added,
                encoder_attention_mask=cond.mask,
            ).sample  # fmt: skip
            # It predicts a variance too, which is left out.
            assert raw.shape[1] == 8
            raw = raw.chunk(2, dim=1)[0]
    assert torch.equal(family.denoise(x, t, cond), raw)
    assert raw.shape == x.shape


def test_denoise_is_independent_of_the_batch(family: Family) -> None:
    x, t, cond = _inputs(family)
    whole = family.denoise(x, t, cond)
    rows = [family.denoise(x[n : n + 1], t[n : n + 1], cond[[n]]) for n in range(3)]
    torch.testing.assert_close(whole, torch.cat(rows), atol=1e-5, rtol=1e-5)
    joined = Conditioning.join([cond[[0]], cond[1:]])
    assert torch.equal(family.denoise(x, t, joined), whole)


def test_masked_text_is_not_seen() -> None:
    family = tiny_family("pixart-512")
    x, t, cond = _inputs(family)
    assert cond.mask is not None
    padding = (1 - cond.mask)[:, :, None].bool()
    other = Conditioning(torch.where(padding, 7.0, cond.context), mask=cond.mask)
    torch.testing.assert_close(family.denoise(x, t, other), family.denoise(x, t, cond))
    seen = Conditioning(other.context, mask=torch.ones_like(cond.mask))
    assert not torch.allclose(family.denoise(x, t, seen), family.denoise(x, t, cond))


def test_schedule_is_that_of_the_scheduler(family: Any) -> None:
    torch.testing.assert_close(
        family.schedule().alpha_bar.float(), family.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4
    )
    assert family.schedule().prediction_type == family.scheduler.config.prediction_type


def test_prediction_and_zero_terminal_can_be_set_and_are_saved(
    folder: Path, tmp_path: Path
) -> None:
    family: Any = load_family(folder, prediction="v_prediction", zero_terminal=True)
    assert family.schedule().prediction_type == "v_prediction"
    assert family.schedule().alpha_bar[-1] == 0
    torch.testing.assert_close(
        family.schedule().alpha_bar.float(), family.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4
    )
    family.save(tmp_path)
    again = load_family(tmp_path)
    assert torch.equal(again.schedule().alpha_bar, family.schedule().alpha_bar)
    assert again.schedule().prediction_type == "v_prediction"
    noise = _noise(1, family)
    sampling = Sampling("ddim", 2, 1.0, SIZE, spacing="trailing")
    states = family.encode_text(["a"])
    assert sample_latents(family, states, states, noise, sampling).isfinite().all()


# --- pictures -------------------------------------------------------------------------------------


def test_latents_and_pixels(family: Any) -> None:
    mean, logvar = family.encode_image(pictures(2))
    assert mean.shape == logvar.shape == (2, 4, 16, 16)
    assert (family.latent_factor, family.latent_channels) == (4, 4)
    assert mean.shape[1:] == latent_shape(family, Size(64, 64))
    shown = family.decode(mean)
    assert shown.shape == (2, 3, 64, 64)
    raw = family.vae.decode(mean / family.vae.config.scaling_factor).sample
    theirs = family.pipeline().image_processor.postprocess(raw, output_type="pt")
    torch.testing.assert_close(shown, theirs)


def test_own_size_and_multiples(name: str, family: Family) -> None:
    side = 128 * 4 if name == "pixart-1024" else 64
    assert family.own_size == Size(side, side)
    assert family.size_multiple == 8
    with pytest.raises(InputError, match="multiples of 8"):
        latent_shape(family, Size(60, 64))


# --- training -------------------------------------------------------------------------------------


def test_trainable_freezes_the_rest(family: Family) -> None:
    for chosen in [part for part in family.parts if part != "vae"]:
        parameters = family.trainable([chosen])
        assert parameters
        for part, network in family.parts.items():
            assert network.training is (part == chosen)
            assert all(p.requires_grad is (part == chosen) for p in network.parameters())
    assert family.trainable(()) == []
    with pytest.raises(InputError, match=family.denoiser):
        family.trainable(["unit"])


def test_gradients_reach_every_trained_part(name: str) -> None:
    family = tiny_family(name)
    parts = [part for part in family.parts if part != "vae"]
    family.trainable(parts)
    x, t, cond = _inputs(family)
    family.denoise(x, t, cond).square().mean().backward()
    for part in parts:
        assert any(
            p.grad is not None and bool(p.grad.abs().sum() > 0)
            for p in family.parts[part].parameters()
        ), part


def test_every_lora_target_ends_the_name_of_a_layer(family: Family) -> None:
    layers = [n for n, _ in family.parts[family.denoiser].named_modules()]
    groups = family.lora_targets
    assert {"attention", "attention+ff", "transformer"} <= set(groups)
    for end in {end for group in groups.values() for end in group}:
        assert any(layer.endswith(f".{end}") or layer == end for layer in layers), end


def test_moving(name: str) -> None:
    family = tiny_family(name).to("meta")
    assert family.device.type == "meta"
    assert {p.device.type for part in family.parts.values() for p in part.parameters()} == {"meta"}


def test_channels_last_changes_nothing_but_rounding(family: Family, folder: Path) -> None:
    other = load_family(folder).channels_last()
    torch.testing.assert_close(
        other.denoise(*_inputs(other)), family.denoise(*_inputs(family)), atol=1e-5, rtol=1e-4
    )
