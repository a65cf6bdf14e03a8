"""Which parts a fit changes, at which rate, and that the others keep every bit."""

from hashlib import blake2b
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tastemaker.errors import InputError
from tastemaker.models import family as family_module
from tastemaker.models.adapters import load_lora, lora_parameters, lora_settings
from tastemaker.models.family import load_family
from tastemaker.models.parts import part_names
from tastemaker.records.run import Artefact
from tastemaker.stages import fit
from tests.tiny_models import tiny_family
from tests.tiny_run import prepared, run_step, step_dir

SHORT = {
    "images_total": 12,
    "batch": 4,
    "stable_images": 0,
    "validate_every_images": 1000,
    "optimizer": {"lr": 1e-3},
    "lr_course": {"warmup_images": 0},
}
PARTS = ("denoiser", "text_encoder_1", "text_encoder_2")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared(tmp_path_factory.mktemp("run"), tmp_path_factory.getbasetemp())


@pytest.fixture
def trained(given, tmp_path, monkeypatch):
    """Run the stage; the family as it is in memory afterwards."""

    def run(**fields: Any) -> Any:
        kept = []

        def keep(*args: Any, **options: Any) -> Any:
            kept.append(load_family(*args, **options))
            return kept[-1]

        monkeypatch.setattr(family_module, "load_family", keep)
        run_step(fit, step_dir(tmp_path, "fit"), given, **{**SHORT, **fields})
        return kept[0]

    return run


def marks(family: Any) -> dict[str, str]:
    """A hash of every tensor of every part: weights, and buffers that no file holds too."""
    return {
        f"{part}.{name.replace('.base_layer', '')}": blake2b(
            tensor.detach().contiguous().numpy().tobytes()
        ).hexdigest()
        for part, module in family.parts.items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if ".lora_" not in name
    }


def changed_parts(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name.partition(".")[0] for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("parts", "changed"),
    [
        (("denoiser",), {"unet"}),
        (("unet", "text_encoder_2"), {"unet", "text_encoder_2"}),
        (("text_encoder_1",), {"text_encoder_1"}),
        (PARTS, {"unet", "text_encoder_1", "text_encoder_2"}),
    ],
)
def test_a_full_fit_changes_the_named_parts_and_no_bit_of_the_others(
    parts, changed, given, trained, tmp_path
) -> None:
    before = marks(load_family(given["model"].path))
    family = trained(method={"kind": "full", "parts": parts})
    assert changed_parts(before, marks(family)) == changed
    (saved,) = tmp_path.glob("fit/*/model")
    assert marks(load_family(saved)) == marks(family)


@pytest.mark.parametrize("kind", [{}, {"dora": True, "rslora": True}], ids=["LoRA", "DoRA"])
def test_adapters_learn_in_every_named_part_and_the_base_keeps_every_bit(
    kind, given, trained, tmp_path
) -> None:
    method = {"kind": "lora", "rank": 2, "alpha": 2.0, "parts": PARTS, **kind}
    family = trained(method=method, optimizer={"lr": 1e-3, "weight_decay": 0.0})
    base = load_family(given["model"].path)
    assert changed_parts(marks(base), marks(family)) == set()
    (saved,) = tmp_path.glob("fit/*/adapter")
    load_lora(base, saved)
    assert lora_settings(base) == lora_settings(family)
    ours, stored = lora_parameters(family), lora_parameters(base)
    assert all(torch.equal(ours[name], stored[name]) for name in ours)
    ups = {name: p.abs().max().item() for name, p in ours.items() if "lora_B" in name}
    # SDXL reads the last but one state of its first text encoder: its last layer cannot learn.
    still = {name.split(".self_attn.")[0] for name, most in ups.items() if most == 0}
    assert still == {"text_encoder_1.encoder.layers.1"}


def test_every_part_moves_at_its_own_rate(given, trained) -> None:
    """AdamW's first step is the rate itself, whatever the gradient."""
    rates = {"denoiser": 3e-3, "text_encoder_2": 1e-5}
    family = trained(
        method={"kind": "full", "parts": PARTS},
        optimizer={"lr": 2e-4, "part_lr": rates, "weight_decay": 0.0, "eps": 1e-20},
        images_total=4,
    )
    base = load_family(given["model"].path)
    expected = {"unet": 3e-3, "text_encoder_1": 2e-4, "text_encoder_2": 1e-5}
    for part, rate in expected.items():
        pairs = zip(base.parts[part].parameters(), family.parts[part].parameters(), strict=True)
        most = max((a - b).abs().max().item() for a, b in pairs)
        assert most == pytest.approx(rate, rel=0.05), part


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_rate_of_a_part_that_is_not_trained_is_refused_when_the_recipe_is_read(method) -> None:
    inputs = {name: name for name in ("model", "collection", "selection", "cache")}
    with pytest.raises(ValidationError, match="part_lr names 'text_encoder_1'.*is denoiser"):
        fit.Config(
            **inputs,
            images_total=1,
            method={"kind": method},
            optimizer={"part_lr": {"text_encoder_1": 1e-6}},
        )  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="at least 1"):
        fit.Config(**inputs, images_total=1, method={"kind": method, "parts": ()})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_parts_that_a_model_lacks_are_named(method, trained) -> None:
    with pytest.raises(InputError, match="'text_encoder_3'; expected one of denoiser, unet, text"):
        trained(method={"kind": method, "parts": ("text_encoder_3",)})
    with pytest.raises(InputError, match="'vae'"):
        trained(method={"kind": method, "parts": ("denoiser", "vae")})


def test_the_denoiser_goes_by_its_own_name_too() -> None:
    pixart = tiny_family("pixart-512")
    assert part_names(pixart, ("denoiser",)) == part_names(pixart, ("transformer",))
    order = ("text_encoder_1", "transformer")
    assert part_names(pixart, order) == ("transformer", "text_encoder_1")
    with pytest.raises(InputError, match="more than once"):
        part_names(pixart, ("denoiser", "transformer"))
