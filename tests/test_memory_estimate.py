"""What a fit is said to take is what its tensors take."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.models.skeleton import skeleton_of
from tastemaker.records.size import ImageSizes, Size
from tastemaker.training.average import Average
from tastemaker.training.forecast import FitFacts, forecast_fit
from tastemaker.training.memory_estimate import (
    DEVICE_GB,
    MOMENTS,
    FitPlan,
    MemoryModel,
    usable_bytes,
)
from tastemaker.training.method import FullMethod, LoraMethod, trained_parts
from tastemaker.training.optimizer import build_optimizer
from tastemaker.training.precision import open_precision
from tastemaker.training.settings import AdafactorConfig, AdamWConfig, TrainingSettings
from tests.peak_memory import peak_bytes
from tests.tiny_models import tiny_family

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SIZE = Size(64, 64)
METHODS = {
    "full": FullMethod(),
    "full with text": FullMethod(parts=("denoiser", "text_encoder_1")),
    "lora": LoraMethod(rank=4, targets="attention+ff"),
}
PLAN = FitPlan(METHODS["full"], "fp32", "adamw", 2, False, False, True, SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sdxl")
    tiny_family("sdxl").save(made)
    return made


@pytest.fixture(scope="module")
def tiny(folder: Path) -> MemoryModel:
    return MemoryModel(lambda: skeleton_of(folder))


@pytest.fixture(scope="module")
def sdxl() -> MemoryModel:
    return MemoryModel(lambda: skeleton_of(SDXL))


def size_of(tensors: Any) -> int:
    own = {t.data_ptr(): t for t in tensors if t.ndim}
    return sum(t.numel() * t.element_size() for t in own.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-weights", "fp16"])
def test_every_kind_of_state_is_that_of_a_real_step(
    tiny: MemoryModel, method: str, precision: Any
) -> None:
    family = tiny_family("sdxl")
    modules = trained_parts(family, METHODS[method], 0)
    opened = open_precision(precision, modules, torch.device("cpu"))
    optimizer = build_optimizer(modules, AdamWConfig(), opened.trained)
    average = Average(modules, 0.9, opened.trained)
    for parameter in opened.trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    need = tiny.need(replace(PLAN, method=METHODS[method], precision=precision))
    parts = [t for part in family.parts.values() for t in (*part.parameters(), *part.buffers())]
    own = {p.data_ptr() for p in parts}
    trained = list(opened.trained.values())
    # Positions in texts and the like are buffers of no weight, which count too; scalars do not.
    assert need.weights == pytest.approx(size_of(parts), rel=1e-3)
    assert need.trained == sum(p.numel() for p in trained)
    assert need.masters == size_of(p for p in trained if p.data_ptr() not in own)
    assert need.gradients == size_of(p.grad for p in trained)
    moments = [t for state in optimizer.state.values() for t in state.values()]
    assert need.optimizer == size_of(moments)
    assert need.average == size_of(average.tensors.values())


def test_moments_of_the_other_optimisers() -> None:
    family = tiny_family("sdxl")
    modules = trained_parts(family, FullMethod(), 0)
    optimizer = build_optimizer(modules, AdafactorConfig())
    parameters = [p for part in modules.values() for p in part.parameters()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values()]
    assert MOMENTS["adafactor"](parameters) == size_of(moments)
    large = torch.zeros(1024, 1024)
    # Two bytes a number, and a scale in fp32 for every 256 numbers of each moment.
    assert MOMENTS["adamw8bit"]([large]) == 2 * 2**20 + 2 * 4 * 2**20 // 256
    assert MOMENTS["adamw8bit"]([torch.zeros(100)]) == 800


def test_a_real_step_stays_below_the_estimate_and_near_it(tiny: MemoryModel) -> None:
    """Against torch's own record of allocations of a whole pass of 8 pictures."""
    plan = replace(PLAN, micro_batch=8, average=False)
    need = tiny.need(plan)
    family = tiny_family("sdxl")
    modules = trained_parts(family, METHODS["full"], 0)
    cond = family.conditioning(
        family.encode_text(["a red apple"] * 8, 1), [ImageSizes(SIZE, 0, 0, SIZE)] * 8
    )

    def step() -> None:
        out = family.denoise(torch.zeros(8, 4, 16, 16), torch.zeros(8, dtype=torch.long), cond)
        torch.nn.functional.mse_loss(out, torch.zeros_like(out)).backward()

    step()
    family.unet.zero_grad(set_to_none=True)
    highest = peak_bytes(step)
    passed = need.step - need.weights - need.optimizer
    assert passed == pytest.approx(highest, rel=0.05)
    assert set(modules) == {"unet"}


def test_sdxl_whole_in_the_table_of_the_field(sdxl: MemoryModel) -> None:
    """fp32 weights under autocast: 10.27 + 10.27 + 20.54 GB of state, and 5.13 of casts."""
    size = Size(1024, 1024)
    need = sdxl.need(FitPlan(FullMethod(), "bf16", "adamw", 1, True, False, False, size))
    n = 2_567_463_684
    assert need.trained == n
    text_and_vae = 4 * (123_060_480 + 694_659_840 + 83_653_863)
    assert need.weights == pytest.approx(4 * n + text_and_vae, rel=1e-5)
    assert (need.gradients, need.optimizer, need.masters) == (4 * n, 8 * n, 0)
    # The field's 41.1 GB of state, and activations of one picture with their casts.
    state = need.step - text_and_vae - need.activations
    assert state / 1e9 == pytest.approx(41.1, abs=0.1)
    assert need.activations / 1e9 == pytest.approx(13.86, abs=0.05)
    whole = FitPlan(FullMethod(), "bf16", "adamw", 16, False, False, False, size)
    # The field has 5 and 14 for activations in pure bf16, without text encoders and room to spare.
    assert {gb: sdxl.most_pictures(whole, gb) for gb in (24, 80, 141)} == {24: 0, 80: 3, 141: 10}


def test_more_of_anything_takes_more(tiny: MemoryModel) -> None:
    base = tiny.need(PLAN).total
    assert tiny.need(replace(PLAN, micro_batch=4)).total > base
    assert tiny.need(replace(PLAN, accumulates=True)).total >= base
    assert tiny.need(replace(PLAN, average=False)).total < base
    assert tiny.need(replace(PLAN, checkpointing=True)).activations < tiny.need(PLAN).activations
    assert tiny.need(replace(PLAN, optimizer="adafactor")).total < base
    text = tiny.need(replace(PLAN, kept_texts=10))
    # 12 positions of 16 + 24 numbers, and a pooled text of 16, in fp32.
    assert text.texts == 10 * 4 * (12 * 40 + 16)
    aside = replace(PLAN, validated=64)
    assert tiny.need(aside).validation > tiny.need(replace(aside, average=False)).validation


def test_shards_divide_what_is_trained(tiny: MemoryModel) -> None:
    whole = tiny.need(PLAN)
    plan = replace(PLAN, world=8, parallel="zero3")
    spread = tiny.need(plan)
    assert spread.optimizer == whole.optimizer // 8
    assert spread.average == whole.average // 8
    assert spread.total < tiny.need(replace(plan, parallel="zero2")).total < whole.total
    assert tiny.need(replace(plan, parallel="ddp")).total == whole.total


def test_the_table_says_what_would_make_it_fit(sdxl: MemoryModel) -> None:
    settings = TrainingSettings(images_total=100, batch=8, micro_batch=2, precision="bf16")
    told = forecast_fit(sdxl, settings, FullMethod(), FitFacts(Size(1024, 1024)))
    rows = told.figures["devices"]
    assert set(rows) == {f"{gb} GB" for gb in DEVICE_GB}
    assert rows["141 GB"] == {"fits": True, "with": None}
    assert rows["8 GB"] == {"fits": False, "with": None}
    lora = "method: {kind: lora, rank: 16}, gradient_checkpointing: true"
    assert rows["24 GB"] == {"fits": False, "with": lora}
    assert rows["12 GB"]["with"] == f"{lora}, precision: bf16-weights"
    lines = "\n".join(told.lines)
    assert "memory of whole networks in bf16, 2 pictures of 1024x1024 a pass" in lines
    assert "2,567.46 million numbers trained; weights 12.9 GiB, gradients 9.6 GiB" in lines
    assert "8 GB  does not fit, whatever is changed" in lines
    # Weights and two moments of every number.
    checkpoint = 12 * 2_567_463_684
    assert told.figures["disk"]["checkpoint"] == checkpoint
    assert told.disk_bytes["checkpoints"] == 3 * checkpoint
    assert told.findings == ()


def test_what_fits_on_no_device_is_a_finding(sdxl: MemoryModel) -> None:
    settings = TrainingSettings(images_total=100, batch=64, precision="bf16")
    told = forecast_fit(sdxl, settings, FullMethod(), FitFacts(Size(1024, 1024)))
    (finding,) = told.findings
    assert not finding.fatal
    assert "more than the largest device has, 141 GB" in finding.problem
    assert usable_bytes(141) < 141 * 2**30
