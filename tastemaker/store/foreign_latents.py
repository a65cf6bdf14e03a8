"""Latents that other programs have made: kohya's `.npz` files beside the pictures, and bigASP's.

kohya's scripts (sd-scripts) write `NAME_WWWWxHHHH_sdxl.npz` or `..._sd.npz` beside `NAME.jpg`, with
the *picture's* width and height in the name, or `NAME.npz` in older versions. Inside: `latents`
`[c, h, w]`, `original_size` (width, height), `crop_ltrb`, and perhaps `latents_flipped` and
`alpha_mask`; some models have a resolution in latent cells behind each name, `latents_128x96`
(height x width). What the numbers are, and what they are not:

- They are one *sample* of the VAE's posterior, *not* multiplied by its scaling factor, in fp32
  whatever precision the VAE ran in. Ours are means; a sample stands in for one here.
- `crop_ltrb` is not where the picture was cut. It comes from fitting the picture *inside* of the
  bucket. The picture itself is scaled to cover the bucket and cut at its centre, so that is what
  the sizes say here. Cuts of `--random_crop`, and pictures that `--bucket_no_upscale` did not
  resize, cannot be told from the file.
- The picture is not turned as its EXIF tag says. Such a latent is of another shape than the picture
  in the catalogue, and refused.

Nothing is unpickled, and a file's numbers are only taken when its checksums (CRC-32) are right.
bigASP's files are read by `store.bigasp_latents`.

Axes: latents are float32 `[c, h, w]`.
"""

import io
import math
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tastemaker.errors import PictureError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.archives import slice_of
from tastemaker.store.bigasp_latents import MOST_SIDE, read_bigasp
from tastemaker.store.hashing import hash_bytes

CELL = 8
"""Pixels for each latent cell, along one side, of all these models."""

BIGASP_FACTOR = 0.13025
"""What bigASP's numbers were multiplied by, SDXL's scaling factor."""

MOST_CHANNELS = 64
"""More channels are refused (ours; the models have 4 or 16)."""

_MOST_BYTES = 1 << 28
_MOST_NUMBERS = 1 << 26
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NAMED = re.compile(r"_(\d{4,6})x(\d{4,6})_(sdxl|sd)\.npz")
_MEMBER = re.compile(r"latents(?:_(\d{1,4})x(\d{1,4}))?\.npy")
_EXPECTED = "a latent cache of kohya's scripts"
_REMEDY = "Delete the file and cache this picture again."


@dataclass(frozen=True)
class ForeignLatent:
    """One latent of another program.

    Attributes:
        latent: float32 `[c, h, w]`, finite.
        sizes: of the picture it was made from; the target is its own size, in pixels.
        origin: the program and its model: `kohya:sdxl`, `kohya:sd`, `kohya:unknown`, `bigasp-v2`.
        factor: what the numbers have been multiplied by already.
        digest: hash of its file.
    """

    latent: np.ndarray
    sizes: ImageSizes
    origin: str
    factor: float
    digest: str


def find_kohya(picture: Path, size: Size) -> Path | None:
    """The cache file of a picture; None when there is none, or the picture lies in an archive.

    As in kohya's scripts `NAME.npz` wins over the others. Of those, only one with the size of the
    picture in its name counts: one with another size is of a picture that has been replaced.
    """
    if slice_of(picture) is not None:
        return None
    stem = picture.name[: len(picture.name) - len(picture.suffix)]
    names = (f"_{size.w:04d}x{size.h:04d}_{model}.npz" for model in ("sdxl", "sd"))
    places = (picture.parent / f"{stem}{name}" for name in (".npz", *names))
    return next((path for path in places if path.is_file()), None)


def read_kohya(path: Path, picture: Size, bucket: Size | None = None) -> tuple[ForeignLatent, ...]:
    """The latents of one file, the largest first.

    The bucket of each is its own size times 8, never what a setting says: kohya's own check takes a
    latent of 768 pixels for one of 1024.

    Args:
        path: the file.
        picture: size of the picture, as it is now, upright.
        bucket: only latents of this size.

    Raises:
        PictureError: `got` starts with one of: `no such file`, `not readable`, `too many bytes`,
            `truncated or damaged`, `not a kohya latent`, `no finite values`, `of another picture`,
            `of another bucket`.
    """
    data = _bytes(path)
    named = _NAMED.search(path.name)
    origin = f"kohya:{named[3] if named else 'unknown'}"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [
                _latent(archive, member, path, picture)
                for name in archive.namelist()
                if (member := _MEMBER.fullmatch(name))
            ]
            if not found:
                held = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:8])
                raise _refused(
                    path, f"not a kohya latent (no `latents` among: {held or 'nothing'})"
                )
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise _refused(path, f"truncated or damaged ({error})") from error
    except (ValueError, SyntaxError, RuntimeError, KeyError, OverflowError) as error:
        raise _refused(path, f"not a kohya latent ({error})") from error
    digest = hash_bytes(data)
    wanted = [
        ForeignLatent(latent, sizes, origin, 1.0, digest)
        for latent, sizes in found
        if bucket is None or sizes.target == bucket
    ]
    if not wanted:
        there = ", ".join(str(sizes.target) for _, sizes in found)
        raise _refused(path, f"of another bucket ({there}, wanted {bucket})")
    return tuple(sorted(wanted, key=lambda one: -one.sizes.target.h * one.sizes.target.w))


def read_bigasp_latent(record: ImageRecord, path: Path) -> ForeignLatent:
    """The latent that is itself a row of the catalogue, with the numbers as they are.

    Raises:
        PictureError: as `bigasp_latents.read_bigasp`, or `of another picture`: the file is not the
            one that was collected.
    """
    read = read_bigasp(path)
    digest = hash_bytes(_bytes(path))
    if digest != record.id:
        raise _refused(path, "of another picture (it was changed since it was collected)")
    target = Size(read.latent_size.h * CELL, read.latent_size.w * CELL)
    sizes = ImageSizes(read.original, read.crop_top, read.crop_left, target)
    values = read.latent.astype(np.float32)
    return ForeignLatent(values, sizes, f"bigasp-v{read.version}", BIGASP_FACTOR, digest)


def is_bigasp(record: ImageRecord) -> bool:
    """Whether a row of the catalogue is a bigASP latent and no picture."""
    return record.format.startswith("bigASP latent")


def centre_cut(original: Size, target: Size) -> ImageSizes:
    """What kohya's scripts do to a picture: scaled to cover the bucket, cut at its centre.

    They round halves up, and the spare half pixel goes to the right and the bottom.
    """
    scale = max(target.h / original.h, target.w / original.w)
    spare = [
        max(0, int(own * scale + 0.5) - wanted)
        for own, wanted in zip(original, target, strict=True)
    ]
    return ImageSizes(original, spare[0] // 2, spare[1] // 2, target)


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise _refused(path, f"too many bytes ({size:,})")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except OSError as error:
        raise _refused(path, f"not readable ({error.strerror})") from error


def _latent(
    archive: zipfile.ZipFile, member: re.Match[str], path: Path, picture: Size
) -> tuple[np.ndarray, ImageSizes]:
    suffix = f"_{member[1]}x{member[2]}" if member[1] else ""
    values = _array(archive, f"latents{suffix}.npy")
    original = _integers(_array(archive, f"original_size{suffix}.npy"), 2)
    _integers(_array(archive, f"crop_ltrb{suffix}.npy"), 4)
    if values.ndim != 3 or values.dtype.kind != "f":
        raise ValueError(f"latents are {values.dtype} {list(values.shape)}, not floats [c, h, w]")
    c, h, w = values.shape
    if not (1 <= c <= MOST_CHANNELS and 1 <= h <= MOST_SIDE and 1 <= w <= MOST_SIDE):
        raise ValueError(f"latents have the shape {list(values.shape)}")
    if member[1] and (int(member[1]), int(member[2])) != (h, w):
        raise ValueError(f"latents{suffix} have the shape {list(values.shape)}")
    if Size(original[1], original[0]) != picture:
        was = Size(original[1], original[0])
        raise _refused(path, f"of another picture (it was {was}, the picture is {picture})")
    if not np.isfinite(values).all():
        raise _refused(path, "no finite values (NaN or infinity among the numbers)")
    return values.astype(np.float32), centre_cut(picture, Size(h * CELL, w * CELL))


def _integers(values: np.ndarray, count: int) -> list[int]:
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(f"sizes are {values.dtype} {list(values.shape)}, not {count} integers")
    return values.tolist()


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, whose length is checked before it is believed; never an object."""
    # numpy's own reader makes room for whatever the header says before it looks at the data.
    with archive.open(name) as file:
        data = file.read(_MOST_NUMBERS + 1)
    if len(data) > _MOST_NUMBERS:
        raise ValueError(f"{name} unpacks to more than {_MOST_NUMBERS:,} bytes")
    stream = io.BytesIO(data)
    read_header = _HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError(f"{name} is of an unknown version of numpy's format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that an old Python has written
        shape, is_fortran, dtype = read_header(stream)
    body = data[stream.tell() :]
    if dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {dtype}, no plain numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{name} has {len(body):,} bytes for {list(shape)} of {dtype}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if is_fortran else "C")


def _refused(path: Path, got: str) -> PictureError:
    return PictureError(path, got, _EXPECTED, _REMEDY)
