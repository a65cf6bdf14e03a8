from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tastemaker.errors import InputError
from tastemaker.models.adapters import (
    ADAPTER_FILE,
    add_lora,
    has_lora,
    load_lora,
    lora_parameters,
    lora_settings,
    merge_lora,
    save_lora,
    unload_lora,
)
from tastemaker.models.family import load_family
from tastemaker.models.quiet import quiet
from tastemaker.models.sampling import Sampling, sample_pictures
from tastemaker.models.sdxl import SDXLFamily
from tastemaker.models.weights import own_memory
from tastemaker.records.size import ImageSizes, Size
from tests.tiny_models import saved_sdxl

SIZE = Size(64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sdxl(tmp_path_factory.getbasetemp())


@pytest.fixture
def family(folder: Path) -> SDXLFamily:
    loaded = load_family(folder)
    assert isinstance(loaded, SDXLFamily)
    return loaded


def _predict(family: SDXLFamily) -> torch.Tensor:
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = [ImageSizes(SIZE, 0, 0, SIZE)] * 2
    with torch.no_grad():
        cond = family.conditioning(family.encode_text(["a red apple", ""]), sizes)
        return family.denoise(x, torch.tensor([20, 700]), cond)


def _train(family: SDXLFamily, parameters: list[torch.nn.Parameter]) -> None:
    """Two real steps towards nonsense, so that B is no longer zero."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    cond = family.conditioning(family.encode_text(["a", "b"]), [ImageSizes(SIZE, 0, 0, SIZE)] * 2)
    for _ in range(2):
        family.denoise(x, torch.tensor([100, 300]), cond).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_new_adapter_changes_nothing_and_learns_alone(family: SDXLFamily) -> None:
    before = _predict(family)
    frozen = {name: p.clone() for name, p in family.unet.named_parameters()}
    parameters = add_lora(family, rank=4, alpha=8)
    assert torch.equal(_predict(family), before)
    assert {id(p) for p in family.unet.parameters() if p.requires_grad} == {
        id(p) for p in parameters
    }
    assert not any(p.requires_grad for p in family.text_encoder_1.parameters())
    _train(family, parameters)
    assert not torch.allclose(_predict(family), before, atol=1e-3)
    # The base stays bit-identical under training, and comes back whole.
    base = {n.replace(".base_layer", ""): p for n, p in family.unet.named_parameters()}
    assert all(torch.equal(base[name], value) for name, value in frozen.items())
    unload_lora(family)
    assert not has_lora(family)
    assert torch.equal(_predict(family), before)


def test_initial_weights_depend_on_the_seed_alone(folder: Path) -> None:
    weights = []
    for seed in (3, 3, 4):
        family = load_family(folder)
        before = torch.random.get_rng_state()
        add_lora(family, rank=2, alpha=2, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
        weights.append(torch.cat([p.flatten() for p in lora_parameters(family).values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("targets", "layers"),
    [("attention", {"to_q", "to_k", "to_v", "0"}), (["to_q", "ff.net.2"], {"to_q", "2"})],
)
def test_targets(family: SDXLFamily, targets: str | list[str], layers: set[str]) -> None:
    add_lora(family, rank=2, alpha=2, targets=targets)
    found = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in lora_parameters(family)}
    assert found == layers


def test_file_is_in_the_layout_of_peft_with_rank_and_alpha(
    family: SDXLFamily, tmp_path: Path
) -> None:
    add_lora(family, rank=4, alpha=6, targets="attention+ff")
    file = save_lora(family, tmp_path)
    assert file == tmp_path / ADAPTER_FILE
    names = set(load_file(file))
    assert all(
        n.startswith("unet.") and n.endswith((".lora_A.weight", ".lora_B.weight")) for n in names
    )
    assert len(names) == len(lora_parameters(family))
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()["lora_adapter_metadata"]
    assert '"unet.r": 4' in metadata
    assert '"unet.lora_alpha": 6' in metadata


def test_diffusers_loads_the_file_and_draws_the_same_picture_bit_for_bit(
    family: SDXLFamily, folder: Path, tmp_path: Path
) -> None:
    _train(family, add_lora(family, rank=4, alpha=6, targets="transformer"))
    family.trainable(())
    save_lora(family, tmp_path)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    sampling = Sampling("ddim", 3, 4.0, SIZE)
    ours = sample_pictures(family, ["a red apple"], "", noise, sampling)

    with quiet():
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        plain = _draw(pipeline, noise)
        pipeline.load_lora_weights(tmp_path)
    # The same file, read by diffusers alone: equal to rounding as it stands, and bit for bit once
    # memory is aligned and gradients are off, which both decide how torch multiplies matrices.
    torch.testing.assert_close(_draw(pipeline, noise), ours, atol=1e-5, rtol=1e-5)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        own_memory(part).requires_grad_(False)
    theirs = _draw(pipeline, noise)
    assert torch.equal(theirs, ours)
    assert not torch.equal(theirs, plain)


def _draw(pipeline, noise: torch.Tensor) -> torch.Tensor:
    return pipeline(
        "a red apple",
        negative_prompt="",
        latents=noise.clone(),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="pt",
    ).images


def test_save_and_load_are_exact(family: SDXLFamily, folder: Path, tmp_path: Path) -> None:
    _train(family, add_lora(family, rank=4, alpha=6.5))
    family.trainable(())
    save_lora(family, tmp_path)
    other = load_family(folder)
    assert isinstance(other, SDXLFamily)
    load_lora(other, tmp_path)
    assert torch.equal(_predict(other), _predict(family))
    assert lora_settings(other) == lora_settings(family)
    assert lora_settings(other).alpha == 6.5
    assert not any(p.requires_grad for p in other.unet.parameters())


def test_merged_model_is_plain_and_predicts_the_same(family: SDXLFamily, tmp_path: Path) -> None:
    names = set(dict(family.unet.named_parameters()))
    _train(family, add_lora(family, rank=4, alpha=6))
    family.trainable(())
    adapted = _predict(family)
    merge_lora(family)
    assert set(dict(family.unet.named_parameters())) == names
    torch.testing.assert_close(_predict(family), adapted, atol=1e-5, rtol=1e-4)
    family.save(tmp_path)
    again = load_family(tmp_path)
    assert isinstance(again, SDXLFamily)
    assert torch.equal(_predict(again), _predict(family))


def test_adapters_of_a_half_precision_model_are_fp32(folder: Path, tmp_path: Path) -> None:
    family = load_family(folder, precision="bf16")
    assert isinstance(family, SDXLFamily)
    parameters = add_lora(family, rank=2, alpha=2)
    assert {p.dtype for p in parameters} == {torch.float32}
    _train(family, parameters)
    save_lora(family, tmp_path)
    assert {v.dtype for v in load_file(tmp_path / ADAPTER_FILE).values()} == {torch.float32}


def test_errors_name_what_is_wrong(family: SDXLFamily, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="attention"):
        add_lora(family, rank=2, alpha=2, targets="attenton")
    with pytest.raises(InputError, match="to_qq"):
        add_lora(family, rank=2, alpha=2, targets=["to_qq"])
    with pytest.raises(InputError, match=ADAPTER_FILE):
        load_lora(family, tmp_path)
    with pytest.raises(InputError, match="no adapters"):
        save_lora(family, tmp_path)
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}, tmp_path / ADAPTER_FILE)
    with pytest.raises(InputError, match="LoRA weights of this architecture"):
        load_lora(family, tmp_path)


def test_weights_of_another_width_are_refused(family: SDXLFamily, tmp_path: Path) -> None:
    add_lora(family, rank=2, alpha=2)
    file = save_lora(family, tmp_path)
    unload_lora(family)
    wide = {
        n: torch.zeros(v.shape[0] + 2 * ("_B" in n), v.shape[1] + 2 * ("_A" in n))
        for n, v in load_file(file).items()
    }
    save_file(wide, file)
    with pytest.raises(InputError, match="LoRA weights of this architecture"):
        load_lora(family, tmp_path)


def test_two_adapters_are_refused(family: SDXLFamily) -> None:
    add_lora(family, rank=2, alpha=2)
    with pytest.raises(InputError, match="plain model"):
        add_lora(family, rank=2, alpha=2)


def test_kohya_layout_is_read(family: SDXLFamily, folder: Path, tmp_path: Path) -> None:
    parameters = add_lora(family, rank=4, alpha=6)
    for parameter in parameters:
        parameter.data += 0.1
    family.trainable(())
    weights = load_file(save_lora(family, tmp_path))
    kohya = {}
    for name, value in weights.items():
        layer, kind = name.removeprefix("unet.").removesuffix(".weight").rsplit(".lora_", 1)
        layer = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{layer}.lora_{'down' if kind == 'A' else 'up'}.weight"] = value
        kohya[f"{layer}.alpha"] = torch.tensor(6.0)
    save_file(kohya, tmp_path / "kohya.safetensors")
    other = load_family(folder)
    assert isinstance(other, SDXLFamily)
    load_lora(other, tmp_path / "kohya.safetensors")
    assert torch.equal(_predict(other), _predict(family))
    assert lora_settings(other) == lora_settings(family)
