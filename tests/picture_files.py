"""Files of pictures, written byte by byte where Pillow does not write such."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

BACKGROUND = (10, 200, 30)


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """A file by Pillow."""
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def noise(h: int, w: int, channels: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Any values of an unsigned type, `[h, w, channels]`; one channel is `[h, w]`."""
    top = int(np.iinfo(dtype).max)
    values = np.random.default_rng(seed).integers(0, top, (h, w, channels), dtype, endpoint=True)
    return values[..., 0] if channels == 1 else values


def smooth(h: int = 24, w: int = 40) -> np.ndarray:
    """RGB that lossy formats keep well, different at every corner."""
    rows, columns = np.mgrid[0:h, 0:w]
    parts = [rows / (h - 1), columns / (w - 1), (rows + columns) / (h + w - 2)]
    return np.round(np.stack(parts, -1) * (200, 220, 120) + 20).astype(np.uint8)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    """`[h, w]` to `[h, w, 3]`."""
    return np.repeat(grey[..., None], 3, axis=2)


def laid_over(rgb: np.ndarray, alpha: np.ndarray, background=BACKGROUND) -> np.ndarray:
    """Alpha 0..255 mixes colour and background, rounded."""
    share = alpha[..., None].astype(np.float64) / 255
    return np.floor(rgb * share + np.array(background) * (1 - share) + 0.5).astype(np.uint8)


def png(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 8 or 16 bits with 1 to 4 channels, with a transparent colour."""
    values = values if values.ndim == 3 else values[..., None]
    h, w, channels = values.shape
    bits = 8 * values.itemsize
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = values.astype(f">u{values.itemsize}").reshape(h, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, kind, 0, 0, 0))]
    if transparent:
        parts.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts += [(b"IDAT", data), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(
    values: np.ndarray,
    *,
    photometric: int | None = None,
    order: str = "<",
    predictor: int = 1,
    deflate: bool = False,
    tile: int | None = None,
    strip: int | None = None,
    planar: bool = False,
    alpha: int | None = None,
    tags: dict[int, int] | None = None,
    big: bool = False,
) -> bytes:
    """A TIFF of any sample type (TIFF 6.0; predictor 3 as in Technical Note 3)."""
    values = values if values.ndim == 3 else values[..., None]
    h, w, samples = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = [values[..., [c]] for c in range(samples)] if planar else [values]
    high, wide = (tile, tile) if tile else (strip or h, w)
    pieces = []
    for plane in planes:
        for top in range(0, h, high):
            for left in range(0, w, wide):
                block = plane[top : top + high, left : left + wide]
                if tile:
                    missing = ((0, high - block.shape[0]), (0, wide - block.shape[1]), (0, 0))
                    block = np.pad(block, missing)
                raw = _predicted(block, predictor, order)
                pieces.append(zlib.compress(raw) if deflate else raw)
    return _tiff_file(pieces, {
        256: [w], 257: [h], 258: [8 * values.itemsize] * samples, 259: [8 if deflate else 1],
        262: [photometric if photometric is not None else (2 if samples >= 3 else 1)],
        277: [samples], 278: [high], 284: [2 if planar else 1], 317: [predictor],
        339: [kind] * samples,
        **({322: [wide], 323: [high]} if tile else {}),
        **({338: [alpha]} if alpha is not None else {}),
        **{tag: [value] for tag, value in (tags or {}).items()},
    }, order, big, tiled=tile is not None)  # fmt: skip


def _predicted(block: np.ndarray, predictor: int, order: str) -> bytes:
    h, w, samples = block.shape
    size = block.itemsize
    if predictor == 1:
        return block.astype(block.dtype.newbyteorder(order)).tobytes()
    if predictor == 2:
        whole = np.ascontiguousarray(block).view(f"u{size}")
        differences = np.diff(whole, axis=1, prepend=np.zeros((h, 1, samples), whole.dtype))
        return differences.astype(whole.dtype.newbyteorder(order)).tobytes()
    heaviest_first = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">")))
    planes = heaviest_first.view(np.uint8).reshape(h, w * samples, size).swapaxes(1, 2)
    stream = planes.reshape(h, -1, samples)
    zero = np.zeros((h, 1, samples), np.uint8)
    return np.diff(stream, axis=1, prepend=zero).astype(np.uint8).tobytes()


def _tiff_file(pieces, tags, order, big, *, tiled) -> bytes:
    offset_type, head = ("Q", 16) if big else ("I", 8)
    body, offsets = bytearray(head), []
    for piece in pieces:
        offsets.append(len(body))
        body += piece
    tags |= {324 if tiled else 273: offsets, 325 if tiled else 279: [len(p) for p in pieces]}
    if tiled:
        del tags[278]
    entries = []
    for tag in sorted(tags):
        raw = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        room = 8 if big else 4
        if len(raw) > room:
            place, body = len(body), body + raw
            raw = struct.pack(order + offset_type, place)
        count = struct.pack(f"{order}HH{offset_type}", tag, 4, len(tags[tag]))
        entries.append(count + raw.ljust(room, b"\0"))
    start = len(body)
    body += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
    body += bytes(8 if big else 4)
    magic = b"II" if order == "<" else b"MM"
    if big:
        body[:16] = magic + struct.pack(order + "HHHQ", 43, 8, 0, start)
    else:
        body[:8] = magic + struct.pack(order + "HI", 42, start)
    return bytes(body)
