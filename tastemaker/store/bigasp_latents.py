"""Latents as bigASP keeps them: one gzip file a picture, a header and fp16 numbers.

All numbers are little-endian. Version 2 has 24 bytes of header (original width, original height,
crop left, crop top, latent height, latent width; 32 bits each) and is named by the MD5 of the
picture's path, at `ab/cd/abcd....bin.gz`. Version 1 has the picture's index before them, 28 bytes,
and lies at `INDEX % 1000/INDEX.bin.gz` with three digits for the folder. The source's code calls
the last two numbers width and height; they hold height and width.

The numbers are a *sample* of the VAE's posterior, *multiplied* by its scaling factor (0.13025 for
SDXL), unlike those of `store.latents`.

Axes: latents are `[4, h, w]`; sizes in pixels, but the latent's own.

Source: fpgaminer/bigasp-training (MIT), versions 1 and 2; the code here is ours.
"""

import gzip
import re
import struct
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tastemaker.errors import PictureError
from tastemaker.records.size import Size
from tastemaker.store.atomic import write_bytes

ENDING = ".bin.gz"
"""Ending of such a file."""

CHANNELS = 4
"""Of a latent."""

MOST_SIDE = 1024
"""Latents with a longer side are refused, so that a small file cannot unpack to gigabytes (ours:
8192 pixels)."""

_NAME = re.compile(r"(?:[0-9a-f]{32}|[0-9]{1,10})\.bin\.gz")
_LENGTHS = {2: 24, 1: 28}
_MOST_BYTES = 2 * CHANNELS * MOST_SIDE**2 + max(_LENGTHS.values())
_REMEDY = "Copy the file again from its source, or remove it."


@dataclass(frozen=True)
class BigaspHeader:
    """What such a file says before its numbers.

    Attributes:
        version: 1 or 2.
        name: the picture's MD5 or index, from the file's name.
        original: size of the picture, before any resize.
        crop_top: pixels cut at the top of the resized picture.
        crop_left: pixels cut at its left.
        latent_size: height and width of the latent; an eighth of the crop's.
    """

    version: int
    name: str
    original: Size
    crop_top: int
    crop_left: int
    latent_size: Size


@dataclass(frozen=True)
class BigaspLatent(BigaspHeader):
    """A whole file: its header, and `latent`, float16 `[4, h, w]`, scaled by the VAE's factor."""

    latent: np.ndarray


def read_bigasp(path: Path) -> BigaspLatent:
    """Read one file, of the version that its length tells.

    Raises:
        PictureError: `got` starts with one of: `no such file`, `not readable`, `too many bytes`,
            `not a bigASP latent`, `truncated or damaged`, `no finite values`.
    """
    try:
        # A compressed file of numbers is not longer than the numbers, but for a few bytes.
        if path.stat().st_size > _MOST_BYTES + (_MOST_BYTES >> 6):
            raise _refused(path, f"too many bytes ({path.stat().st_size:,})")
        with gzip.open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except gzip.BadGzipFile as error:
        raise _refused(path, f"truncated or damaged ({error})") from error
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except OSError as error:
        raise _refused(path, f"not readable ({error.strerror})") from error
    except (EOFError, zlib.error) as error:
        raise _refused(path, f"truncated or damaged ({error})") from error
    if len(data) > _MOST_BYTES:
        raise _refused(path, f"too many bytes (it unpacks to more than {_MOST_BYTES:,})")
    header = _header(path, data[: _LENGTHS[1]], len(data))
    h, w = header.latent_size
    values = np.frombuffer(data, "<f2", offset=_LENGTHS[header.version]).reshape(CHANNELS, h, w)
    if not np.isfinite(values).all():
        raise _refused(path, "no finite values (NaN or infinity among the numbers)")
    return BigaspLatent(**vars(header), latent=values.astype(np.float16))


def peek_bigasp(path: Path) -> BigaspHeader:
    """The header alone, from the first bytes and the length that gzip keeps at the end.

    Raises:
        PictureError: as `read_bigasp`, but the numbers are not looked at.
    """
    try:
        with path.open("rb") as file:
            start = zlib.decompressobj(31).decompress(file.read(1 << 12), _LENGTHS[1])
            file.seek(max(0, path.stat().st_size - 4))
            length = int.from_bytes(file.read(4), "little")
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except OSError as error:
        raise _refused(path, f"not readable ({error.strerror})") from error
    except zlib.error as error:
        raise _refused(path, f"truncated or damaged ({error})") from error
    try:
        return _header(path, start, length)
    except PictureError:
        if not is_bigasp_name(path.name):
            raise
        # Its last bytes may be missing; then the whole file tells what is wrong.
        whole = read_bigasp(path)
        return BigaspHeader(*(getattr(whole, field.name) for field in fields(BigaspHeader)))


def write_bigasp(folder: Path, latent: BigaspLatent) -> Path:
    """Write one file below `folder`, where the source's code would look for it.

    Raises:
        ValueError: the latent is not finite, or not `[4, h, w]`.
    """
    h, w = latent.latent_size
    if latent.latent.shape != (CHANNELS, h, w) or not np.isfinite(latent.latent).all():
        raise ValueError(f"{latent.name}: no finite latent of {CHANNELS} x {h} x {w}")
    numbers = (latent.original.w, latent.original.h, latent.crop_left, latent.crop_top, h, w)
    if latent.version == 1:
        index = int(latent.name)
        place, start = folder / f"{index % 1000:03d}", struct.pack("<7I", index, *numbers)
    else:
        place, start = folder / latent.name[:2] / latent.name[2:4], struct.pack("<6I", *numbers)
    path = place / f"{latent.name}{ENDING}"
    data = start + latent.latent.astype("<f2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gzip.compress(data, mtime=0))
    return path


def is_bigasp_name(name: str) -> bool:
    """Whether a file is named like one of these: an MD5 or an index."""
    return bool(_NAME.fullmatch(name))


def _header(path: Path, start: bytes, length: int) -> BigaspHeader:
    """The header in the first bytes of a file of some length.

    Of two readings only one can be right: lengths of version 1 and 2 differ by 4 modulo 8.
    """
    name = path.name.partition(".")[0]
    for version, header in _LENGTHS.items():
        if len(start) < header:
            continue
        values = struct.unpack(f"<{header // 4}I", start[:header])
        w, h, crop_left, crop_top, latent_h, latent_w = values[-6:]
        latent_size, sides = Size(latent_h, latent_w), (latent_h, latent_w)
        if length != header + 2 * CHANNELS * latent_h * latent_w:
            continue
        if min(*sides, w, h) < 1 or max(sides) > MOST_SIDE:
            break
        if version == 1 and name.isdecimal() and int(name) != values[0]:
            raise _refused(path, f"not a bigASP latent (it says that its index is {values[0]})")
        return BigaspHeader(version, name, Size(h, w), crop_top, crop_left, latent_size)
    raise _refused(path, f"not a bigASP latent (no header fits its {length:,} bytes)")


def _refused(path: Path, got: str) -> PictureError:
    return PictureError(path, got, "a bigASP latent, gzip of a header and fp16 numbers", _REMEDY)
