"""The fit step: full and LoRA, killed and resumed, and what it refuses."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.errors import InputError, StaleCache
from tastemaker.models.adapters import load_lora
from tastemaker.models.autoencoder import build_autoencoder
from tastemaker.models.family import load_family
from tastemaker.records.run import Artefact, Manifest
from tastemaker.stages import cache, fit
from tastemaker.store.rundir import StepDir
from tastemaker.training.diffusion import DiffusionTask
from tests.tiny_models import CONFIG, tiny_sdxl
from tests.tiny_run import collected, prepared, run_step, step_dir, write_pictures

SHORT = {
    "images_total": 24,
    "batch": 4,
    "held_out": 2,
    "stable_images": 2,
    "log_every_images": 4,
    "validate_every_images": 12,
    "save_every_images": 8,
    "optimizer": {"lr": 1e-2},
    "prompts": {"kind": "captions", "weights": (2.0, 1.0)},
}
LORA = {"method": {"kind": "lora", "rank": 2, "alpha": 2.0}}
TEXT = ("unet", "text_encoder_1", "text_encoder_2")
FULL = {"method": {"kind": "full", "parts": TEXT}}
WAYS = {
    "lora": LORA,
    "lora in bf16, averaged": {**LORA, "precision": "bf16", "ema_decay": 0.9},
    "DoRA and rsLoRA in text encoders too, averaged, bf16": {
        "method": {
            **LORA["method"],
            "parts": ("denoiser", "text_encoder_1", "text_encoder_2"),
            "dora": True,
            "rslora": True,
            "init": "gaussian",
        },
        "optimizer": {"lr": 1e-2, "part_lr": {"denoiser": 2e-2, "text_encoder_2": 1e-3}},
        "precision": "bf16",
        "ema_decay": 0.9,
    },
    "text encoders too, averaged, bf16": {
        **FULL,
        "precision": "bf16",
        "ema_decay": 0.9,
        "micro_batch": 2,
        "lr_course": {"shape": "cosine", "warmup_images": 4},
    },
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared(tmp_path_factory.mktemp("run"), tmp_path_factory.getbasetemp())


def work(step: StepDir, given: dict[str, Artefact], **fields: object) -> Manifest:
    return run_step(fit, step, given, **{**SHORT, **fields})[0]


def weights(step: StepDir) -> dict[str, torch.Tensor]:
    """All tensors of the result, by file and name."""
    found = {}
    for kind in ("model", "adapter"):
        for file in sorted((step.path / kind).rglob("*.safetensors")):
            part = file.relative_to(step.path)
            found |= {f"{part} {name}": tensor for name, tensor in load_file(file).items()}
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(step: StepDir) -> str:
    return (step.path / "log" / "metrics.jsonl").read_text()


def dies_in_step(number: int, batch_calls: int, monkeypatch: pytest.MonkeyPatch, die) -> None:
    """From now on the task dies in its n-th optimiser step."""
    terms, calls = DiffusionTask.terms, []

    def terms_or_die(self, visits):
        calls.append(1)
        if len(calls) > (number - 1) * batch_calls:
            die()
        return terms(self, visits)

    monkeypatch.setattr(DiffusionTask, "terms", terms_or_die)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", WAYS)
def test_killed_and_run_again_equals_one_run(way, given, tmp_path, monkeypatch):
    fields = WAYS[way]
    straight, resumed = step_dir(tmp_path, "straight"), step_dir(tmp_path, "resumed")
    whole = work(straight, given, **fields)
    # Checkpoints are made at 8, 16 and 24 images: the fourth step is lost, and done again.
    dies_in_step(4, 2 if "micro_batch" in fields else 1, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        work(resumed, given, **fields)
    monkeypatch.undo()
    assert not (resumed.path / "model").exists()
    assert not (resumed.path / "adapter").exists()
    assert work(resumed, given, **fields).results == whole.results
    assert weights(straight)
    assert same(weights(straight), weights(resumed))
    assert metrics(straight) == metrics(resumed)
    assert len(metrics(straight).splitlines()) >= 6


def test_a_process_that_is_shot_resumes_too(given, tmp_path, monkeypatch):
    straight, resumed = step_dir(tmp_path, "straight"), step_dir(tmp_path, "resumed")
    work(straight, given, **LORA)
    if (child := os.fork()) == 0:
        dies_in_step(6, 1, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        try:
            work(resumed, given, **LORA)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    work(resumed, given, **LORA)
    assert same(weights(straight), weights(resumed))
    assert metrics(straight) == metrics(resumed)


def test_lora_trains_the_adapter_and_leaves_the_base_alone(given, tmp_path):
    step = step_dir(tmp_path, "fit")
    before = {f: f.read_bytes() for f in Path(given["model"].path).rglob("*.safetensors")}
    manifest = work(step, given, **LORA)
    assert manifest.outputs == {"adapter": "adapter", "log": "log", "checkpoints": "checkpoints"}
    counts = dict(manifest.counts)
    assert counts.pop("MiB of checkpoints") >= 0  # a toy model: rounded to none
    assert counts == {
        "images": 24,
        "steps": 6,
        "pictures trained on": 8,
        "pictures held out": 2,
        "checkpoints kept whole": 2,
    }
    assert all(f.read_bytes() == data for f, data in before.items())
    assert {"validation/loss", "stable/loss", "validation/loss_t950"} <= manifest.results.keys()
    trained, base = load_family(str(given["model"].path)), load_family(str(given["model"].path))
    load_lora(trained, step.path / "adapter")
    own = {n: p for n, p in trained.parts["unet"].named_parameters() if "lora_" not in n}
    theirs = dict(base.parts["unet"].named_parameters())
    assert len(own) == len(theirs)
    assert all(torch.equal(p, theirs[n.replace(".base_layer", "")]) for n, p in own.items())
    ups = [p for n, p in trained.parts["unet"].named_parameters() if "lora_B" in n]
    assert ups
    assert all(p.abs().max() > 0 for p in ups)


def test_a_full_fit_changes_the_named_parts_only(given, tmp_path):
    step = step_dir(tmp_path, "fit")
    manifest = work(step, given, method={"kind": "full"}, ema_decay=0.5)
    assert manifest.outputs == {"model": "model", "log": "log", "checkpoints": "checkpoints"}
    after, before = load_family(step.path / "model"), load_family(str(given["model"].path))
    for name, part in before.parts.items():
        pairs = zip(
            part.state_dict().values(), after.parts[name].state_dict().values(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs) == (name != "unet"), name


def test_the_micro_batch_only_changes_the_memory(given, tmp_path):
    steps = [step_dir(tmp_path, name) for name in ("whole", "parts")]
    for step, micro in zip(steps, (4, 1), strict=True):
        work(step, given, **LORA, micro_batch=micro)
    whole, parts = weights(steps[0]), weights(steps[1])
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_training_lowers_the_loss_of_the_pictures(given, tmp_path):
    step = step_dir(tmp_path, "fit")
    fields = {"method": {"kind": "full"}, "images_total": 160, "save_every_images": 1000}
    objective = {"kind": "sft", "weighting": "plain"}
    work(step, given, **fields, optimizer={"lr": 3e-3}, objective=objective)

    rows = [json.loads(line) for line in metrics(step).splitlines()]
    losses = [row["stable/loss"] for row in rows if "stable/loss" in row]
    assert losses[-1] < 0.9 * losses[0]


def test_latents_of_another_autoencoder_are_refused(given, tmp_path):
    other = tiny_sdxl(in_channels=8, out_channels=8)
    other.vae = build_autoencoder({**CONFIG["vae"], "latent_channels": 8})
    other.save(tmp_path / "other")
    mixed = {**given, "model": Artefact("model", tmp_path / "other", "o")}
    with pytest.raises(
        StaleCache, match=r"4 channels.*8 channels.*Run the cache step with the model"
    ):
        work(step_dir(tmp_path, "fit"), mixed, **LORA)


def test_pictures_without_a_caption_are_named_with_what_to_do(given, tmp_path):
    folder = write_pictures(tmp_path / "pictures", 4)
    (folder / "01.txt").unlink()
    bare = {**given, **collected(tmp_path, folder)}
    _, made = run_step(cache, step_dir(tmp_path, "cache"), bare, size_px=32)
    with pytest.raises(InputError, match=r"1 pictures without a caption.*Add captions"):
        work(step_dir(tmp_path, "fit"), {**bare, **made}, **LORA, held_out=0)


def test_something_must_be_left_to_train_on(given, tmp_path):
    with pytest.raises(
        InputError, match=r"held_out.*10.*fewer than the 10 pictures.*Lower held_out"
    ):
        work(step_dir(tmp_path, "fit"), given, **LORA, held_out=10)
