"""Two real processes equal one: DDP and FSDP2, full and LoRA; checkpoints fit any number of them.

All fits of a launch are done one after another by the same two processes: loading takes longer.
"""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.records.run import Artefact
from tastemaker.stages import fit
from tastemaker.store.rundir import StepDir
from tastemaker.training.diffusion import DiffusionTask
from tests.tiny_run import prepared, run_step, step_dir
from tests.two_processes import in_two_processes

pytestmark = pytest.mark.timeout(300)

SHORT: dict[str, Any] = {
    "images_total": 16,
    "batch": 3,  # eight pictures: batches of 3, 3 and 2, so that no process has half of them
    "micro_batch": 1,
    "held_out": 2,
    "stable_images": 2,
    "log_every_images": 3,
    "validate_every_images": 100,
    "save_every_images": 6,
    "optimizer": {"lr": 1e-2},
    "ema_decay": 0.5,
    "clip_norm": 0.5,
}
FULL = {"method": {"kind": "full", "parts": ["unet", "text_encoder_1"]}}
LORA = {"method": {"kind": "lora", "rank": 2, "alpha": 2.0, "targets": "attention+ff"}}
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "full ddp": ({**FULL, "parallel": "ddp"}, 1e-4),
    "full zero2": ({**FULL, "parallel": "zero2"}, 1e-4),
    "full zero3": ({**FULL, "parallel": "zero3"}, 1e-4),
    "lora ddp": ({**LORA, "parallel": "ddp"}, 1e-4),
    "lora zero3": ({**LORA, "parallel": "zero3"}, 1e-4),
    "lora zero2 fp16": ({**LORA, "parallel": "zero2", "precision": "fp16"}, 1e-3),
    "full zero3 bf16": ({**FULL, "parallel": "zero3", "precision": "bf16-weights"}, 0.1),
}
"""Configuration, and how far weights may be apart from those of one process, as a part of how far
they moved.

A first step of Adam moves a weight by its whole rate, however small its gradient: where rounding
decides a gradient's sign, as it often does in bf16, it decides the direction too."""


def job(step: StepDir, given: dict[str, Artefact], **fields: Any) -> dict[str, Any]:
    inputs = [(n, (a.kind, str(a.path), a.key)) for n, a in given.items() if n in fit.Config.inputs]
    return {
        "step": (str(step.path), step.name, step.key),
        "inputs": inputs,
        "fields": {**SHORT, **fields},
    }


def alone(step: StepDir, given: dict[str, Artefact], **fields: Any) -> StepDir:
    run_step(fit, step, given, **{**SHORT, **fields})
    return step


class Made:
    """What launches of two processes and runs of one left, by the name of the way."""

    def __init__(self, root: Path, given: dict[str, Artefact]) -> None:
        self.root, self.given = root, given
        self.killed = self.step("killed")
        jobs = [job(self.step(way), given, **fields) for way, (fields, _) in WAYS.items()]
        dying = job(self.killed, given, **FULL, parallel="zero2")
        self.codes = in_two_processes(root / "first", [*jobs, {**dying, "dies_after": 8}])
        self._alone: dict[str, StepDir] = {}
        model = Path(given["model"].path)
        self.base = {
            f"model/{file.relative_to(model)} {name}": tensor
            for file in model.rglob("*.safetensors")
            for name, tensor in load_file(file).items()
        }

    def step(self, name: str) -> StepDir:
        return step_dir(self.root, name)

    def copy(self, source: StepDir, name: str) -> StepDir:
        shutil.copytree(source.path, self.step(name).path)
        return self.step(name)

    def one_process(self, way: str) -> StepDir:
        fields = {name: value for name, value in WAYS[way][0].items() if name != "parallel"}
        key = json.dumps(fields)
        if key not in self._alone:
            self._alone[key] = alone(self.step(f"alone {way}"), self.given, **fields)
        return self._alone[key]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("parallel")
    return Made(root, prepared(root / "given", tmp_path_factory.getbasetemp()))


def weights(step: StepDir) -> dict[str, torch.Tensor]:
    """All tensors of the result, by file and name."""
    found = {}
    for kind in ("model", "adapter"):
        for file in sorted((step.path / kind).rglob("*.safetensors")):
            part = file.relative_to(step.path)
            found |= {f"{part} {name}": tensor for name, tensor in load_file(file).items()}
    assert found, sorted(step.path.iterdir())
    return found


def logs(step: StepDir) -> list[str]:
    return [(step.path / "log" / f"metrics.{kind}").read_text() for kind in ("jsonl", "csv")]


def rows(step: StepDir) -> list[dict[str, float]]:
    return [json.loads(line) for line in logs(step)[0].splitlines()]


def length(tensors: list[torch.Tensor]) -> float:
    return torch.cat([tensor.double().flatten() for tensor in tensors]).norm().item()


def assert_alike(one: StepDir, other: StepDir, base: dict[str, torch.Tensor], part: float) -> None:
    """Weights, and every figure of the log, are the same but for rounding."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    moved = length([tensor - base.get(name, 0) for name, tensor in ours.items()])
    apart = length([tensor - theirs[name] for name, tensor in ours.items()])
    assert moved > 0.1
    assert apart < part * moved
    assert [row.keys() for row in rows(one)] == [row.keys() for row in rows(other)]
    for row, their in zip(rows(one), rows(other), strict=True):
        for name, value in row.items():
            if name == "clipped_share" and part > 1e-2:
                continue  # a norm beside the limit
            assert their[name] == pytest.approx(value, rel=10 * part, abs=1e-9), name


def assert_same(one: StepDir, other: StepDir) -> None:
    """Weights and logs are the same to the last bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert logs(one) == logs(other)


def test_a_process_that_is_shot_ends_the_other_one(made):
    # Rarely gloo aborts where it should raise.
    assert made.codes[0] in (1, -signal.SIGABRT)
    assert made.codes[1] == -signal.SIGKILL
    told = (made.root / "first" / "told.0").read_text()
    assert "gloo" in told, told
    assert not (made.killed.path / "model").exists()


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one(way, made):
    _, tolerance = WAYS[way]
    assert_alike(made.one_process(way), made.step(way), made.base, tolerance)
    if tolerance < 1e-3:
        # The fixed grid is no average over draws: before the first step it is the same number.
        first = [rows(step)[0]["stable/loss"] for step in (made.one_process(way), made.step(way))]
        assert first[0] == first[1]


def test_only_sharded_forms_spread_their_checkpoints(made):
    files = {
        way: {file.name for file in (made.step(way).path / "checkpoints").rglob("*.safetensors")}
        for way in WAYS
    }
    spread = {f"{group}.1.safetensors" for group in ("weights", "optimizer", "average", "random")}
    assert {way for way, names in files.items() if spread <= names} == set(WAYS) - {
        "full ddp",
        "lora ddp",
    }
    assert files["full ddp"] & spread == {"random.1.safetensors"}
    # Nothing is stored twice: both forms take the same room, but for headers.
    sizes = [
        sum(f.stat().st_size for f in (made.step(way).path / "checkpoints").rglob("*.safetensors"))
        for way in ("full ddp", "full zero3")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25)


def test_a_checkpoint_goes_on_in_any_form_with_any_number_of_processes(made, monkeypatch):
    straight = made.step("full zero2")
    forms = {form: made.copy(made.killed, f"on as {form}") for form in ("zero2", "zero3", "ddp")}
    single = made.copy(made.killed, "on alone")
    begun_alone = made.step("begun alone")
    terms, calls = DiffusionTask.terms, []

    def stop(self: DiffusionTask, visits: Any) -> Any:
        calls.append(1)
        if len(calls) > 13:
            raise KeyboardInterrupt
        return terms(self, visits)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionTask, "terms", stop)
        with pytest.raises(KeyboardInterrupt):
            alone(begun_alone, made.given, **FULL)
    jobs = [job(step, made.given, **FULL, parallel=form) for form, step in forms.items()]
    jobs.append(job(begun_alone, made.given, **FULL, parallel="zero3"))
    assert in_two_processes(made.root / "second", jobs) == [0, 0]
    alone(single, made.given, **FULL)
    assert_same(forms["zero2"], straight)
    for step in (forms["zero3"], forms["ddp"], single, begun_alone):
        assert_alike(straight, step, made.base, 1e-4)
