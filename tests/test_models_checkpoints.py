"""Single-file checkpoints: told by their tensors, loaded with the configuration beside them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tastemaker.errors import InputError, MissingModel
from tastemaker.models.checkpoints import family_name, inspect_single_file
from tastemaker.models.family import load_family
from tastemaker.records.size import ImageSizes, Size
from tests.original_layout import checkpoint
from tests.tiny_models import pictures, tiny_family

UNET = "model.diffusion_model.input_blocks.0.0.weight"
SD15, SDXL = "cond_stage_model.transformer.x", "conditioner.embedders.1.model.x"
REFINER = "conditioner.embedders.0.model.x"


def _file(folder: Path, *names: str, channels: int = 4, unet: bool = True) -> Path:
    path = folder / "some.safetensors"
    tensors = {name: torch.zeros(1) for name in names}
    if unet:
        tensors[UNET] = torch.zeros(2, channels, 3, 3)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("names", "kind", "family"),
    [
        ((SD15,), "sd15", "sd15"),
        ((SDXL, "conditioner.embedders.0.transformer.x"), "sdxl", "sdxl"),
        ((REFINER,), "sdxl-refiner", "sdxl"),
    ],
)
def test_kinds(tmp_path: Path, names: tuple[str, ...], kind: str, family: str) -> None:
    path = _file(tmp_path, *names)
    file = inspect_single_file(path)
    assert (file.kind, file.family, family_name(path)) == (kind, family, family)
    assert not file.v_prediction
    assert not file.zero_terminal


def test_marks(tmp_path: Path) -> None:
    file = inspect_single_file(_file(tmp_path, SDXL, "v_pred", "ztsnr"))
    assert file.v_prediction
    assert file.zero_terminal


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((SD15,), {"channels": 9}, "9 input channels, for inpainting"),
        ((SDXL, "edm_mean"), {}, "EDM"),
        (("cond_stage_model.model.x",), {}, "no text encoder of SD1.5 or SDXL"),
        (("lora_unet_x",), {"unet": False}, "not one part or an adapter"),
        (("adaln_single.linear.weight",), {"unet": False}, "bare PixArt.*PixArt-XL-2-512x512"),
        (("t_block.1.weight", "y_embedder.x"), {"unet": False}, "bare PixArt"),
    ],
)
def test_what_is_no_model_of_ours_is_named(
    tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_family(_file(tmp_path, *names, **options))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="unreadable"):
        load_family(odd)


@pytest.fixture(params=["sd15", "sdxl", "refiner"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A family of ours, and its weights as one file with the configuration beside it."""
    family = tiny_family(request.param)
    beside = tmp_path / "model"
    family.save(beside)
    for weights in beside.rglob("*.safetensors"):
        weights.unlink()
    save_file(checkpoint(family), tmp_path / "model.safetensors")
    return family, tmp_path / "model.safetensors"


def _predict(family: Any) -> torch.Tensor:
    size = ImageSizes(Size(64, 64), 0, 0, Size(64, 64))
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    cond = family.conditioning(family.encode_text(["a red apple"]), [size])
    return family.denoise(x, torch.tensor([300]), cond)


def test_a_single_file_is_the_same_model_bit_for_bit(model: tuple[Any, Path]) -> None:
    family, file = model
    loaded = load_family(file)
    assert loaded.name == family.name
    assert set(loaded.parts) == set(family.parts)
    assert torch.equal(_predict(loaded), _predict(family))
    assert torch.equal(loaded.encode_image(pictures(1))[0], family.encode_image(pictures(1))[0])
    # The autoencoder is not rounded on its way.
    half = load_family(file, precision="bf16")
    assert torch.equal(half.encode_image(pictures(1))[0], family.encode_image(pictures(1))[0])
    torch.testing.assert_close(_predict(half), _predict(family), atol=0.05, rtol=0.05)


def test_marks_are_followed(model: tuple[Any, Path]) -> None:
    family, file = model
    assert family.schedule().alpha_bar[-1] > 0
    save_file({**checkpoint(family), "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, file)
    schedule = load_family(file).schedule()
    assert schedule.prediction_type == "v_prediction"
    assert schedule.alpha_bar[-1] == 0


def test_without_a_configuration_the_error_says_what_to_do(model: tuple[Any, Path]) -> None:
    _, file = model
    shutil.rmtree(file.with_suffix(""))
    with pytest.raises(
        MissingModel, match=r"hf download .*\*\.json.*without a hub, copy"
    ) as caught:
        load_family(file)
    assert str(file.with_suffix("")) in str(caught.value)


def test_weights_that_do_not_fit_are_refused(model: tuple[Any, Path]) -> None:
    family, file = model
    tensors = checkpoint(family)
    tensors[UNET] = torch.zeros(24, 4, 3, 3)
    save_file(tensors, file)
    with pytest.raises(InputError, match="do not fit"):
        load_family(file)
