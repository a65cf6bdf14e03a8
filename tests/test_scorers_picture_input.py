"""Pixels to a network's input: to the bit what transformers' Pillow-based processors do."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.scorers.patch_input import PatchInput
from tastemaker.scorers.picture_input import (
    LONGEST_PX,
    Normalisation,
    PictureInput,
    padded_square,
)
from tests.tiny_hub import CLIP_PROCESSOR, SIDE, SIGLIP_PROCESSOR

sides = st.integers(1, 120)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def written(folder: Path, fields: dict[str, Any], name: str = "preprocessor_config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(fields))
    return folder


def theirs(processor: str, fields: dict[str, Any], picture: np.ndarray) -> Any:
    known = {k: v for k, v in fields.items() if k != "image_processor_type"}
    made = getattr(transformers, processor)(**known)
    return made(Image.fromarray(picture), return_tensors="np")


OLD = {  # as the first CLIP checkpoints have it
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE,
}


@pytest.mark.parametrize(
    ("processor", "fields"),
    [
        ("CLIPImageProcessorPil", CLIP_PROCESSOR),
        ("CLIPImageProcessorPil", OLD),
        ("CLIPImageProcessorPil", {**CLIP_PROCESSOR, "resample": 2, "size": 40}),
        ("CLIPImageProcessorPil", {**CLIP_PROCESSOR, "size": 25}),
        ("CLIPImageProcessorPil", {**CLIP_PROCESSOR, "do_resize": False}),
        ("CLIPImageProcessorPil", {**CLIP_PROCESSOR, "do_normalize": False}),
        ("CLIPImageProcessorPil", {**CLIP_PROCESSOR, "do_rescale": False}),
        ("SiglipImageProcessorPil", SIGLIP_PROCESSOR),
    ],
    ids=["clip", "old", "larger", "smaller", "unresized", "unnormalised", "unscaled", "siglip"],
)
@given(height=sides, width=sides)
def test_equals_transformers(
    tmp_path_factory: pytest.TempPathFactory,
    processor: str,
    fields: dict[str, Any],
    height: int,
    width: int,
) -> None:
    folder = written(tmp_path_factory.getbasetemp() / "input", fields)
    picture = noise(height, width, height * 1000 + width)
    ours = PictureInput.read(folder, SIDE)(picture)
    assert ours.dtype == np.float32
    reference = theirs(processor, fields, picture)["pixel_values"][0]
    np.testing.assert_array_equal(ours, reference.astype(np.float32))


@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_patches_equal_transformers(height: int, width: int) -> None:
    fields = {"patch_size": 8, "max_num_patches": 20, "resample": 2}
    half = (0.5, 0.5, 0.5)
    picture = noise(height, width, height * 100 + width)
    patches, there, grid = PatchInput(8, 20, 2, Normalisation(half, half))(picture)
    reference = theirs("Siglip2ImageProcessorPil", fields, picture)
    assert grid.tolist() == reference["spatial_shapes"][0].tolist()
    assert there.tolist() == reference["pixel_attention_mask"][0].tolist()
    np.testing.assert_array_equal(patches, reference["pixel_values"][0].astype(np.float32))


def test_a_strip_costs_no_more_memory_than_its_crop(tmp_path: Path) -> None:
    """By its shorter side it would be 32 x 3,200,000 px."""
    made = PictureInput.read(written(tmp_path, CLIP_PROCESSOR), SIDE)
    strip = noise(1, 100_000)
    tracemalloc.start()
    found = made(strip)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (3, SIDE, SIDE)
    assert peak < 4_000_000
    # What the middle 20 px of the strip give, but for rounding.
    near = made(np.ascontiguousarray(strip[:, 49_990:50_010]))
    np.testing.assert_allclose(found, near, atol=0.02)


def test_fields_in_the_file_that_transformers_5_writes(tmp_path: Path) -> None:
    written(tmp_path, {"image_processor": SIGLIP_PROCESSOR}, "processor_config.json")
    assert PictureInput.read(tmp_path, SIDE).size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": {"shortest_edge": 8, "longest_edge": 9}}, "longest_edge"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"do_pad": True}, "do_pad"),
        ({"crop_size": 48}, "48 x 48 px"),
        ({"do_center_crop": False}, "no fixed size"),
    ],
)
def test_other_steps_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    folder = written(tmp_path, {**CLIP_PROCESSOR, **change})
    with pytest.raises(InputError, match=match):
        PictureInput.read(folder, SIDE)


def test_no_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no preprocessor_config\.json \(it is empty\)"):
        PictureInput.read(tmp_path, SIDE)


def test_hash_follows_every_step(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"resample": 2}, {"size": 40}, {"image_std": [1, 1, 1]}]
    hashes = {
        PictureInput.read(written(tmp_path / str(n), {**CLIP_PROCESSOR, **change}), SIDE).hash
        for n, change in enumerate(changes)
    }
    assert len(hashes) == len(changes)


def reference_square(picture: np.ndarray, side: int, colour: int, centred: bool) -> np.ndarray:
    height, width = picture.shape[:2]
    longest = max(height, width)
    canvas = Image.new("RGB", (longest, longest), (colour,) * 3)
    corner = ((longest - width) // 2, (longest - height) // 2) if centred else (0, 0)
    canvas.paste(Image.fromarray(picture), corner)
    return np.asarray(canvas.resize((side, side), Image.Resampling.BICUBIC))


@given(height=sides, width=sides, centred=st.booleans())
def test_square_equals_pasting(height: int, width: int, centred: bool) -> None:
    picture = noise(height, width)
    ours = padded_square(picture, 24, colour=77, centred=centred)
    np.testing.assert_array_equal(ours, reference_square(picture, 24, 77, centred))


def test_square_of_a_long_strip_fits_into_memory() -> None:
    strip = np.zeros((2, 3 * LONGEST_PX, 3), np.uint8)
    found = padded_square(strip, 16, colour=255, centred=True)
    assert found.shape == (16, 16, 3)
    assert found[0].min() == 255
    assert found[7:9].min() < 255
