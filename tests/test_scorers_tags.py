"""Taggers of every kind that a folder can hold, against numpy transcriptions of their networks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers.operation import Subject, Values
from tastemaker.scorers.tags import Tags
from tests.tiny_hub import SIDE, classifier, onnx_tagger, onnx_weights

NAMES = ["general", "sensitive", "1girl", "blue_sky", "hatsune_miku", "tree", 'smile, "wide"']
CATEGORIES = [9, 9, 0, 0, 4, 0, 3]
SMALL = 0.02  # keeps bytes of 0..255 within the bend of a sigmoid
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def noise(height: int = 40, width: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (height, width, 3)) * rng.uniform(0, 1, 3)).astype(np.uint8)


def measured(folder: Path, picture: np.ndarray, **options: Any) -> Values:
    return Tags(model="x", **options).open({"model": folder}, "cpu")([Subject("a", picture)])[0]


def on_white(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = max(height, width)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(Image.fromarray(picture), ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def wd(folder: Path, **options: Any) -> Path:
    names = [name for name in NAMES if "," not in name]
    categories = CATEGORIES[: len(names)]
    return onnx_tagger(
        folder,
        names,
        categories=categories,
        **{"layout": "NHWC", "sigmoid": True, "scale": SMALL, **options},
    )


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("ends_in_sigmoid", [True, False])
def test_wd_tagger(tmp_path: Path, layout: str, ends_in_sigmoid: bool) -> None:
    """Blue, green, red, 0..255, on white; ratings apart, characters among the tags."""
    folder = wd(tmp_path / "m", layout=layout, sigmoid=ends_in_sigmoid)
    picture = noise()
    sums = on_white(picture)[:, :, ::-1].mean(axis=(0, 1)) @ (onnx_weights(6) * SMALL)
    expected = sigmoid(sums)
    names = NAMES[:6]
    order = sorted(range(2, 6), key=lambda n: -expected[n])
    row = measured(folder, picture, threshold=0.02)
    assert row["tags"] == [names[n] for n in order if expected[n] > 0.02]
    np.testing.assert_allclose(
        row["probabilities"], [expected[n] for n in order if expected[n] > 0.02], atol=1e-5
    )
    assert row["rating"] == names[int(expected[:2].argmax())]
    default = measured(folder, picture)
    assert default["tags"] == [names[n] for n in order if expected[n] > 0.35]
    strict = measured(folder, picture, threshold=0.02, character_threshold=0.9999)
    assert set(row["tags"]) - set(strict["tags"]) <= {"hatsune_miku"}
    assert ("hatsune_miku" in strict["tags"]) == (expected[4] > 0.9999)


@pytest.mark.parametrize("ends_in_sigmoid", [True, False])
def test_joytag(tmp_path: Path, ends_in_sigmoid: bool) -> None:
    folder = onnx_tagger(tmp_path / "m", NAMES, layout="NCHW", sigmoid=ends_in_sigmoid, scale=3.0)
    picture = noise(64, 30)
    values = (on_white(picture) / 255 - MEAN) / STD
    expected = sigmoid(values.mean(axis=(0, 1)) @ (onnx_weights(7) * 3.0))
    row = measured(folder, picture)
    order = [int(n) for n in np.argsort(-expected) if expected[n] > 0.4]
    assert row["tags"] == [NAMES[n] for n in order]
    np.testing.assert_allclose(row["probabilities"], expected[order], atol=1e-5)
    assert row["rating"] == ""
    assert measured(folder, picture, threshold=0.9999999) == {
        "tags": [],
        "probabilities": [],
        "rating": "",
    }


@pytest.mark.parametrize("listed", [True, False])
def test_transformers_classifier(tmp_path: Path, listed: bool) -> None:
    folder = classifier(tmp_path / "m", NAMES, listed=listed)
    picture = noise(20, 33)
    values = torch.from_numpy((on_white(picture) / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    network = transformers.ViTForImageClassification.from_pretrained(folder)
    with torch.inference_mode():
        expected = torch.sigmoid(network(values.float()).logits)[0].double().numpy()
    row = measured(folder, picture)
    order = [int(n) for n in np.argsort(-expected) if expected[n] > 0.4]
    assert 0 < len(order) < len(NAMES)
    assert row["tags"] == [NAMES[n] for n in order]
    np.testing.assert_allclose(row["probabilities"], expected[order], atol=1e-5)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    assert measured(folder, picture)["probabilities"] != row["probabilities"]


def test_a_size_that_the_file_leaves_open_is_in_the_config(tmp_path: Path) -> None:
    folder = wd(tmp_path / "m", side="s")
    with pytest.raises(InputError, match="no image_size"):
        measured(folder, noise())
    (folder / "config.json").write_text(json.dumps({"image_size": SIDE}))
    found = measured(folder, noise())
    assert found == measured(wd(tmp_path / "fixed"), noise())


def test_equal_probabilities_keep_the_order_of_the_outputs(tmp_path: Path) -> None:
    folder = onnx_tagger(tmp_path / "m", NAMES, layout="NCHW", sigmoid=True, scale=0.0)
    assert measured(folder, noise())["tags"] == NAMES


def bare(folder: Path) -> Path:
    folder.mkdir()
    return folder


def nameless(folder: Path) -> Path:
    wd(folder)
    (folder / "selected_tags.csv").unlink()
    return folder


def one_name_too_many(folder: Path) -> Path:
    onnx_tagger(folder, NAMES, layout="NCHW", sigmoid=True)
    (folder / "top_tags.txt").write_text("\n".join([*NAMES, "one more"]))
    return folder


def no_columns(folder: Path) -> Path:
    wd(folder)
    (folder / "selected_tags.csv").write_text("a,b\n1,2\n")
    return folder


def damaged(folder: Path) -> Path:
    wd(folder)
    (folder / "model.onnx").write_bytes(b"no network")
    return folder


def of_another_kind(folder: Path) -> Path:
    bare(folder)
    (folder / "config.json").write_text('{"architectures": ["CLIPModel"], "model_type": "clip"}')
    return folder


def one_label(folder: Path) -> Path:
    classifier(folder, NAMES)
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "single_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def unsaid(folder: Path) -> Path:
    """As most classifiers of ImageNet: names of classes, and nothing of several labels."""
    classifier(folder, NAMES, listed=False)
    config = json.loads((folder / "config.json").read_text())
    config.pop("problem_type")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (bare, r"no config\.json \(it is empty\)"),
        (nameless, "without names of its outputs"),
        (one_name_too_many, "8 names for 7 outputs"),
        (no_columns, "columns a, b"),
        (damaged, "ONNX file that onnxruntime can open"),
        (of_another_kind, r"config\.json of CLIPModel"),
        (one_label, "one label for each picture"),
        (unsaid, "one label for each picture"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_folders_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        measured(make(tmp_path / "m"), noise())


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"tastemaker\[onnx\]"):
        measured(wd(tmp_path / "m"), noise())
