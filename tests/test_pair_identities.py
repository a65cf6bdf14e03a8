"""Pairs as a whole: every option at once against numpy, one gradient, ln 2, memory, documents."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.models.skeleton import skeleton_of
from tastemaker.objectives.dpo import DPO
from tastemaker.recipe.find import packaged_recipes
from tastemaker.recipe.yaml_text import parse_yaml
from tastemaker.records.run import Artefact, Visit
from tastemaker.records.size import Size
from tastemaker.training.memory_estimate import FitPlan, MemoryModel
from tastemaker.training.method import FullMethod, LoraMethod
from tastemaker.training.pair_latents import PairLatents
from tastemaker.training.reference import FrozenReference
from tests.pair_batches import (
    CELLS,
    POLICY,
    PREDICTIONS,
    REFERENCE,
    batch_of,
    schedule_of,
    transcribed_errors,
)
from tests.pair_runs import FULL, fitted, prepared_pairs
from tests.peak_memory import peak_bytes
from tests.preference_toys import PAIRS, learned, made_task, nudge
from tests.tiny_models import tiny_family
from tests.tiny_run import step_dir

LN2 = 0.6931471805599453
UNITS = {"salesforce": 0.5, "spin": 0.5, "diffusers_sd": 1.0, "sum": 0.5 * CELLS,
         "paper": 1000.0 * CELLS}  # fmt: skip


@settings(max_examples=60)
@given(
    prediction=st.sampled_from(PREDICTIONS),
    convention=st.sampled_from(list(UNITS)),
    link=st.sampled_from(["logistic", "ipo", "hinge"]),
    space=st.sampled_from(["native", "eps", "v", "x0"]),
    guard=st.sampled_from(["none", "sdpo"]),
    smoothing=st.sampled_from([0.0, 0.15]),
    sft=st.sampled_from([0.0, 0.3]),
    offset=st.sampled_from([0.0, 0.07]),
)
def test_every_combination_of_options(
    prediction: Any, convention: Any, link: Any, space: Any, guard: Any,
    smoothing: float, sft: float, offset: float,
) -> None:  # fmt: skip
    """p f(u) + (1 - p) f(-u) + w e, u = c m: written anew, with all of its parts together."""
    schedule, batch = schedule_of(prediction), batch_of()
    beta = 2.0 / UNITS[convention]
    objective = DPO(beta, convention, link, smoothing, guard, 0.6, space, sft, offset)
    found = objective(POLICY, REFERENCE, batch, schedule).per_sample
    e, _, a = transcribed_errors(batch, schedule, 1.3, offset)
    r, _, _ = transcribed_errors(batch, schedule, 0.8, offset)
    # An answer that is off by d is off in eps by d, by sqrt(a) d where it is v, and so on.
    as_eps = {"epsilon": 1.0, "v_prediction": a, "sample": a / (1 - a)}[prediction]
    to = {"native": 1 / as_eps, "eps": 1.0, "v": 1 / a, "x0": (1 - a) / a}[space]
    u = UNITS[convention] * as_eps * to * ((r[0] - e[0]) - (r[1] - e[1]))
    f = {
        "logistic": lambda z: np.logaddexp(0, -beta * z),
        "ipo": lambda z: (z - 1 / (2 * beta)) ** 2,
        "hinge": lambda z: np.maximum(0, 1 - beta * z),
    }[link]
    label = batch.label.numpy()
    p = (1 - smoothing) * label + smoothing * (1 - label)
    expected = p * f(u) + (1 - p) * f(-u) + sft * (label * e[0] + (1 - label) * e[1])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# --- one gradient ---------------------------------------------------------------------------------


class Wide:
    """The made pairs in float64."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def read(self, pair_id: str, visit: int) -> PairLatents:
        one = self.reader.read(pair_id, visit)
        return dataclasses.replace(one, winner=one.winner.double(), loser=one.loser.double())


def test_64_pairs_give_one_gradient_in_any_micro_batches() -> None:
    """Through a whole network, text and draws; float64, as rounding in float32 is 1e-6 to 5e-6."""
    grads = []
    for size in (64, 8, 1):
        objective = DPO(20.0, guard="sdpo", sft_weight=0.1, label_smoothing=0.05)
        task = made_task("sdxl", objective, held_out=())
        for part in task.family.parts.values():
            part.double()
        task.reader, task.reference = Wide(task.reader), FrozenReference(task.family)
        nudge(task)
        visits = task.padded([Visit(p, n) for n in range(11) for p in PAIRS[:6]][:64])
        for start in range(0, 64, size):
            (task.terms(visits[start : start + size]).per_sample.sum() / 64).backward()
        found = [p.grad.flatten() for p in learned(task).values() if p.grad is not None]
        grads.append(torch.cat(found))
    assert grads[0].dtype == torch.float64
    assert grads[0].norm() > 1e-3
    for other in grads[1:]:
        assert (other - grads[0]).abs().max() < 1e-12 * grads[0].abs().max()


# --- the first step -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared_pairs(tmp_path_factory.mktemp("pairs"), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    ("precision", "reference"),
    [
        ("fp16", {}),
        ("bf16", {"half": True}),
        ("bf16", {"kind": "table"}),
        ("bf16-weights", {"kind": "ema"}),
    ],
)
def test_a_run_begins_at_ln_2_in_every_precision(precision, reference, pairs, tmp_path) -> None:
    """By its log: the loss of the first step, as the trainer computed it."""
    fields = {"method": FULL, "precision": precision, "objective": {"reference": reference}}
    step = step_dir(tmp_path, "fit")
    fitted(step, pairs, **{**fields, "images_total": 4})
    rows = (step.path / "log" / "metrics.jsonl").read_text().splitlines()
    (first,) = [row for row in map(json.loads, rows) if row.get("loss") is not None][:1]
    assert first["loss"] == pytest.approx(LN2, abs=1e-6)
    assert first["accuracy"] == 0.5


def test_a_reference_has_storage_of_its_own() -> None:
    """A reference that is the policy under another name learns along, and costs ln 2 for ever."""
    for kind in ("copy", "stream", "ema"):
        task = made_task("sd15", reference=kind, decay=1.0)
        policy = {p.untyped_storage().data_ptr() for p in learned(task).values()}
        made: Any = task.reference
        own = made.tensors().values() if kind == "ema" else made._network.parameters()  # noqa: SLF001
        assert not policy & {t.untyped_storage().data_ptr() for t in own}, kind


# --- memory ---------------------------------------------------------------------------------------

MEMORY = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
COLUMNS = ("none", "auto", "copy", "step", "stream", "ema")
MODELS = {
    "SD1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "SDXL": "stabilityai/stable-diffusion-xl-base-1.0",
    "PixArt": "PixArt-alpha/PixArt-XL-2-512x512",
}


@pytest.mark.parametrize(
    "family",
    ["SD1.5", pytest.param("SDXL", marks=pytest.mark.slow),
     pytest.param("PixArt", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_table_of_memory_is_what_is_computed(family: str) -> None:
    model = MemoryModel(lambda: skeleton_of(MODELS[family]))
    pattern = rf"^\| {re.escape(family)}, (\d+) \| (full|lora) \| (.*) \|$"
    lines = re.findall(pattern, MEMORY.read_text(), re.MULTILINE)
    assert [kind for _, kind, _ in lines] == ["full", "lora"]
    for side, kind, cells in lines:
        method = FullMethod() if kind == "full" else LoraMethod()
        size = Size(int(side), int(side))
        for reference, cell in zip(COLUMNS, cells.split(" | "), strict=True):
            if cell == "-":
                continue
            plan = FitPlan(
                method, "bf16", "adamw", 1, True, True, False, size, rows=2, reference=reference
            )
            assert f"{model.need(plan).step / 2**30:.1f}" == cell, (kind, reference)


@pytest.mark.parametrize(
    ("method", "reference"),
    [(FullMethod(), "copy"), (FullMethod(), "ema"), (LoraMethod(rank=2, alpha=2.0), "auto")],
)
def test_a_real_step_of_pairs_is_what_is_estimated(method, reference, tmp_path) -> None:
    """Against torch's own record of allocations: the reference answers while a graph waits."""
    lora = method.kind == "lora"
    kind = "off" if lora else reference
    task = made_task("sdxl", DPO(5.0), reference=kind, lora=lora, held_out=())
    visits = list(task.padded([Visit(p, n) for n in range(2) for p in PAIRS[:6]][:8]))
    tiny_family("sdxl").save(tmp_path)
    plan = FitPlan(
        method, "fp32", "adamw", 8, False, False, False, Size(32, 32), rows=2, reference=reference
    )
    need = MemoryModel(lambda: skeleton_of(tmp_path)).need(plan)

    def step() -> None:
        task.terms(visits).per_sample.mean().backward()

    step()
    for parameter in learned(task).values():
        parameter.grad = None
    highest = peak_bytes(step)
    passed = need.step - need.weights - need.optimizer - need.reference
    assert highest < passed < 1.06 * highest


# --- recipes --------------------------------------------------------------------------------------

PAIRED = [name for name, path in packaged_recipes().items() if "stage: pairs" in path.read_text()]


@pytest.mark.parametrize("name", PAIRED)
def test_pictures_that_become_pairs_leave_their_latents(name: str) -> None:
    """What a model draws to be trained on is not decoded, stored and encoded again."""
    steps = parse_yaml(packaged_recipes()[name].read_text(), name).value["steps"]
    drawn = {s["name"]: s for s in steps if s["stage"] == "generate"}
    of_pairs = [s["samples"] for s in steps if s["stage"] == "pairs" and "samples" in s]
    for called in of_pairs:
        assert drawn[called].get("keep_latents") is True, called
    for s in steps:
        if s["stage"] == "cache_pairs":
            assert s.get("reuse_generated", True)
