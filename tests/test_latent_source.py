"""Latents as training sees them: crops, samples, and the sizes that belong to them."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st

from tastemaker.engine.latent_encoder import LatentEncoder
from tastemaker.models.sdxl import SDXLFamily
from tastemaker.records.draws import Draw
from tastemaker.records.run import Artefact
from tastemaker.records.size import ImageSizes, Size
from tastemaker.stages import cache, fit
from tastemaker.store import pictures
from tastemaker.store.latent_reader import LatentReader
from tastemaker.store.latent_sets import LatentSet, write_latent_set
from tastemaker.store.latents import (
    CachedLatent,
    LatentCache,
    LatentEntry,
    LatentFormat,
    latent_key,
)
from tastemaker.store.resize import crop_sizes, cut_out
from tastemaker.training.kept_latents import FIXED
from tastemaker.training.latent_source import VisitedLatents
from tastemaker.training.read_ahead import ReadAhead
from tests.latents_made import ids_of, place_of, position_picture, shrinks
from tests.tiny_models import saved_sdxl
from tests.tiny_run import collected, run_step, step_dir

RANDOM = {"size_px": 32, "crop": "random", "crops": 6, "dtype": "fp32"}
FIT = {
    "images_total": 12,
    "batch": 2,
    "method": {"kind": "lora", "rank": 2},
    "save_every_images": 4,
    "log_every_images": 2,
}


@pytest.fixture
def given(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    for number, (h, w) in enumerate([(32, 120), (120, 32), (32, 90), (110, 32)]):
        position_picture(tmp_path / "pictures" / f"{number}.png", h, w, number)
    made = collected(tmp_path, tmp_path / "pictures")
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    return made


def cached(root: Path, given: dict[str, Artefact], **fields: object) -> dict[str, Artefact]:
    return {**given, **run_step(cache, step_dir(root, "cache"), given, **{**RANDOM, **fields})[1]}


def a_set(root: Path, crops: int, *, logvar: bool = False) -> LatentSet:
    """Latents whose numbers are those of picture and crop."""
    form, bucket = LatentFormat("vae", "fp32"), Size(16, 24)
    keys, entries = {}, []
    for picture in range(3):
        own = []
        for crop in range(crops):
            sizes = ImageSizes(Size(100 + picture, 200), crop, picture, bucket)
            mean = torch.full((4, 2, 3), float(10 * picture + crop))
            spread = torch.full_like(mean, -1.0) if logvar else None
            key = latent_key(str(picture), sizes, form, logvar=logvar)
            entries.append(LatentEntry(str(picture), key, mean, sizes, spread))
            own.append(key)
        keys[str(picture)] = own
    LatentCache(root / "latents").write_shard(bucket, entries, form)
    write_latent_set(root / "set" / "latents.json", "../latents", keys)
    return LatentSet(root / "set")


def test_v1_the_sizes_of_a_visit_are_those_of_the_crop_that_it_gets(tmp_path, given, monkeypatch):
    """The model must not be told a new crop with an old latent."""
    monkeypatch.setattr(LatentEncoder, "encode", shrinks)
    made = cached(tmp_path, given)
    seen: list[tuple[torch.Tensor, tuple[ImageSizes, ...]]] = []
    latents, told = ReadAhead.__call__, SDXLFamily.conditioning
    batch: list[torch.Tensor] = []

    def latent_of(self, sample_id, visit):
        latent, sizes = latents(self, sample_id, visit)
        batch.append(latent)
        return latent, sizes

    def conditioning(self, text, sizes, **more):
        seen.extend((batch[-len(sizes) + n], size) for n, size in enumerate(sizes))
        return told(self, text, sizes, **more)

    monkeypatch.setattr(ReadAhead, "__call__", latent_of)
    monkeypatch.setattr(SDXLFamily, "conditioning", conditioning)
    run_step(fit, step_dir(tmp_path, "fit"), made, **{**FIT, "images_total": 60}, stable_images=0)
    assert len(seen) == 60
    for latent, sizes in seen:
        assert place_of(latent) == (sizes.crop_top, sizes.crop_left)
        assert sizes.time_ids()[2:4] == place_of(latent)
    assert len({(sizes.original, place_of(latent)) for latent, sizes in seen}) > 12


@examples(
    h=st.integers(40, 200), w=st.integers(40, 200), top=st.floats(0, 1), left=st.floats(0, 1),
    target=st.sampled_from([Size(40, 40), Size(40, 32), Size(24, 40)]),
)  # fmt: skip
def test_sizes_that_are_planned_are_those_of_the_pixels(h, w, top, left, target):
    rows, columns = np.mgrid[0:h, 0:w]
    pixels = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    sizes = crop_sizes(Size(h, w), target, (top, left))
    crop = cut_out(pixels, sizes).astype(float)
    scale = max(target.h / h, target.w / w)
    middle = crop[target.h // 2, target.w // 2, :2]
    wanted = (np.array([sizes.crop_top, sizes.crop_left]) + np.array(target) // 2 + 0.5) / scale
    assert np.abs(middle + 0.5 - wanted).max() < 1.6 / scale + 1
    with pytest.raises(ValueError, match="was expected"):
        cut_out(pixels, replace(sizes, original=Size(w + 1, h)))


def test_v2_no_picture_is_opened_while_training_from_a_cache(tmp_path, given, monkeypatch):
    made = cached(tmp_path, given)
    shutil.rmtree(tmp_path / "pictures")

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(pictures, "load_image", opened)
    monkeypatch.setattr(pictures, "read_picture_file", opened)
    manifest, _ = run_step(fit, step_dir(tmp_path, "fit"), made, **FIT)
    assert manifest.counts["images"] == 12


def test_every_crop_is_equally_likely_and_drawn_by_the_visit(tmp_path):
    latents = VisitedLatents(a_set(tmp_path, 4), seed=7)
    visits = 3000
    counts = np.zeros(4)
    for visit in range(visits):
        mean, sizes = latents("1", visit)
        variant = Draw(7, "variant", "1", visit).integer(4)
        assert sizes.crop_top == variant
        assert float(mean[0, 0, 0]) == 10 + variant
        counts[variant] += 1
    assert np.abs(counts / visits - 0.25).max() < 3 * np.sqrt(0.25 * 0.75 / visits)
    # In another order, in another process: the same.
    again = VisitedLatents(LatentSet(tmp_path / "set"), seed=7)
    assert [again("1", n)[1] for n in (9, 3)] == [latents("1", n)[1] for n in (9, 3)]
    other = VisitedLatents(LatentSet(tmp_path / "set"), seed=8)
    assert [other("1", n)[1] for n in range(20)] != [latents("1", n)[1] for n in range(20)]
    assert {latents(i, FIXED)[1].crop_top for i in "012"} == {0}


def test_a_visit_gets_a_fresh_sample_of_the_posterior(tmp_path):
    latents = VisitedLatents(a_set(tmp_path, 1, logvar=True), seed=3)
    drawn = torch.stack([latents("2", visit)[0] for visit in range(2000)])
    for visit in (0, 5):
        # Golden: float64 and numpy alone.
        own = Draw(3, "vae", "2", visit).generator().standard_normal((4, 2, 3), dtype=np.float32)
        wanted = 20.0 + np.exp(-1.0 / 2) * own.astype(np.float64)
        np.testing.assert_allclose(drawn[visit].numpy(), wanted, rtol=1e-6)
    n, spread = drawn.numel(), np.exp(-0.5)
    assert abs(drawn.mean().item() - 20) < 3 * spread / np.sqrt(n)
    assert abs(drawn.std().item() - spread) < 3 * spread / np.sqrt(2 * n)
    assert torch.equal(latents("2", FIXED)[0], torch.full((4, 2, 3), 20.0))
    assert torch.equal(latents("2", 5)[0], drawn[5])


def test_small_memory_changes_nothing(tmp_path, monkeypatch):
    found = a_set(tmp_path, 3, logvar=True)
    large = VisitedLatents(found, seed=0)
    monkeypatch.setattr("tastemaker.training.kept_latents._MEMORY_BYTES", 200)
    small = VisitedLatents(found, seed=0)
    asked: dict[LatentReader, list[int]] = {}
    once = LatentReader.read_one

    def counted(reader: LatentReader, number: int) -> CachedLatent:
        asked.setdefault(reader, []).append(number)
        return once(reader, number)

    monkeypatch.setattr(LatentReader, "read_one", counted)
    for visit in range(10):
        for i in "012":
            assert torch.equal(large(i, visit)[0], small(i, visit)[0])
    often, rarely = (Counter(numbers) for numbers in asked.values())
    assert set(often.values()) == {1}
    assert set(rarely) == set(often)
    assert [count for count in rarely.values() if count == 1] == [1]


def test_a_resumed_run_draws_the_same_crops(tmp_path, given, monkeypatch):
    made = cached(tmp_path, given, logvar=True)
    straight, resumed = step_dir(tmp_path, "straight"), step_dir(tmp_path, "resumed")
    run_step(fit, straight, made, **FIT)
    latent_of, calls = ReadAhead.__call__, []

    def dies(self, sample_id, visit):
        if visit != FIXED:
            calls.append(visit)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return latent_of(self, sample_id, visit)

    monkeypatch.setattr(ReadAhead, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        run_step(fit, resumed, made, **FIT)
    monkeypatch.undo()
    run_step(fit, resumed, made, **FIT)
    logs = [(step.path / "log" / "metrics.jsonl").read_text() for step in (straight, resumed)]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) > 5
    assert len(ids_of(made)) == 4
