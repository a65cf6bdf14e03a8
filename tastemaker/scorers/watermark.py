"""The operation `watermark`: boxes around watermarks, by OWLv2 and the words "a watermark".

Minderer et al. 2023, arXiv:2306.09683. Words, threshold, grey border and bicubic resizing are those
of bigASP (fpgaminer), which saw 92 % of its judgements right with
`google/owlv2-base-patch16-ensemble`. transformers' own processor for this model adds black and
blurs; its boxes differ a little.

Axes: boxes are `[N, 4]`: left, upper, right and lower edge, as shares of the picture's width and
height.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tastemaker.errors import InputError
from tastemaker.scorers.embedding import subject_pixels
from tastemaker.scorers.model_folder import (
    Precision,
    load_model,
    load_tokenizer,
    read_json,
    run_rows,
)
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.picture_input import Normalisation, padded_square, read_processor

_GREY = 128
_EXPECTED = "an OWLv2 detector (google/owlv2-base-patch16-ensemble)"


class Watermark(Operation):
    """Where watermarks are, how sure that is, and how much of the picture they cover."""

    FIELDS: ClassVar[Mapping[str, str]] = {
        "boxes": "list<float32>",
        "scores": "list<float32>",
        "best": "float32",
        "share": "float32",
    }
    """`boxes` has four numbers for each of `scores`, best first; `best` is the highest score, 0
    without a box; `share` is the part of the picture that lies in any box, 0..1."""
    MODELS: ClassVar[Mapping[str, str]] = {"model": "detector"}
    BATCH: ClassVar[int] = 8

    kind: Literal["watermark"] = "watermark"
    """Watermark boxes."""
    model: str
    """A transformers folder or hub id of an OWLv2."""
    query: str = Field(default="a watermark", min_length=1)
    """What is looked for (bigASP)."""
    threshold: float = Field(default=0.1, gt=0, lt=1)
    """A box with a greater score counts (bigASP)."""
    precision: Precision = "float32"
    """Of weights and arithmetic (ours). A CPU can only do `float32`."""

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the detector."""
        folder = places["model"]
        found = read_json(folder, "config.json", _EXPECTED).get("model_type")
        if found != "owlv2":
            raise InputError(
                folder / "config.json", f"model_type {found}", "owlv2", f"Give {_EXPECTED}."
            )
        model = load_model(
            folder,
            "Owlv2ForObjectDetection",
            device=device,
            precision=self.precision,
            reason="watermark",
        )
        ids, mask = self._words(folder, model)
        normalise = Normalisation.read(read_processor(folder), folder)
        side = int(model.config.vision_config.image_size)

        def forward(pixels: Any) -> Any:
            return _detect(model, ids.to(device), mask.to(device), pixels)

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            pictures = [subject_pixels(subject) for subject in subjects]
            inputs = [
                (normalise(padded_square(picture, side, colour=_GREY, centred=False)),)
                for picture in pictures
            ]
            rows = run_rows(forward, inputs, device, self.BATCH)
            return [
                _values(row, picture.shape[0], picture.shape[1], self.threshold)
                for row, picture in zip(rows, pictures, strict=True)
            ]

        return measure

    def _words(self, folder: Path, model: Any) -> tuple[Any, Any]:
        """Token ids `[1, L]` of the query and which of them count."""
        tokenizer = load_tokenizer(folder, "watermark")
        length = int(model.config.text_config.max_position_embeddings)
        count = len(tokenizer([self.query], verbose=False)["input_ids"][0])
        if count > length:
            raise InputError(
                "watermark: query",
                f"{count} tokens",
                f"at most {length}, which the model reads",
                "Make it shorter.",
            )
        encoded = tokenizer(
            [self.query],
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]


def union_area(boxes: np.ndarray) -> float:
    """Area that lies in at least one box.

    Args:
        boxes: float64 `[N, 4]`, each with right >= left and lower >= upper.
    """
    if not len(boxes):
        return 0.0
    boxes = boxes[np.argsort(boxes[:, 1], kind="stable")]
    edges = np.unique(boxes[:, [0, 2]])
    area = 0.0
    # Between two neighbouring edges a strip is covered by the same boxes from end to end.
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        inside = (boxes[:, 0] <= left) & (boxes[:, 2] >= right)
        upper, lower = boxes[inside, 1], boxes[inside, 3]
        if len(upper):
            reached = np.maximum.accumulate(np.concatenate([upper[:1], lower[:-1]]))
            area += (right - left) * np.maximum(lower - np.maximum(upper, reached), 0.0).sum()
    return float(area)


def _detect(model: Any, ids: Any, mask: Any, pixels: Any) -> Any:
    """Logits and boxes of all patches, `[B, N, 5]`; boxes as centre, width and height."""
    import torch

    count = len(pixels)
    found = model(
        input_ids=ids.repeat(count, 1),
        attention_mask=mask.repeat(count, 1),
        pixel_values=pixels.to(model.dtype),
    )
    logits = found.logits.float().amax(dim=-1, keepdim=True)
    return torch.cat([logits, found.pred_boxes.float()], dim=-1)


def _values(row: np.ndarray, height: int, width: int, threshold: float) -> Values:
    """Values from logits and boxes `[N, 5]`, the latter as shares of the square."""
    row = row.astype(np.float64)
    if not np.isfinite(row).all():
        return {"error": "the network's output is not finite"}
    scores = 0.5 * (1.0 + np.tanh(0.5 * row[:, 0]))
    centre, half = row[:, 1:3], row[:, 3:5] / 2
    # The square is as wide as the longer side; the picture lies in its upper left corner.
    scale = max(height, width) / np.array([width, height], np.float64)
    corners = np.concatenate([(centre - half) * scale, (centre + half) * scale], axis=1)
    boxes = np.clip(corners, 0.0, 1.0)
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = np.flatnonzero((scores > threshold) & visible)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return {
        "boxes": boxes[kept].reshape(-1).tolist(),
        "scores": scores[kept].tolist(),
        "best": float(scores[kept[0]]) if len(kept) else 0.0,
        "share": min(union_area(boxes[kept]), 1.0),
    }
