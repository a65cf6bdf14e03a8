"""The hardened picture loader: the only way to open a picture.

Plain `Image.open(path).convert("RGB")` turns 16-bit greys white, float pictures black, hidden
colours of transparent pixels visible, and leaves photographs on their side, all without a word.
Here every mode has its own conversion, and a file that cannot be read safely is a `PictureError`
that names it.

Axes: pixels are uint8 `[H, W, 3]`, RGB in sRGB.
"""

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.archives import slice_of
from tastemaker.store.deep_pictures import (
    BAND_BYTES,
    NotFinite,
    NotUnderstood,
    TooLarge,
    is_misread,
    is_tiff,
    read_deep,
)
from tastemaker.store.picture_colours import Rgb, to_rgb

MAX_PIXELS = 120_000_000
"""Larger pictures are refused before they are decoded (ours; most cameras give less)."""

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read (ours)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000", "ICO", "QOI")
"""Formats that are tried. EPS and the like are not: reading them starts another program."""

_WHITE: Rgb = (255, 255, 255)
_ORIENTATIONS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True)} | {
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
_TURNED = {5, 6, 7, 8}
_PNG_DEPTH = 24
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript program"),
)
_SMALLER = "Make it smaller, or remove it: a small file that unpacks to so much may be an attack."
_CONVERT = "Open it in an image editor and save it again as PNG or JPEG, or remove it."


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture that was decoded and thrown away.

    Attributes:
        size: height and width, upright.
        format: what the content is (`PNG`, `JPEG`, ...), whatever the file is called.
        mode: colour mode in the file (`RGB`, `P`, `I;16`, `CMYK`, `RGB;32F`, ...).
        frames: number of frames in the file.
    """

    size: Size
    format: str
    mode: str
    frames: int


@dataclass(frozen=True)
class LoadedImage:
    """A decoded picture.

    Attributes:
        pixels: uint8 `[H, W, 3]`, RGB, upright, nothing transparent.
        size: height and width of `pixels`.
        format: what the content is (`PNG`, `JPEG`, ...), whatever the file is called.
        mode: colour mode in the file (`RGB`, `P`, `I;16`, `CMYK`, ...).
        frames: number of frames in the file; `pixels` is the first.
    """

    pixels: np.ndarray
    size: Size
    format: str
    mode: str
    frames: int


def load_image(
    source: Path | str | bytes,
    *,
    background: Rgb = _WHITE,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> LoadedImage:
    """Decode one picture, upright and in 8-bit RGB.

    Grey and colour with 16 bits keep their brightness (65535 becomes 255); of 16-bit colour in PNG
    and in TIFFs that Pillow reads the low byte is cut off, so it is up to 1 of 255 darker. 32-bit
    integers are read as 8, 16 or 31 (without sign 32) bits, the smallest that holds the largest
    value. Floats within 0..1 are scaled by 255, whole numbers up to 255 or 65535 are read as 8 or
    16 bits, anything else is stretched from its least to its greatest value. An embedded colour
    profile is converted to sRGB. Transparent parts are laid over `background`.

    Args:
        source: a file, or the bytes of one.
        background: what is seen through transparent parts, RGB 0..255.
        name: how to call the picture in errors; the path by default.
        max_pixels: limit on height x width, checked before decoding.

    Raises:
        PictureError: `got` starts with one of: `no such file`, `no regular file`, `not readable`,
            `zero bytes`, `too many bytes`, `not a picture`, `too many pixels`, `truncated or
            damaged`, `no finite values`. `reason_of` gives that part alone.
    """
    with _decoded(source, name, max_pixels) as picture:
        pixels = to_rgb(picture.image, background)
    pixels = _upright(pixels, picture.orientation)
    size = Size(*pixels.shape[:2])
    return LoadedImage(pixels, size, picture.format, picture.mode, picture.frames)


def check_picture(
    source: Path | str | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> PictureFacts:
    """Decode a picture to see that it is whole, without making colours or an array of it.

    Args:
        source: a file, or the bytes of one.
        name: how to call the picture in errors; the path by default.
        max_pixels: limit on height x width, checked before decoding.

    Raises:
        PictureError: as of `load_image`, with the same reasons.
    """
    with _decoded(source, name, max_pixels) as picture:
        image = picture.image
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise NotFinite
    turned = picture.orientation in _TURNED
    size = Size(image.width, image.height) if turned else Size(image.height, image.width)
    return PictureFacts(size, picture.format, picture.mode, picture.frames)


@dataclass(frozen=True)
class _Decoded:
    image: Image.Image
    format: str
    mode: str
    frames: int
    orientation: int


@contextmanager
def _decoded(source: Path | str | bytes, name: str | None, max_pixels: int) -> Iterator[_Decoded]:
    """A picture in its own mode; what fails with it inside the block is a `PictureError` too."""
    label = name or (str(source) if not isinstance(source, bytes) else "picture in memory")
    data = source if isinstance(source, bytes) else read_picture_file(Path(source), label)
    if not data:
        raise _refused(label, "zero bytes", "a picture", "Copy the file again, or remove it.")
    with warnings.catch_warnings():
        # Pillow warns of large pictures and of odd metadata; the limit is checked here, the rest is
        # harmless.
        warnings.simplefilter("ignore")
        try:
            picture = _read(data, label, max_pixels)
            with picture.image:
                yield picture
        except PictureError:
            raise
        except NotFinite as error:
            got = "no finite values (NaN or infinity among the pixels)"
            raise _refused(label, got, "finite numbers", _CONVERT) from error
        # Decoders fail in many ways on hostile files; every one of them means the same to the user.
        except Exception as error:
            raise _refused(
                label,
                f"truncated or damaged ({_first_line(error)})",
                "a whole picture",
                "Copy the file again from its source, or remove it.",
            ) from error


def _read(data: bytes, label: str, max_pixels: int) -> _Decoded:
    try:
        image = _open(data, label, max_pixels)
    except PictureError as error:
        if not (is_tiff(data) and reason_of(error) == "not a picture"):
            raise
        return _read_deep(data, label, max_pixels)
    if is_misread(image):
        image.close()
        return _read_deep(data, label, max_pixels)
    mode, frames = image.mode, _frames(image)
    image.load()
    key = image.info.get("transparency")
    if image.format == "PNG" and isinstance(key, tuple) and data[_PNG_DEPTH] == 16:
        # Pillow keeps the high bytes of the pixels, but both of the colour that is transparent.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    # Asked for only now: Pillow turns TIFFs itself while it loads them, and then forgets it.
    return _Decoded(image, image.format or "", mode, frames, _orientation(image))


def _read_deep(data: bytes, label: str, max_pixels: int) -> _Decoded:
    def unpack(grey: bytes) -> np.ndarray:
        with _open(grey, label, 2 * BAND_BYTES) as image:
            return np.asarray(image)

    try:
        deep = read_deep(data, unpack, max_pixels)
    except NotUnderstood as error:
        got = f"not a picture (a TIFF with {error})"
        raise _refused(label, got, "a TIFF in grey or RGB", _CONVERT) from error
    except TooLarge as error:
        got = f"too many pixels ({error})"
        raise _refused(label, got, f"at most {max_pixels:,} pixels", _SMALLER) from error
    return _Decoded(deep.image, "TIFF", deep.mode, deep.frames, deep.orientation)


def reason_of(error: PictureError) -> str:
    """The stable first part of `got`, for counting: `truncated or damaged`, `zero bytes`, ..."""
    return str(error.got).split(" (", 1)[0]


def read_picture_file(path: Path, name: str | None = None) -> bytes:
    """The bytes of a file that should be a picture; devices, pipes and giants are not read.

    Args:
        path: a file, or the address of a tar's member (`store.archives`).
        name: how to call the picture in errors; the path by default.

    Raises:
        PictureError: `no such file`, `no regular file`, `not readable`, `too many bytes`,
            `truncated or damaged` (a tar that ends inside the member).
    """
    label = name or str(path)
    piece = slice_of(path)
    try:
        status = (path if piece is None else piece.file).stat()
        if not stat.S_ISREG(status.st_mode):
            got = "no regular file"
            raise _refused(label, got, "a picture file", "Give the path of a picture.")
        size = status.st_size if piece is None else piece.length
        if size > MAX_BYTES:
            got = f"too many bytes ({size:,})"
            raise _refused(label, got, f"at most {MAX_BYTES:,} bytes", _CONVERT)
        if piece is None:
            return path.read_bytes()
        data = piece.read()
    except FileNotFoundError as error:
        raise _refused(label, "no such file", "a picture file", "Check the path.") from error
    except OSError as error:
        got = f"not readable ({error.strerror})"
        raise _refused(label, got, "a readable file", "Check its permissions.") from error
    if len(data) < piece.length:
        got = f"truncated or damaged (the tar has {len(data):,} of its {piece.length:,} bytes)"
        raise _refused(label, got, "a whole picture", "Copy the tar again from its source.")
    return data


def _open(data: bytes, label: str, max_pixels: int) -> Image.Image:
    limit = f"at most {max_pixels:,} pixels"
    Image.init()
    # AVIF is not in every build of Pillow.
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        got = f"too many pixels ({_first_line(error)})"
        raise _refused(label, got, limit, _SMALLER) from error
    except UnidentifiedImageError as error:
        got = f"not a picture ({_describe(data)})"
        raise _refused(label, got, "a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF", _CONVERT) from error
    except Exception as error:
        got = f"truncated or damaged ({_first_line(error)})"
        raise _refused(label, got, "a whole picture", _CONVERT) from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        got = f"too many pixels ({image.height} x {image.width} = {pixels:,})"
        image.close()
        raise _refused(label, got, limit, _SMALLER)
    return image


def _refused(label: str, got: str, expected: str, todo: str) -> PictureError:
    return PictureError(label, got, expected, todo)


def _describe(data: bytes) -> str:
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            return f"it looks like {what}"
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it looks like an HTML page"
    if b"<svg" in head:
        return "it looks like an SVG drawing"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:512]):
        return "it looks like text"
    return f"it starts with {data[:8].hex(' ')}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged later frame does not matter: only the first is used
        return 1


def _orientation(image: Image.Image) -> int:
    # `ImageOps.exif_transpose` rewrites all of EXIF and fails on a zero denominator anywhere in it.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _ORIENTATIONS:
        return pixels
    turns, mirror = _ORIENTATIONS[orientation]
    pixels = np.rot90(pixels, turns)
    if mirror:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
