from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from tastemaker.models.adapters import ADAPTER_FILE, add_lora, has_lora, load_lora, save_lora
from tastemaker.models.family import load_family
from tastemaker.records.run import Artefact
from tastemaker.records.size import ImageSizes, Size
from tastemaker.stages.export import Config, run
from tastemaker.store.rundir import StepDir
from tests.tiny_models import saved_sdxl

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
