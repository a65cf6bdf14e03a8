"""TIFFs with more than 8 bits that Pillow refuses (colour in floats) or misreads without a word.

Pillow and libtiff unpack them nevertheless, codecs and all: told that a TIFF is a grey picture of
bytes, they give its bytes, and what these mean is worked out here. So no second TIFF library is
needed, and a hostile file meets the same limits as any other.

Axes: values are `[H, W, C]` in any type; pixels are uint8 `[H, W, C]`.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

BAND_BYTES = 1 << 26
"""How much is unpacked at once."""

MOST_BYTES = 1 << 30
"""Larger pictures are refused before they are unpacked (ours)."""

Unpack = Callable[[bytes], np.ndarray]
"""The bytes of a file with a grey 8-bit picture to uint8 `[H, W]`."""

_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CODECS = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, deflate twice, PackBits, LZMA, Zstd
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_GREY, _RGB = (0, 1), 2
_LONG = 4
_MOST_FRAMES = 10_000


class NotUnderstood(Exception):
    """The file is a TIFF, but not of a kind that is read here; the message says which."""


class TooLarge(Exception):
    """The picture would fill more memory than `MOST_BYTES`; the message says how much."""


class NotFinite(Exception):
    """There is NaN or infinity among the values."""


@dataclass(frozen=True)
class DeepPicture:
    """A picture brought to 8 bits.

    Attributes:
        image: `L`, `LA`, `RGB` or `RGBA`, with its colour profile.
        mode: what it was, as `RGB;32F`: bits of a sample and U, I or F for its type.
        orientation: EXIF orientation, 1..8.
        frames: number of pictures in the file; this is the first.
    """

    image: Image.Image
    mode: str
    orientation: int
    frames: int


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as TIFF or BigTIFF."""
    return data.startswith(_HEADS)


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow opens a TIFF, but gives wrong values (Pillow 13).

    Of 16-bit greys with 0 for white the negative, of unsigned 32-bit greys those above 2^31 as
    negative numbers, of signed bytes the negative ones as bright.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    bits, kind = _first(tags.get(258, 1)), _first(tags.get(339, 1))
    if image.mode.startswith("I;16"):
        return tags.get(262) == 0
    return (image.mode == "I" and bits == 32 and kind == 1) or (image.mode == "L" and kind == 2)


def read_deep(data: bytes, unpack: Unpack, max_pixels: int) -> DeepPicture:
    """Read the first picture of a TIFF with grey or colour in integers or floats.

    Raises:
        NotUnderstood: it holds something else, or is packed in another way.
        TooLarge: more than `max_pixels`, or `MOST_BYTES`.
        NotFinite: see there.
        Exception: whatever Pillow raises for a damaged file.
    """
    directory, frames = _directory(data)
    try:
        plan = _plan(data, directory)
    except KeyError as error:
        raise NotUnderstood(f"no tag {error}") from error
    if plan.height * plan.width > max_pixels:
        count = plan.height * plan.width
        raise TooLarge(f"{plan.height} x {plan.width} = {count:,}")
    if plan.height * plan.width * plan.pixel_bytes > MOST_BYTES:
        raise TooLarge(f"{plan.height} x {plan.width} with {plan.pixel_bytes} bytes each")
    values = _values(data, plan, unpack)
    colours = 3 if plan.photometric == _RGB else 1
    has_alpha = plan.alpha > 0 and plan.samples > colours
    # Further channels (masks, infrared) are none of what is seen.
    values = values[..., : colours + has_alpha]
    pixels = _pixels(values, colours, plan)
    image = _image(pixels, premultiplied=has_alpha and plan.alpha == 1)
    if profile := directory.get(34675):
        image.info["icc_profile"] = profile
    mode = f"{'RGB' if colours == 3 else 'L'}{'A' if has_alpha else ''};{plan.bits}"
    orientation = int(_first(directory.get(274, 1)))
    return DeepPicture(image, mode + plan.kind.upper(), orientation, frames)


def _image(pixels: np.ndarray, *, premultiplied: bool) -> Image.Image:
    height, width, channels = pixels.shape
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    if not premultiplied:
        return Image.frombytes(mode, (width, height), pixels.tobytes())
    stored = {"LA": "La", "RGBA": "RGBa"}[mode]
    return Image.frombytes(stored, (width, height), pixels.tobytes()).convert(mode)


def to_8_bit(values: np.ndarray, top: float | None) -> np.ndarray:
    """Brightness 0..`top` to 0..255, rounded; without a top as the values suggest.

    Integers up to 255 or 65535 are taken as 8 or 16 bits, floats within 0..1 as such, whole ones as
    integers; anything else is stretched from its least to its greatest value.

    Args:
        values: any shape and type.
        top: what stands for white, where that is known.

    Returns:
        uint8, of the same shape.

    Raises:
        NotFinite: see there.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise NotFinite
    low, high = float(values.min()), float(values.max())
    if top is None:
        low, top = _span(values, low, high)
    else:
        low = 0.0
    found = np.empty(values.shape, np.uint8)
    rows = max(1, (1 << 20) // max(1, values[0].size))
    for start in range(0, len(values), rows):
        band = values[start : start + rows].astype(np.float64)
        # Halved first: the span of float64 may be more than float64 can hold.
        scaled = (band / 2 - low / 2) * (255.0 / (top / 2 - low / 2))
        found[start : start + rows] = np.clip(np.round(scaled), 0, 255)
    return found


def _span(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    is_float = values.dtype.kind == "f"
    if low >= 0 and is_float and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 0xFFFF and (not is_float or bool((values == np.round(values)).all())):
        return 0.0, 255.0 if high <= 0xFF else 65535.0
    if low >= 0 and not is_float and values.dtype.itemsize >= 4:
        return 0.0, float(np.iinfo(values.dtype).max)
    return low, high if high > low else low + 1.0


def _pixels(values: np.ndarray, colours: int, plan: "_Plan") -> np.ndarray:
    top = None
    if plan.kind == "u" and plan.bits <= 16:
        top = float(2**plan.bits - 1)
    pixels = to_8_bit(values[..., :colours], top)
    if plan.photometric == 0:
        pixels = 255 - pixels
    if values.shape[2] == colours:
        return pixels
    opaque = 1.0 if plan.kind == "f" else float(np.iinfo(values.dtype).max)
    return np.concatenate([pixels, to_8_bit(values[..., colours:], opaque)], axis=2)


@dataclass(frozen=True)
class _Plan:
    """How the values lie in the file, in pieces (strips or tiles) of `block` rows and columns."""

    height: int
    width: int
    samples: int
    bits: int
    kind: str
    order: str
    photometric: int
    alpha: int
    planes: int
    codec: int
    predictor: int
    tiled: bool
    block: tuple[int, int]
    pieces: tuple[tuple[int, int], ...]

    @property
    def across(self) -> int:
        return -(-self.width // self.block[1])

    @property
    def down(self) -> int:
        return -(-self.height // self.block[0])

    @property
    def pixel_bytes(self) -> int:
        return self.samples * self.bits // 8

    @property
    def stacked(self) -> int:
        """Samples that lie side by side in the file."""
        return self.samples // self.planes


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _all(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _directory(data: bytes) -> tuple[dict[int, Any], int]:
    is_big = data[2:4] in (b"+\0", b"\0+")
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if is_big else 8])
    file, seen, first = io.BytesIO(data), set(), None
    while directory.next and directory.next not in seen and len(seen) < _MOST_FRAMES:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        if first is None:
            first = dict(directory)
    if first is None:
        raise NotUnderstood("no directory")
    return first, len(seen)


def _plan(data: bytes, tags: dict[int, Any]) -> _Plan:
    width, height, samples = int(tags[256]), int(tags[257]), int(tags.get(277, 1))
    photometric, codec, predictor = (tags.get(tag, 1) for tag in (262, 259, 317))
    bits, kind = _type(tags)
    is_grey = photometric in _GREY and samples in (1, 2)
    if not (is_grey or (photometric == _RGB and samples >= 3)):
        raise NotUnderstood(f"{samples} channels of photometric type {photometric}")
    if codec not in _CODECS or predictor not in (1, 2, 3):
        raise NotUnderstood(f"compression {codec} with predictor {predictor}")
    tiled, extra = 322 in tags, _all(tags.get(338, 0))
    block = (tags[323], tags[322]) if tiled else (min(tags.get(278, height), height), width)
    pieces = tuple(
        zip(_all(tags[324 if tiled else 273]), _all(tags[325 if tiled else 279]), strict=True)
    )
    plan = _Plan(
        height, width, samples, bits, kind, "<" if data[:2] == b"II" else ">", photometric,
        extra[0] if extra[0] in (1, 2) else 0, samples if tags.get(284) == 2 else 1, codec,
        predictor, tiled, block, pieces,
    )  # fmt: skip
    if min(height, width, *block) < 1 or len(pieces) != plan.across * plan.down * plan.planes:
        raise NotUnderstood(f"{len(pieces)} pieces of {block[0]} x {block[1]}")
    if sum(count for _, count in pieces) > 2 * len(data):
        raise NotUnderstood("pieces that lie one upon the other")
    return _in_rows(plan) if codec == 1 and not tiled else plan


def _type(tags: dict[int, Any]) -> tuple[int, str]:
    bits, kinds = set(_all(tags.get(258, 1))), set(_all(tags.get(339, 1)))
    if len(bits) != 1 or len(kinds) != 1:
        raise NotUnderstood("samples of several types")
    size, kind = bits.pop(), _KINDS.get(kinds.pop(), "?")
    if size not in ((16, 32, 64) if kind == "f" else (8, 16, 32, 64)) or kind == "?":
        raise NotUnderstood(f"samples of {size} bits")
    return size, kind


def _in_rows(plan: _Plan) -> _Plan:
    """Cut strips that are not packed to pieces that can be read one by one."""
    row_bytes = plan.width * plan.stacked * plan.bits // 8
    rows = max(1, BAND_BYTES // row_bytes)
    if rows >= plan.block[0] or plan.block[0] != plan.height:
        return plan
    pieces = tuple(
        (offset + top * row_bytes, min(rows, plan.height - top) * row_bytes)
        for offset, _ in plan.pieces
        for top in range(0, plan.height, rows)
    )
    return replace(plan, block=(rows, plan.width), pieces=pieces)


def _values(data: bytes, plan: _Plan, unpack: Unpack) -> np.ndarray:
    """`[H, W, samples]` in the type of the file."""
    values = np.empty((plan.height, plan.width, plan.samples), f"{plan.kind}{plan.bits // 8}")
    row_bytes = plan.block[0] * plan.block[1] * plan.across * plan.stacked * plan.bits // 8
    step = max(1, BAND_BYTES // row_bytes)
    for plane in range(plan.planes):
        channels = slice(plane, plane + 1) if plan.planes > 1 else slice(None)
        for start in range(0, plan.down, step):
            stop = min(start + step, plan.down)
            top, bottom = start * plan.block[0], min(stop * plan.block[0], plan.height)
            # Strips end with the picture, tiles are always whole.
            rows = (stop - start) * plan.block[0] if plan.tiled else bottom - top
            first = plane * plan.down + start
            pieces = plan.pieces[first * plan.across : (first + stop - start) * plan.across]
            raw = unpack(_as_grey(data, plan, pieces, rows))
            values[top:bottom, :, channels] = _samples(raw, plan)[: bottom - top, : plan.width]
    return values


def _samples(raw: np.ndarray, plan: _Plan) -> np.ndarray:
    """Bytes `[rows, row bytes]` to values `[rows, columns, samples]`; differences are summed.

    Predictors 2 (TIFF 6.0, section 14) and 3 (TIFF Technical Note 3) store, in each row of a piece,
    differences of neighbours; 3 besides sorts the bytes by weight, the heaviest first.
    """
    size, stacked, rows = plan.bits // 8, plan.stacked, len(raw)
    pieces = np.ascontiguousarray(raw).reshape(rows, plan.across, -1)
    if plan.predictor == 3:
        summed = np.cumsum(pieces.reshape(rows, plan.across, -1, stacked), axis=2, dtype=np.uint8)
        sorted_ = summed.reshape(rows, plan.across, size, -1).swapaxes(2, 3)
        values = np.ascontiguousarray(sorted_).view(f">{plan.kind}{size}")
        return values.reshape(rows, -1, stacked)
    whole = pieces.view(f"{plan.order}u{size}").astype(f"u{size}")
    if plan.predictor == 2:
        whole = whole.reshape(rows, plan.across, -1, stacked)
        whole = np.cumsum(whole, axis=2, dtype=whole.dtype)
    return whole.view(f"{plan.kind}{size}").reshape(rows, -1, stacked)


def _as_grey(data: bytes, plan: _Plan, pieces: tuple[tuple[int, int], ...], rows: int) -> bytes:
    """A TIFF in which the same packed pieces are a grey picture of bytes."""
    pixel_bytes = plan.stacked * plan.bits // 8
    width = plan.block[1] * plan.across * pixel_bytes
    body, offsets = bytearray(b"II*\0\0\0\0\0"), []
    for offset, count in pieces:
        offsets.append(len(body))
        body += data[offset : offset + count]
    counts = [stop - start for start, stop in pairwise([*offsets, len(body)])]
    tags = {256: [width], 257: [rows], 258: [8], 259: [plan.codec], 262: [1], 277: [1]}
    if plan.tiled:
        tags |= {322: [plan.block[1] * pixel_bytes], 323: [plan.block[0]]}
        tags |= {324: offsets, 325: counts}
    else:
        tags |= {273: offsets, 278: [plan.block[0]], 279: counts}
    places = {}
    for tag, values in tags.items():
        places[tag] = struct.pack("<I", values[0])
        if len(values) > 1:
            places[tag] = struct.pack("<I", len(body))
            body += struct.pack(f"<{len(values)}I", *values)
    body[4:8] = struct.pack("<I", len(body))
    body += struct.pack("<H", len(tags))
    for tag in sorted(tags):
        body += struct.pack("<HHI", tag, _LONG, len(tags[tag])) + places[tag]
    return bytes(body + b"\0\0\0\0")
