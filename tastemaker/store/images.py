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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tastemaker.errors import PictureError
from tastemaker.records.size import Size

MAX_PIXELS = 120_000_000
"""Larger pictures are refused before they are decoded (ours; most cameras give less)."""

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read (ours)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000", "ICO", "QOI")
"""Formats that are tried. EPS and the like are not: reading them starts another program."""

Rgb = tuple[int, int, int]

_WHITE: Rgb = (255, 255, 255)
_ORIENTATIONS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True)} | {
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript program"),
)
_CONVERT = "Open it in an image editor and save it again as PNG or JPEG, or remove it."


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

    Grey and colour with 16 bits keep their brightness (65535 becomes 255). 32-bit integers are read
    as 8, 16 or 31 bits, the smallest that holds the largest value. Floats within 0..1 are scaled by
    255, whole numbers up to 255 or 65535 are read as 8 or 16 bits, anything else is stretched from
    its least to its greatest value. An embedded colour profile is converted to sRGB. Transparent
    parts are laid over `background`.

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
    label = name or (str(source) if not isinstance(source, bytes) else "picture in memory")
    data = source if isinstance(source, bytes) else read_picture_file(Path(source), label)
    if not data:
        raise _refused(label, "zero bytes", "a picture", "Copy the file again, or remove it.")
    with warnings.catch_warnings():
        # Pillow warns of large pictures and of odd metadata; the limit is checked here, the rest is
        # harmless.
        warnings.simplefilter("ignore")
        image = _open(data, label, max_pixels)
        with image:
            orientation, frames = _orientation(image), _frames(image)
            format_, mode = image.format or "", image.mode
            try:
                image.load()
                pixels = _to_rgb(image, background, label)
            except PictureError:
                raise
            # Decoders fail in many ways on hostile files; every one of them means the same to the
            # user.
            except Exception as error:
                raise _refused(
                    label,
                    f"truncated or damaged ({_first_line(error)})",
                    "a whole picture",
                    "Copy the file again from its source, or remove it.",
                ) from error
    pixels = _upright(pixels, orientation)
    return LoadedImage(pixels, Size(*pixels.shape[:2]), format_, mode, frames)


def reason_of(error: PictureError) -> str:
    """The stable first part of `got`, for counting: `truncated or damaged`, `zero bytes`, ..."""
    return str(error.got).split(" (", 1)[0]


def read_picture_file(path: Path, name: str | None = None) -> bytes:
    """The bytes of a file that should be a picture; devices, pipes and giants are not read.

    Raises:
        PictureError: `no such file`, `no regular file`, `not readable`, `too many bytes`.
    """
    label = name or str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            got = "no regular file"
            raise _refused(label, got, "a picture file", "Give the path of a picture.")
        if status.st_size > MAX_BYTES:
            got = f"too many bytes ({status.st_size:,})"
            raise _refused(label, got, f"at most {MAX_BYTES:,} bytes", _CONVERT)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _refused(label, "no such file", "a picture file", "Check the path.") from error
    except OSError as error:
        got = f"not readable ({error.strerror})"
        raise _refused(label, got, "a readable file", "Check its permissions.") from error


def _open(data: bytes, label: str, max_pixels: int) -> Image.Image:
    limit = f"at most {max_pixels:,} pixels"
    todo = "Make it smaller, or remove it: a small file that unpacks to so much may be an attack."
    Image.init()
    # AVIF is not in every build of Pillow.
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        got = f"too many pixels ({_first_line(error)})"
        raise _refused(label, got, limit, todo) from error
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
        raise _refused(label, got, limit, todo)
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
    turns, mirror = _ORIENTATIONS.get(orientation, (0, False))
    pixels = np.rot90(pixels, turns)
    if mirror:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image, background: Rgb, label: str) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image, background, label)
    if image.mode == "LAB":
        return np.asarray(_to_srgb(image, ImageCms.createProfile("LAB")))
    profile = _profile(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"), np.uint32)[..., None]
        rgb = rgba.convert("RGB")
        if profile is not None and image.mode not in ("LA", "L", "PA"):
            rgb = _to_srgb(rgb, profile)
        return _over(np.asarray(rgb), alpha, background)
    if profile is not None:
        image = _to_srgb(image.convert("RGB") if image.mode in ("P", "1") else image, profile)
    return np.array(image.convert("RGB"))


def _over(rgb: np.ndarray, alpha: np.ndarray, background: Rgb) -> np.ndarray:
    below = np.asarray(background, np.uint32)
    mixed = rgb.astype(np.uint32) * alpha + below * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _deep_grey(image: Image.Image, background: Rgb, label: str) -> np.ndarray:
    values = np.asarray(image).astype(np.float64)
    transparent = image.info.get("transparency")
    if not np.isfinite(values).all():
        got = "no finite values (NaN or infinity among the pixels)"
        raise _refused(label, got, "finite numbers", _CONVERT)
    low, high = float(values.min()), float(values.max())
    whole = image.mode != "F" or bool((values == np.round(values)).all())
    if image.mode.startswith("I;16") or image.format == "PPM":
        scaled = values / 257.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        scaled = values * 255.0
    elif low >= 0 and whole and high <= 0xFFFF:
        scaled = values if high <= 0xFF else values / 257.0
    elif low >= 0 and image.mode == "I":
        scaled = values * (255.0 / 0x7FFFFFFF)
    else:
        scaled = (values - low) * (255.0 / ((high - low) or 1.0))
    grey = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if isinstance(transparent, int):
        rgb[values == transparent] = background
    return rgb


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        is_srgb = "srgb" in ImageCms.getProfileDescription(profile).lower()
    except Exception:  # a broken profile is ignored, as browsers do
        return None
    return None if is_srgb else profile


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except Exception:  # a profile for another mode than the picture's: as above
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")
