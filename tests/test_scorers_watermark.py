"""OWLv2 boxes: geometry with heads that say what they are told, and the real code on a tiny one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError
from tastemaker.scorers.operation import Subject, Values
from tastemaker.scorers.picture_input import padded_square
from tastemaker.scorers.watermark import Watermark, union_area
from tests.tiny_hub import CLIP_PROCESSOR, SIDE, clip, owl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owl(tmp_path_factory.mktemp("owl"))


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def with_heads(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    picture: np.ndarray,
    found: list[tuple[float, tuple[float, float, float, float]]],
) -> tuple[Values, dict[str, Any]]:
    """Values when the network finds these scores and boxes (centre, size; shares of the square)."""
    seen: dict[str, Any] = {}

    def forward(self: Any, **inputs: Any) -> Any:
        seen.update(inputs)
        count = len(inputs["pixel_values"])
        logits = torch.tensor([[[logit(score)] for score, _ in found]] * count)
        boxes = torch.tensor([[box for _, box in found]] * count)
        return SimpleNamespace(logits=logits, pred_boxes=boxes)

    monkeypatch.setattr(transformers.Owlv2ForObjectDetection, "forward", forward)
    measure = Watermark(model="x").open({"model": folder}, "cpu")
    return measure([Subject("a", picture)])[0], seen


def test_boxes_are_scaled_by_the_longer_side(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A wide picture fills the upper half of the square: a box there is twice as high in it."""
    picture = np.zeros((50, 100, 3), np.uint8)
    found = [
        (0.3, (0.25, 0.25, 0.1, 0.1)),
        (0.09, (0.5, 0.2, 0.2, 0.2)),  # not sure enough
        (0.8, (0.9, 0.4, 0.4, 0.4)),  # reaches beyond the right and lower edges
        (0.9, (0.5, 0.8, 0.2, 0.2)),  # in the border alone
    ]
    row, _ = with_heads(monkeypatch, folder, picture, found)
    np.testing.assert_allclose(row["scores"], [0.8, 0.3], atol=1e-6)
    np.testing.assert_allclose(
        np.reshape(row["boxes"], (-1, 4)),
        [[0.7, 0.4, 1.0, 1.0], [0.2, 0.4, 0.3, 0.6]],
        atol=1e-6,
    )
    assert row["best"] == pytest.approx(0.8)
    assert row["share"] == pytest.approx(0.3 * 0.6 + 0.1 * 0.2)


def test_a_tall_picture_and_no_box(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    picture = np.zeros((80, 20, 3), np.uint8)
    row, _ = with_heads(monkeypatch, folder, picture, [(0.5, (0.125, 0.5, 0.25, 1.0))])
    np.testing.assert_allclose(row["boxes"], [0, 0, 1, 1], atol=1e-6)
    assert row["share"] == pytest.approx(1.0)
    nothing, _ = with_heads(monkeypatch, folder, picture, [(0.05, (0.1, 0.5, 0.1, 0.1))])
    assert nothing == {"boxes": [], "scores": [], "best": 0.0, "share": 0.0}
    broken, _ = with_heads(monkeypatch, folder, picture, [(0.5, (0.1, np.nan, 0.1, 0.1))])
    assert broken == {"error": "the network's output is not finite"}


def test_grey_is_added_right_and_below(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    mean, std = (np.array(CLIP_PROCESSOR[key]) for key in ("image_mean", "image_std"))
    grey = (128 / 255 - mean) / std
    white = (1 - mean) / std
    for height, width in ((SIDE // 2, SIDE), (SIDE, SIDE // 2)):
        picture = np.full((height, width, 3), 255, np.uint8)
        _, seen = with_heads(monkeypatch, folder, picture, [(0.5, (0.5, 0.5, 0.1, 0.1))])
        pixels = seen["pixel_values"][0].permute(1, 2, 0).numpy()
        assert np.isclose(pixels[:height, :width], white, atol=1e-5).all()
        np.testing.assert_allclose(pixels[-1, -1], grey, atol=1e-5)
        assert np.isclose(pixels, grey, atol=1e-5).all(axis=2).sum() == SIDE * SIDE // 2


def test_equals_a_forward_of_the_model_by_hand(folder: Path) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (40, 90, 3)).astype(np.uint8)
    model = transformers.Owlv2ForObjectDetection.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = tokenizer(["a watermark"], padding="max_length", max_length=16, return_tensors="pt")
    square = padded_square(picture, SIDE, colour=128, centred=False) / 255
    mean, std = (np.array(CLIP_PROCESSOR[key]) for key in ("image_mean", "image_std"))
    pixels = torch.from_numpy((square - mean) / std).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        out = model(pixel_values=pixels, **words)
    processor = transformers.Owlv2ImageProcessorPil()
    theirs = processor.post_process_object_detection(out, threshold=0.1, target_sizes=[(40, 90)])[0]
    assert len(theirs["scores"]) > 0
    order = torch.argsort(-theirs["scores"], stable=True)
    corners = theirs["boxes"][order].numpy() / np.array([90, 40, 90, 40])
    row = Watermark(model="x").open({"model": folder}, "cpu")([Subject("a", picture)])[0]
    clipped = np.clip(corners, 0, 1)
    visible = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), clipped[visible], atol=1e-4)
    np.testing.assert_allclose(row["scores"], theirs["scores"][order][visible], atol=1e-5)


edges = st.integers(0, 12)


@given(st.lists(st.tuples(edges, edges, edges, edges), max_size=9))
def test_union_counts_every_cell_once(corners: list[tuple[int, int, int, int]]) -> None:
    grid = np.zeros((12, 12), bool)
    boxes = []
    for x0, y0, x1, y1 in corners:
        left, right, upper, lower = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        grid[upper:lower, left:right] = True
        boxes.append([left, upper, right, lower])
    area = union_area(np.array(boxes, np.float64).reshape(-1, 4))
    assert area == pytest.approx(grid.sum())


def test_other_folders_and_words_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="model_type clip.*owlv2"):
        Watermark(model="x").open({"model": clip(tmp_path / "clip")}, "cpu")
    with pytest.raises(InputError, match="tokens.*at most 16"):
        Watermark(model="x", query="a red apple " * 9).open({"model": folder}, "cpu")
