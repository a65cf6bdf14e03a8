"""Loss masks in the fit step, and captions that were edited after latents were cached."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from tastemaker.errors import InputError, PictureError
from tastemaker.objectives.protocol import SingleBatch, Terms
from tastemaker.objectives.sft import SFT
from tastemaker.records.run import Artefact, Manifest
from tastemaker.stages import cache, fit
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.rundir import StepDir
from tastemaker.training.diffusion import DiffusionTask
from tests.tiny_models import saved_sdxl
from tests.tiny_run import Artefacts, collected, prepared, run_step, step_dir, write_pictures

SHORT = {
    "images_total": 16,
    "batch": 4,
    "held_out": 2,
    "stable_images": 2,
    "log_every_images": 4,
    "validate_every_images": 8,
    "optimizer": {"lr": 1e-2},
    "method": {"kind": "lora", "rank": 2, "alpha": 2.0},
}
FIELDS = {"boxes": "list<float32>", "scores": "list<float32>"}
NO_BOX = {"boxes": [], "scores": []}
LEFT = {"boxes": [0.0, 0.0, 0.5, 1.0], "scores": [0.9]}
WHOLE = {"boxes": [0.0, 0.0, 1.0, 1.0], "scores": [0.9]}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared(tmp_path / "made", tmp_path_factory.getbasetemp())


def watermarks(given: Artefacts, values: dict[str, dict[str, Any]]) -> None:
    """A finished column of boxes, as curate leaves it; key of a picture -> its values."""
    catalogue, key = Catalogue(given["collection"].path), ColumnKey("watermark", 1)
    (part,) = catalogue.parts()
    rows = {r.record.id: values.get(r.record.key, NO_BOX) for r in catalogue.rows(part)}
    catalogue.write_rows(key, part, rows, FIELDS)
    catalogue.finish_column(key, FIELDS)


def work(step: StepDir, given: Artefacts, **fields: Any) -> Manifest:
    return run_step(fit, step, given, **{**SHORT, **fields})[0]


def adapter(step: StepDir) -> dict[str, torch.Tensor]:
    (file,) = (step.path / "adapter").rglob("*.safetensors")
    return load_file(file)


def same(a: StepDir, b: StepDir) -> bool:
    one, other = adapter(a), adapter(b)
    return all(torch.equal(one[name], other[name]) for name in one)


def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor | None]:
    """The weights of every batch that the objective gets."""
    found: list[torch.Tensor | None] = []
    call = SFT.__call__

    def spy(self: SFT, policy: Any, references: Any, batch: SingleBatch, schedule: Any) -> Terms:
        found.append(batch.weight)
        return call(self, policy, references, batch, schedule)

    monkeypatch.setattr(SFT, "__call__", spy)
    return found


def test_boxes_of_the_column_become_weights_of_the_batches(given, tmp_path, monkeypatch):
    watermarks(given, {f"{n:02}.png": LEFT for n in range(5)})
    batches = seen(monkeypatch)
    manifest = work(step_dir(tmp_path, "fit"), given, loss_mask={"kind": "watermark"})
    marked = manifest.counts["latents with a loss mask"]
    assert 3 <= marked <= 5  # two of ten pictures are held out
    found = torch.cat([batch for batch in batches if batch is not None])
    assert found.shape[1:] == (1, 8, 8)
    half = torch.ones(1, 8, 8)
    half[..., :4] = 0
    kinds = {"half" if torch.equal(w, half) else "whole" if (w == 1).all() else "?" for w in found}
    assert kinds == {"half", "whole"}


def test_boxes_that_mask_nothing_train_the_same_bits(given, tmp_path, monkeypatch):
    watermarks(given, {})
    batches = seen(monkeypatch)
    plain, boxes = step_dir(tmp_path, "plain"), step_dir(tmp_path, "boxes")
    whole = work(plain, given)
    manifest = work(boxes, given, loss_mask={"kind": "watermark"})
    assert manifest.counts.pop("latents with a loss mask") == 0
    assert all(weight is None for weight in batches)
    assert manifest.counts == whole.counts
    assert same(plain, boxes)


def test_masks_change_the_training_and_not_the_validation(given, tmp_path):
    watermarks(given, {f"{n:02}.png": LEFT for n in range(10)})
    steps = [step_dir(tmp_path, name) for name in ("plain", "masked")]
    for step, kind in zip(steps, ("none", "watermark"), strict=True):
        work(step, given, loss_mask={"kind": kind})
    assert not same(*steps)
    first = [json.loads((s.path / "log/metrics.jsonl").read_text().splitlines()[0]) for s in steps]
    figures = [{k: v for k, v in one.items() if "/loss" in k} for one in first]
    assert figures[0].keys() >= {"validation/loss", "stable/loss"}
    assert figures[0] == figures[1]  # before the first step the models are the same


def test_a_picture_of_nothing_but_a_watermark_stops_before_the_first_step(given, tmp_path):
    watermarks(given, {f"{n:02}.png": WHOLE for n in range(10)})
    step = step_dir(tmp_path, "fit")
    with pytest.raises(
        InputError, match=r"loss mask of picture [0-9a-f]{12}: got no cell"
    ) as error:
        work(step, given, loss_mask={"kind": "watermark"})
    ids = {r.id[:12] for r in Catalogue(given["collection"].path).records()}
    assert any(name in str(error.value) for name in ids)
    assert not (step.path / "log").exists()
    work(step, given, loss_mask={"kind": "watermark", "least_weight": 0.1})


def test_a_column_that_nobody_measured_is_an_error(given, tmp_path):
    with pytest.raises(InputError, match="no finished column 'watermark'"):
        work(step_dir(tmp_path, "fit"), given, loss_mask={"kind": "watermark"})
    with pytest.raises(ValidationError, match="column"):
        work(step_dir(tmp_path, "fit"), given, loss_mask={"kind": "watermark", "column": 'a"b'})


def test_mask_files_go_with_every_crop(tmp_path, tmp_path_factory, monkeypatch):
    """Wide pictures cut at random: the mask's border moves with the crop."""
    folder = write_pictures(tmp_path / "pictures", 4)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        mask = np.zeros((32, 64), np.uint8)
        mask[:, 32:] = 255
        Image.fromarray(mask).save(folder / f"{number:02}-masklabel.png")
    made = collected(tmp_path, folder)
    assert len(list(Catalogue(made["collection"].path).records())) == 4
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    fields = {"size_px": 32, "crop": "random", "crops": 3}
    _, latents = run_step(cache, step_dir(tmp_path, "cache"), made, **fields)
    given, batches = {**made, **latents}, seen(monkeypatch)
    fields = {"held_out": 0, "stable_images": 0, "loss_mask": {"kind": "files"}}
    lefts: list[int] = []
    call = DiffusionTask.terms

    def terms(self: DiffusionTask, visits: Any) -> Terms:
        lefts.extend(self.latent_of(v.sample_id, v.visit)[1].crop_left for v in visits)
        return call(self, visits)

    monkeypatch.setattr(DiffusionTask, "terms", terms)
    work(step_dir(tmp_path, "fit"), given, **fields)
    columns = torch.cat([w if w is not None else torch.ones(4, 1, 8, 8) for w in batches])[:, 0, 0]
    assert len(set(lefts)) > 4
    for left, row in zip(lefts, columns, strict=True):
        edges = left + 4 * np.arange(9)
        expected = np.clip(edges[1:] - 32, 0, 4) / 4
        np.testing.assert_allclose(row, expected, rtol=1e-6)
    (folder / "02-masklabel.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match="02-masklabel.png"):
        work(step_dir(tmp_path, "again"), given, **fields)


def test_V8_an_edited_caption_is_what_is_trained_on(tmp_path, tmp_path_factory, monkeypatch):
    """V8: embeddings cached by the picture's path; an edited caption kept its old ones.

    Nothing of a caption is cached here. Text states are kept for one run, by the exact text.
    """
    texts: set[str] = set()
    states = DiffusionTask._frozen_states

    def spy(self: DiffusionTask, some: Any, windows: int) -> Any:
        texts.update(some)
        return states(self, some, windows)

    monkeypatch.setattr(DiffusionTask, "_frozen_states", spy)
    folder = write_pictures(tmp_path / "pictures", 4)
    model = {"model": Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")}
    fields = {"held_out": 0, "prompts": {"kind": "captions", "empty": 0}}
    steps = []
    for key, caption in (("before", "a red apple"), ("after", "a blue car")):
        (folder / "02.txt").write_text(f"{caption}\n")
        given = {**model, **collected(tmp_path, folder, key)}
        cached, made = run_step(cache, step_dir(tmp_path, "cache", key), given, size_px=32)
        texts.clear()
        steps.append(step_dir(tmp_path, key))
        work(steps[-1], {**given, **made}, **fields)
        assert caption in texts
        assert texts.isdisjoint({"a red apple", "a blue car"} - {caption})
    assert (cached.counts["encoded"], cached.counts["already there"]) == (0, 4)
    assert not same(*steps)
