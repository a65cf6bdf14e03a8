from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from tastemaker.models.adapters import ADAPTER_FILE, add_lora, has_lora, load_lora, save_lora
from tastemaker.models.family import load_family
from tastemaker.models.quiet import quiet
from tastemaker.records.run import Artefact
from tastemaker.records.size import ImageSizes, Size
from tastemaker.stages.export import Config, run
from tastemaker.store.rundir import StepDir
from tests.tiny_models import saved_sdxl, tiny_family

SIZES = [ImageSizes(Size(64, 64), 0, 0, Size(64, 64))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sdxl(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = load_family(folder)
    for parameter in add_lora(family, rank=2, alpha=4):
        parameter.data += 0.2
    path = tmp_path_factory.mktemp("adapter")
    save_lora(family, path)
    return path


def _run(folder: Path, step: Path, adapter: Path | None = None, **fields: object):
    config = Config(model="tiny", adapter=adapter and "a", **fields)  # type: ignore[arg-type]
    inputs = {"model": Artefact("model", folder, "m")}
    if adapter is not None:
        inputs["adapter"] = Artefact("adapter", adapter, "a")
    return run(config, inputs, StepDir(step, name="export", key="k"))


def _predict(family) -> torch.Tensor:
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond = family.conditioning(family.encode_text(["a red apple"]), SIZES)
        return family.denoise(x, torch.tensor([500]), cond)


def test_merged_model_predicts_what_model_and_adapter_do(
    folder: Path, adapter: Path, tmp_path: Path
) -> None:
    manifest = _run(folder, tmp_path, adapter, precision="fp32")
    assert manifest.outputs == {"adapter": "adapter", "model": "model"}
    merged, adapted = load_family(tmp_path / "model"), load_family(folder)
    plain = _predict(adapted)
    load_lora(adapted, adapter)
    assert not has_lora(merged)
    torch.testing.assert_close(_predict(merged), _predict(adapted), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(_predict(merged), plain, atol=1e-3)
    ours, source = (load_file(p / ADAPTER_FILE) for p in (tmp_path / "adapter", adapter))
    assert ours.keys() == source.keys()
    assert all(torch.equal(ours[name], source[name]) for name in ours)


def test_text_encoders_and_dora_are_merged_and_told(folder: Path, tmp_path: Path) -> None:
    adapted = load_family(folder)
    parts = ("denoiser", "text_encoder_1", "text_encoder_2")
    for parameter in add_lora(adapted, rank=2, alpha=4, dora=True, rslora=True, parts=parts):
        parameter.data += 0.2
    adapted.trainable(())
    save_lora(adapted, tmp_path / "given")
    _run(folder, tmp_path / "merged", tmp_path / "given", precision="fp32")
    merged = load_family(tmp_path / "merged" / "model")
    assert not has_lora(merged)
    torch.testing.assert_close(_predict(merged), _predict(adapted), atol=1e-5, rtol=1e-4)
    card = (tmp_path / "merged" / "adapter" / "README.md").read_text()
    assert "| kind | DoRA + rsLoRA |" in card
    assert "| parts | unet, text_encoder_1, text_encoder_2 |" in card
    _run(folder, tmp_path / "alone", tmp_path / "given", form="adapter")
    ours, given = (load_file(tmp_path / p / ADAPTER_FILE) for p in ("alone/adapter", "given"))
    assert ours.keys() == given.keys()
    assert all(torch.equal(ours[name], given[name]) for name in given)


def test_base_form_leaves_the_model_as_it_was(folder: Path, adapter: Path, tmp_path: Path) -> None:
    _run(folder, tmp_path, adapter, form="base", precision="fp32")
    assert torch.equal(_predict(load_family(tmp_path / "model")), _predict(load_family(folder)))


def test_adapter_form_writes_no_model(folder: Path, adapter: Path, tmp_path: Path) -> None:
    manifest = _run(folder, tmp_path, adapter, form="adapter")
    assert manifest.outputs == {"adapter": "adapter"}
    assert not (tmp_path / "model").exists()
    with pytest.raises(ValidationError, match="no adapter"):
        Config(model="m", form="adapter")


def test_half_precision_halves_the_files(folder: Path, tmp_path: Path) -> None:
    manifest = _run(folder, tmp_path)
    weights = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert manifest.counts["bytes of model"] > 0
    family = load_family(tmp_path / "model")
    torch.testing.assert_close(
        _predict(family), _predict(load_family(folder)), atol=2e-2, rtol=2e-2
    )


def test_cards_say_where_it_comes_from(folder: Path, adapter: Path, tmp_path: Path) -> None:
    _run(
        folder,
        tmp_path,
        adapter,
        title="Outlined drawings",
        base="tiny: base",
        licence="cc-by-sa-4.0",
        data="OpenMoji, CC BY-SA 4.0.",
        settings={"lr": 1e-4, "images": 6000},
    )
    for kind in ("model", "adapter"):
        text = (tmp_path / kind / "README.md").read_text()
        head = yaml.safe_load(text.split("---")[1])
        assert head["base_model"] == "tiny: base"
        assert head["license"] == "cc-by-sa-4.0"
        assert ("lora" in head["tags"]) is (kind == "adapter")
        assert "# Outlined drawings" in text
        assert "OpenMoji, CC BY-SA 4.0." in text
        assert "| images | 6000 |" in text
    assert "| rank | 2 |" in text
    assert "| alpha | 4 |" in text
    assert "| layers | to_k, to_out.0, to_q, to_v |" in text


@pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart-512"])
def test_the_lines_of_a_card_load_what_is_beside_it(name: str, tmp_path: Path) -> None:
    family = tiny_family(name)
    family.save(tmp_path / "base")
    for parameter in add_lora(family, rank=2, alpha=4):
        parameter.data += 0.2
    family.trainable(())
    save_lora(family, tmp_path / "given")
    _run(tmp_path / "base", tmp_path, tmp_path / "given", base=str(tmp_path / "base"))
    for kind in ("model", "adapter"):
        card = (tmp_path / kind / "README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0]
        code, _, drawing = code.replace("FOLDER", str(tmp_path / kind)).rpartition("pipeline(")
        assert drawing.startswith("prompt=")
        names: dict[str, Any] = {}
        with quiet():
            exec(code, names)  # noqa: S102
        denoiser = getattr(names["pipeline"], family.denoiser)
        adapted = [n for n, _ in denoiser.named_parameters() if ".lora_" in n]
        assert bool(adapted) is (kind == "adapter")
