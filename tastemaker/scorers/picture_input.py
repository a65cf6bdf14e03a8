"""From pixels to a network's input, with Pillow and numpy alone.

The steps are those of a folder's `preprocessor_config.json`, to the bit those of transformers'
Pillow-based processors; its other processors need torchvision and resize otherwise.

Axes: pixels are uint8 `[H, W, 3]`; inputs are float32 `[3, H, W]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.scorers.model_folder import read_json
from tastemaker.scorers.protocol import preprocessing_hash

Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

LONGEST_PX = 4096
"""Side of the largest square that is made on the way (ours): those of long strips would not fit
into memory. A picture that is padded to a square is reduced by a whole number before, one that is
cropped is resized in parts."""


@dataclass(frozen=True)
class Normalisation:
    """Bytes to numbers: `(byte * scale - mean) / std`, colour by colour."""

    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    scale: float = 1 / 255

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 `[3, H, W]`."""
        values = (pixels.astype(np.float64) * self.scale).astype(np.float32)
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    @classmethod
    def read(cls, fields: Mapping[str, Any], where: object) -> "Normalisation":
        """From a `preprocessor_config.json`; CLIP's figures where it has none.

        Raises:
            InputError: the fields are not three numbers each.
        """
        scale = (
            float(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 1.0
        )
        if not fields.get("do_normalize", True):
            return cls((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale)
        mean = _triple(fields.get("image_mean", CLIP_MEAN), "image_mean", where)
        std = _triple(fields.get("image_std", CLIP_STD), "image_std", where)
        return cls(mean, std, scale)


@dataclass(frozen=True)
class PictureInput:
    """Resize, crop in the middle, normalise: what CLIP and SigLIP do to a picture.

    Attributes:
        size: height and width to resize to, or the length of the shorter side.
        crop: height and width of the middle part that is kept; None keeps all.
        resample: Pillow's filter (2 bilinear, 3 bicubic).
        normalisation: what is done to the bytes.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int
    normalisation: Normalisation

    @property
    def hash(self) -> str:
        """Hash of all that happens to a picture before the network."""
        return preprocessing_hash({**asdict(self), "with": "pillow 1"})

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of every input; None when they follow the picture."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 `[3, H, W]`."""
        height, width = pixels.shape[:2]
        if isinstance(self.size, tuple):
            target = self.size
        elif self.size == 0:
            target = (height, width)
        else:
            target = _by_shorter_side(height, width, self.size)
        return self.normalisation(_resized_middle(pixels, target, self.crop, self.resample))

    @classmethod
    def read(cls, folder: Path, network_px: int) -> "PictureInput":
        """From a folder's `preprocessor_config.json`.

        Args:
            folder: the model's folder.
            network_px: side of the square that the network takes.

        Raises:
            InputError: there is no such file, it asks for a step that is not known here, or the
                network takes another size.
        """
        fields = read_processor(folder)
        where = folder / "preprocessor_config.json"
        siglip = (
            "siglip"
            in str(fields.get("image_processor_type", fields.get("processor_class", ""))).lower()
        )
        odd = [key for key in ("do_pad", "do_thumbnail", "do_rotate", "do_flip") if fields.get(key)]
        if odd:
            raise _unknown(where, f"{', '.join(odd)}")
        square = {"height": network_px, "width": network_px}
        size = fields.get("size", square if siglip else network_px)
        crops = fields.get("do_center_crop", not siglip)
        self = cls(
            size=_size(size, where) if fields.get("do_resize", True) else 0,
            crop=_crop(fields.get("crop_size", network_px), where) if crops else None,
            resample=int(fields.get("resample", 3)),
            normalisation=Normalisation.read(fields, where),
        )
        if self.shape != (network_px, network_px):
            got = (
                "inputs of no fixed size"
                if self.shape is None
                else "{} x {} px".format(*self.shape)
            )
            raise InputError(
                where,
                got,
                f"{network_px} x {network_px} px, which the network takes",
                "Use the preprocessor_config.json that belongs to these weights.",
            )
        return self


def read_processor(folder: Path) -> dict[str, Any]:
    """The picture processor's fields, from either of the files that transformers writes.

    Raises:
        InputError: there is neither.
    """
    whole = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and whole.is_file():
        inner = read_json(folder, whole.name, "a model with its processor").get("image_processor")
        if isinstance(inner, dict):
            return inner
    return read_json(
        folder, "preprocessor_config.json", "a model with its preprocessor_config.json"
    )


def padded_square(
    pixels: np.ndarray, side: int, *, colour: int, centred: bool, resample: int = 3
) -> np.ndarray:
    """The whole picture on a square, resized to uint8 `[side, side, 3]`.

    Args:
        pixels: uint8 `[H, W, 3]`.
        side: side of the result, in pixels.
        colour: grey level of what is added, 0..255.
        centred: the picture in the middle; otherwise in the upper left corner.
        resample: Pillow's filter; bicubic by default.
    """
    longest = max(pixels.shape[:2])
    if longest > LONGEST_PX:
        pixels = np.asarray(Image.fromarray(pixels).reduce(-(-longest // LONGEST_PX)))
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if height != width:
        square = np.full((longest, longest, 3), colour, np.uint8)
        top, left = ((longest - height) // 2, (longest - width) // 2) if centred else (0, 0)
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if longest == side:
        return np.array(pixels)
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling(resample)))


def _by_shorter_side(height: int, width: int, shorter: int) -> tuple[int, int]:
    longer = int(shorter * max(height, width) / min(height, width))
    return (longer, shorter) if height >= width else (shorter, longer)


def _resized_middle(
    pixels: np.ndarray, target: tuple[int, int], crop: tuple[int, int] | None, resample: int
) -> np.ndarray:
    """The middle `crop` of the picture resized to `target`; what the crop needs beyond is black.

    A strip of 1 x 100,000 px resized by its shorter side would not fit into memory: of such only
    the middle is computed, with edges that Pillow rounds to float32.
    """
    starts, ends, offsets = [], [], []
    for whole, part in zip(target, crop or target, strict=True):
        first = (whole - part) // 2
        starts.append(max(first, 0))
        ends.append(min(first + part, whole))
        offsets.append(max(-first, 0))
    image, filter_ = Image.fromarray(pixels), Image.Resampling(resample)
    shown = (ends[0] - starts[0], ends[1] - starts[1])
    if target[0] * target[1] <= LONGEST_PX**2:
        whole_picture = np.array(image.resize((target[1], target[0]), filter_))
        found = whole_picture[starts[0] : ends[0], starts[1] : ends[1]]
    else:
        down, across = image.height / target[0], image.width / target[1]
        box = (starts[1] * across, starts[0] * down, ends[1] * across, ends[0] * down)
        found = np.array(image.resize((shown[1], shown[0]), filter_, box))
    if crop is None or shown == crop:
        return found
    black = np.zeros((*crop, 3), np.uint8)
    black[offsets[0] : offsets[0] + shown[0], offsets[1] : offsets[1] + shown[1]] = found
    return black


def _size(value: object, where: object) -> tuple[int, int] | int:
    if isinstance(value, int):
        return value
    if isinstance(value, dict):
        given = {str(key): number for key, number in value.items() if number is not None}
        if set(given) == {"shortest_edge"}:
            return int(given["shortest_edge"])
        if set(given) == {"height", "width"}:
            return int(given["height"]), int(given["width"])
    raise _unknown(where, f"size {value}")


def _crop(value: object, where: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    found = _size(value, where)
    if isinstance(found, int):
        return found, found
    return found


def _triple(value: object, name: str, where: object) -> Triple:
    if isinstance(value, Sequence) and len(value) == 3:
        return float(value[0]), float(value[1]), float(value[2])
    raise _unknown(where, f"{name} {value}")


def _unknown(where: object, got: str) -> InputError:
    return InputError(
        where,
        got,
        "resize (shortest_edge, or height and width), centre crop, rescale, normalise",
        "Use a model with such a processor.",
    )
