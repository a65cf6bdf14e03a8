"""How much of a picture is text: writing, watermarks, interfaces, pages.

Detection and recognition by PP-OCRv6 (small) and its upside-down classifier, 32 MB inside the PyPI
package `rapidocr` (Apache-2.0, code and weights). rapidocr downloads weights that it does not find;
so the files of the wheel are named one by one, and their absence is an error.

Axes: pixels are uint8 `[H, W, 3]`, RGB. A quad is float64 `[4, 2]`, (x, y) in pixels; y grows
downwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from tastemaker.errors import InputError
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.packaged import (
    missing_extra,
    package_folder,
    weights_files,
    weights_hash,
)

_WHERE, _EXTRA = "the operation text_area", "ocr"
_MODELS = {
    "Det": "models/PP-OCRv6_det_small.onnx",
    "Cls": "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec": "models/PP-OCRv6_rec_small.onnx",
}
_STRIDE_PX = 32
"""The detector takes sides that are multiples of it."""
_LEAST_SIDE_PX = 64


class TextArea(Operation):
    """Share of a picture that is covered by text that could be read; runs on the CPU, one thread.

    Without limits, textures and rings are "read" as one character (`一`, `_`, `O`); such hits do
    not count, by any of three limits.
    """

    FIELDS: ClassVar[Mapping[str, str]] = {
        "share": "float32",
        "lines": "int32",
        "text": "string",
        "confidence": "float32",
        "boxes": "list<float32>",
    }

    kind: Literal["text_area"] = "text_area"
    """Which operation."""
    longest_px: int = Field(default=960, ge=64, le=4096)
    """A larger picture is reduced to this longest side first; a smaller one is not enlarged. Ours:
    of 24 drawn marks with letters of 1.1 % of the picture's width, 22 were still read."""
    least_confidence: float = Field(default=0.9, ge=0, le=1)
    """Lines that are read less surely do not count. Ours: translucent marks are read at 0.97 and
    more; of 644 drawings and photographs 19 had text at 0.8, two of them wrongly, and 17 at 0.9,
    all rightly; none of 40 drawn textures had any."""
    least_area: float = Field(default=0.0005, ge=0, le=1)
    """Lines that cover a smaller share of the picture do not count. Ours: 12x29 of 960x720."""
    least_characters: int = Field(default=2, ge=1)
    """Lines with fewer letters and digits do not count. Ours; most false hits are one character."""
    most_characters: int = Field(default=500, ge=0)
    """`text` is cut after so many characters. Ours."""

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """The configuration, the version of rapidocr and the hash of its weights.

        Raises:
            MissingExtra: rapidocr is not installed.
        """
        weights = weights_hash(_weights())
        return {
            **super().params(places, hashes),
            "rapidocr": version("rapidocr"),
            "weights": weights,
        }

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the three networks; they run on the CPU, whatever `device` is.

        Raises:
            MissingExtra: a package is not installed.
            InputError: the weights are missing or broken.
        """
        read = _reader(_weights())

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            return [self._values(read, subject.pixels) for subject in subjects]

        return measure

    def _values(self, read: "_Read", pixels: np.ndarray | None) -> Values:
        if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            return {"error": "no pixels"}
        small = _reduced(pixels, self.longest_px)
        try:
            found = read(small)
        except Exception as error:  # rapidocr has no base class for what it raises
            return {"error": f"text detection failed: {type(error).__name__}"}
        height, width = small.shape[:2]
        lines = [line for line in found if self._counts(line, height * width)]
        scale = np.array([width, height, width, height])
        boxes = [np.concatenate([line.quad.min(0), line.quad.max(0)]) / scale for line in lines]
        return {
            "share": covered_share([line.quad for line in lines], height, width),
            "lines": len(lines),
            "text": "\n".join(line.text for line in lines)[: self.most_characters],
            "confidence": float(np.mean([line.confidence for line in lines])) if lines else 0.0,
            "boxes": [float(number) for box in boxes for number in box.clip(0, 1)],
        }

    def _counts(self, line: "_Line", picture_area: int) -> bool:
        characters = sum(character.isalnum() for character in line.text)
        return (
            line.confidence >= self.least_confidence
            and characters >= self.least_characters
            and _area(line.quad) >= self.least_area * picture_area
        )


@dataclass(frozen=True)
class _Line:
    quad: np.ndarray
    text: str
    confidence: float


def covered_share(quads: Sequence[np.ndarray], height: int, width: int) -> float:
    """Share of the pixels whose centre lies in one of some convex quads; overlaps count once.

    Args:
        quads: each `[4, 2]`, corners (x, y) in pixels, in any order.
        height: of the picture.
        width: of the picture.

    Returns:
        0..1.
    """
    mask = np.zeros((height, width), bool)
    for quad in quads:
        left, top = np.floor(quad.min(0)).astype(int).clip(0)
        right, bottom = np.ceil(quad.max(0)).astype(int)
        window = mask[top:bottom, left:right]
        y = np.arange(top, top + window.shape[0])[:, None] + 0.5
        x = np.arange(left, left + window.shape[1])[None, :] + 0.5
        corners = _clockwise(quad)
        inside = np.ones_like(window)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
        window |= inside
    return float(mask.mean())


def _clockwise(quad: np.ndarray) -> np.ndarray:
    """Corners around their middle: rapidocr's order crosses for some squares on their point."""
    away = quad - quad.mean(0)
    return quad[np.argsort(np.arctan2(away[:, 1], away[:, 0]), kind="stable")]


def _area(quad: np.ndarray) -> float:
    x, y = _clockwise(quad).T
    return float(np.abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _reduced(pixels: np.ndarray, longest_px: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


def _canvas(pixels: np.ndarray) -> np.ndarray:
    """The picture at the top left of one of whole strides, filled up with its mean colour.

    rapidocr itself would stretch the sides to whole strides, and thin strips a hundred times.
    """
    height, width = (max(_LEAST_SIDE_PX, -(-side // _STRIDE_PX) * _STRIDE_PX)
                     for side in pixels.shape[:2])  # fmt: skip
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas


class _Read:
    """Pixels in, lines of text out."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __call__(self, pixels: np.ndarray) -> list[_Line]:
        canvas = _canvas(pixels)
        found = self._engine(np.ascontiguousarray(canvas[..., ::-1]), use_det=True)
        if found.boxes is None or found.txts is None:
            return []
        most = np.array(pixels.shape[1::-1], np.float64)
        return [
            _Line(np.asarray(quad, np.float64).clip(0, most), text.strip(), float(confidence))
            for quad, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True)
        ]


def _reader(weights: Sequence[Path]) -> _Read:
    try:
        import cv2
        import onnxruntime  # noqa: F401  # rapidocr finds it only when a network is loaded
        from rapidocr import RapidOCR
    except ImportError as error:
        raise missing_extra(error.name, _WHERE, _EXTRA) from error
    cv2.setNumThreads(1)
    settings: dict[str, Any] = {
        "Global.log_level": "critical",
        # Limits are ours, and so is the size that the detector sees (`_canvas`).
        "Global.text_score": 0.0,
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Det.limit_type": "max",
        "Det.limit_side_len": 1 << 15,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    for part, file in zip(_MODELS, weights, strict=True):
        settings[f"{part}.model_path"] = str(file)
    try:
        engine = RapidOCR(params=settings)
        # Networks are loaded at first use; a broken file must fail here, not at every picture.
        blank = np.full((_LEAST_SIDE_PX, _LEAST_SIDE_PX, 3), 255, np.uint8)
        engine(blank, use_det=False)
        engine(blank, use_det=True)
    except Exception as error:
        raise InputError(
            _WHERE,
            f"rapidocr {version('rapidocr')}: {type(error).__name__}: {str(error)[:200]}",
            "a version that loads the weights of its wheel",
            "Install rapidocr again, in the version of constraints.txt.",
        ) from error
    return _Read(engine)


def _weights() -> list[Path]:
    return weights_files(package_folder("rapidocr", _WHERE, _EXTRA), _MODELS.values(), _WHERE)
