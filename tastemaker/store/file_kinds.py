"""What a file is, told by its first bytes and not by its name.

Signatures are those that the formats' own specifications give (JPEG: ITU-T T.81; PNG: W3C; TIFF
6.0; WebP: RFC 9649; AVIF and HEIC: ISO/IEC 14496-12 brands; tar: POSIX.1 `ustar`; Parquet).
"""

import re
import tarfile
import zlib
from collections.abc import Mapping
from typing import Literal

Kind = Literal["picture", "tar", "parquet", "gzip", "packed", "raw", "other"]
"""`gzip`, `packed` (another compressed archive) and `raw` (a camera's file) cannot be used as they
are; `other` is anything else."""

HEAD_BYTES = 512
"""What `kind_of` needs of a file: the header of a tar."""

PICTURE_ENDINGS = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
        *(".jp2", ".ppm", ".pgm", ".qoi", ".ico"),
        # Not readable here; listed, so that the user is told instead of missing them.
        *(".heic", ".heif", ".jxl", ".psd", ".svg"),
    )
)
"""Endings of files that are taken for pictures; what they are is then told by their content."""

RAW_ENDINGS = frozenset(
    (".nef", ".nrw", ".cr2", ".cr3", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
)
"""Cameras' files: TIFF by their first bytes, but a decoder finds only a small preview in them."""

ARCHIVE_ENDINGS: Mapping[str, str] = {".tar": "a tar", ".parquet": "a Parquet file"}
"""Endings that promise pictures: a file that breaks the promise is not passed over in silence."""

_STARTS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),
    (b"MM\0+", ".tif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", ".jp2"),
    (b"\xff\x4f\xff\x51", ".jp2"),
    (b"qoif", ".qoi"),
    (b"8BPS", ".psd"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", ".jxl"),
)
_BRANDS = {b"avif": ".avif", b"avis": ".avif"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), ".heic"
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_NETPBM = re.compile(rb"P[1-6]\s+(#[^\n]*\s+)*[0-9]+\s+[0-9]+\s")
_PACKED = (
    (b"PK\x03\x04", (".zip",)),
    (b"Rar!\x1a\x07", (".rar",)),
    (b"7z\xbc\xaf\x27\x1c", (".7z",)),
    (b"BZh", (".tar.bz2", ".tbz", ".tbz2")),
    (b"\xfd7zXZ\0", (".tar.xz", ".txz")),
    (b"\x28\xb5\x2f\xfd", (".tar.zst", ".tzst")),
)


def kind_of(head: bytes, name: str) -> Kind:
    """The kind of a file, from its first `HEAD_BYTES` bytes.

    The name counts only where bytes cannot tell: a camera's raw file is a TIFF, and a ZIP may be
    an office document.
    """
    lower = name.lower()
    kind: Kind = "other"
    if lower.endswith(tuple(RAW_ENDINGS)):
        kind = "raw"
    elif picture_ending(head) is not None:
        kind = "picture"
    elif head.startswith(b"PAR1"):
        kind = "parquet"
    elif is_tar(head):
        kind = "tar"
    elif head.startswith(b"\x1f\x8b"):
        kind = "gzip"
    elif any(head.startswith(start) and lower.endswith(ends) for start, ends in _PACKED):
        kind = "packed"
    return kind


def picture_ending(head: bytes) -> str | None:
    """The usual ending of the picture format that some bytes begin with; None for no picture."""
    for start, ending in _STARTS:
        if head.startswith(start):
            return ending
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return ".bmp"
    if len(head) > 22 and head[:4] == b"\0\0\1\0" and head[4] and not head[5] and not head[9]:
        return ".ico"  # a few pictures, and a byte that must be zero in the first one's entry
    return ".ppm" if _NETPBM.match(head) else None


def ending_of(name: str) -> str:
    """What follows the last dot of a path's last part, with the dot, in small letters."""
    base = name.rpartition("/")[2]
    stem, _, ending = base.rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def is_tar(head: bytes) -> bool:
    """Whether some bytes are the first block of a tar: by its mark, or (1979) by its checksum."""
    if head[257:262] == b"ustar":
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape").name)
    except (tarfile.TarError, ValueError):
        return False


def is_gzipped_tar(head: bytes) -> bool:
    """Whether a gzip file begins like a compressed tar."""
    try:
        return is_tar(zlib.decompressobj(31).decompress(head, HEAD_BYTES))
    except zlib.error:
        return False
