"""One global batch of pairs gives one gradient: in any micro-batches, and in two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.records.run import Artefact
from tastemaker.stages import fit_pairs
from tastemaker.store.checkpoints import CheckpointStore
from tastemaker.store.rundir import StepDir
from tests.pair_runs import FIELDS, FULL, fitted, prepared_pairs, result
from tests.tiny_run import step_dir
from tests.two_processes import in_two_processes

pytestmark = pytest.mark.timeout(300)

SMOOTH = {"beta": 5.0, "sft_weight": 0.1, "guard": "sdpo"}
ONE_STEP: dict[str, Any] = {
    **FIELDS, "images_total": 64, "batch": 64, "method": FULL, "clip_norm": 1e9,
    "objective": {**SMOOTH, "reference": {"kind": "frozen"}}, "save_every_images": 64,
}  # fmt: skip
LONGER: dict[str, Any] = {"images_total": 48, "batch": 12, "micro_batch": 3}
FOLLOWING = {"kind": "ema", "decay": 0.5}
GRADIENTS: dict[str, tuple[dict[str, Any], float]] = {
    "winners": ({**ONE_STEP, "objective": {"kind": "sft_winners"}}, 2e-6),
    # The two sides' gradients nearly cancel, so that rounding in float32 counts for more.
    "dpo": (ONE_STEP, 1e-5),
}
JOBS: dict[str, dict[str, Any]] = {
    **{name: {**fields, "micro_batch": 8} for name, (fields, _) in GRADIENTS.items()},
    "ema": {**FIELDS, **LONGER, "objective": {**SMOOTH, "auto_beta": {}, "reference": FOLLOWING}},
    "table": {**FIELDS, **LONGER, "objective": {**SMOOTH, "reference": {"kind": "table"}}},
    "zero3": {**FIELDS, **LONGER, "method": FULL, "optimizer": {"lr": 1e-3}, "parallel": "zero3",
              "objective": {**SMOOTH, "reference": {"how": "copy"}}},
}  # fmt: skip
REFUSED = {
    "ema zero2": {**FIELDS, "parallel": "zero2", "objective": {"reference": FOLLOWING}},
    "off zero3": {**FIELDS, "parallel": "zero3"},
}


class Made:
    def __init__(self, root: Path, given: dict[str, Artefact]) -> None:
        self.root, self.given = root, given
        inputs = [(n, (a.kind, str(a.path), a.key)) for n, a in given.items()]
        jobs = []
        for name, fields in {**JOBS, **REFUSED}.items():
            step = self.step(name)
            one = {"step": (str(step.path), step.name, step.key), "inputs": inputs}
            more = {"stage": "fit_pairs", "fields": fields, "refused": name in REFUSED}
            jobs.append({**one, **more})
        codes = in_two_processes(root, jobs)
        assert codes == [0, 0], (root / "told.1").read_text()[-3000:]

    def step(self, name: str) -> StepDir:
        return step_dir(self.root, name.replace(" ", "-"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("together")
    return Made(root, prepared_pairs(root / "given", tmp_path_factory.getbasetemp(), 66))


def gradient(step: StepDir) -> torch.Tensor:
    """Of the only step: AdamW's first moment is a tenth of it."""
    found = CheckpointStore(step.path / "checkpoints").latest()
    assert found is not None
    named = {n: t for n, t in found.tensors["optimizer"].items() if n.endswith("/exp_avg")}
    assert named
    return torch.cat([named[n].double().flatten() for n in sorted(named)]) * 10


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", GRADIENTS)
def test_one_batch_gives_one_gradient(name, made, tmp_path) -> None:
    fields, most = GRADIENTS[name]
    whole = step_dir(tmp_path, "64")
    fitted(whole, made.given, **fields)
    expected = gradient(whole)
    assert float(expected.norm()) > 1e-3
    for size in (8, 1):
        step = step_dir(tmp_path, f"{size}")
        fitted(step, made.given, **fields, micro_batch=size)
        assert apart(gradient(step), expected) < most, size
    assert apart(gradient(made.step(name)), expected) < most


@pytest.mark.parametrize("name", [name for name in JOBS if name not in GRADIENTS])
def test_two_processes_are_one(name, made, tmp_path) -> None:
    alone = step_dir(tmp_path, name)
    fitted(alone, made.given, **{k: v for k, v in JOBS[name].items() if k != "parallel"})
    ours, theirs = result(made.step(name)), result(alone)
    start = load_file(
        Path(made.given["model"].path) / "unet" / "diffusion_pytorch_model.safetensors"
    )
    moved = sum(float((t - start.get(n, 0 * t)).square().sum()) for n, t in theirs.items())
    between = sum(float((t - ours[n]).square().sum()) for n, t in theirs.items())
    assert (between / moved) ** 0.5 < 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_a_reference_inside_sharded_weights_is_refused(name, made) -> None:
    for rank in range(2):
        told = (made.step(name).path / f"refused.{rank}").read_text()
        assert "how: copy" in told
        assert "ddp" in told


def test_one_process_alone_may_have_any_form(made, tmp_path) -> None:
    config = fit_pairs.Config(model="model", pairs="pairs", cache="cache", **REFUSED["off zero3"])
    assert config.parallel == "zero3"
    fitted(step_dir(tmp_path, "alone"), made.given, **{**REFUSED["off zero3"], "images_total": 4})
