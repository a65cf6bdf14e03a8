"""Reading latents while training: shards stay open, whole batches, nothing kept in memory.

The files are those of `store.latents`; what is read equals `LatentCache.read_row` bit for bit.

Axes: B latents of a batch, c latent channels, h and w latent rows and columns.
"""

import json
import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.size import ImageSizes
from tastemaker.store.latent_columns import LatentColumns, LatentPlace
from tastemaker.store.latent_formats import LatentDtype, opened_value
from tastemaker.store.latents import CachedLatent

_DTYPES: dict[LatentDtype, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "u12": torch.int16,
}
_MOST_HEADER = 100_000_000
"""Bytes of a safetensors header that its own readers accept."""


class LatentBatch(NamedTuple):
    """Latents of one shape, in the dtype that they are stored in (`u12`: in fp32).

    Attributes:
        mean: [B, c, h, w].
        logvar: [B, c, h, w], if all have one.
        sizes: what belongs to each.
    """

    mean: Tensor
    logvar: Tensor | None
    sizes: tuple[ImageSizes, ...]


class LatentReader:
    """Latents by their number in the columns; any number of threads may read.

    Args:
        columns: where the latents lie.
        open_shards: most files that are open at a time.
        check: compare every latent with its checksum when it is read for the first time; that takes
            longer than decoding it, and is not needed when all were checked before.
    """

    def __init__(
        self, columns: LatentColumns, *, open_shards: int = 64, check: bool = True
    ) -> None:
        self.columns, self.open_shards, self.check = columns, open_shards, check
        self._checked = bytearray()
        self._lock = Lock()
        self._open: OrderedDict[str, _Shard] = OrderedDict()

    def read(
        self, numbers: Sequence[int], out: tuple[Tensor, Tensor | None] | None = None
    ) -> LatentBatch:
        """Some latents of one shape.

        Args:
            numbers: by `LatentColumns.find`; any order, repeats allowed.
            out: mean and logvar to read into, contiguous CPU tensors [B, c, h, w] of the stored
                dtype (int16 for `u12`); new ones by default.

        Raises:
            InputError: the latents differ in shape, dtype or in having a log-variance, or `out` is
                not like them.
            CorruptFile: a checksum does not match, or a shard cannot be read.
        """
        kinds = {self.columns.kind(n) for n in numbers}
        likes: set[tuple[tuple[int, int, int], LatentDtype, bool]] = {
            (kind.shape, kind.format.dtype, kind.has_logvar) for kind in kinds
        }
        if len(likes) != 1:
            raise InputError(
                f"batch of {len(numbers)} latents",
                f"{len(likes)} kinds of latents",
                "one shape and dtype",
                "Make batches of one bucket.",
            )
        ((shape, dtype, has_logvar),) = likes
        mean, logvar = out or _empty((len(numbers), *shape), dtype, has_logvar)
        parts = {"mean": mean, "logvar": logvar} if has_logvar else {"mean": mean}
        views = {name: _rows_of(part, numbers, shape, dtype) for name, part in parts.items()}
        for place, number in enumerate(numbers):
            self._read_row(number, {name: view[place] for name, view in views.items()})
        return LatentBatch(
            opened_value(mean, dtype),
            opened_value(logvar, dtype) if logvar is not None and has_logvar else None,
            tuple(self.columns.sizes(number) for number in numbers),
        )

    def read_one(self, number: int) -> CachedLatent:
        """One latent [c, h, w], as `LatentCache.read_row` gives it.

        Raises:
            CorruptFile: the checksum does not match, or the shard cannot be read.
        """
        mean, logvar, (sizes,) = self.read([number])
        return CachedLatent(mean[0], None if logvar is None else logvar[0], sizes)

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._lock:
            self._open.clear()

    def _read_row(self, number: int, into: dict[str, np.ndarray]) -> None:
        """Read one latent into bytes, uint8 [n], of each of its parts."""
        place = self.columns.place(number)
        try:
            shard = self._shard(place.shard)
            for name, part in into.items():
                shard.read(name, place, part)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise self._corrupt(place, str(error)) from error
        if not self.check or self._is_checked(number):
            return
        digest = blake2b(digest_size=16)
        for part in into.values():
            digest.update(part.data)
        if digest.digest() != place.checksum:
            raise self._corrupt(place, "the checksum does not match")
        self._checked[number] = 1

    def _is_checked(self, number: int) -> bool:
        with self._lock:
            if number >= len(self._checked):
                self._checked.extend(bytes(number + 1))
        return bool(self._checked[number])

    def _shard(self, name: str) -> "_Shard":
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
        opened = _Shard(self._file(name))
        with self._lock:
            self._open[name] = opened
            while len(self._open) > self.open_shards:
                # A thread that still reads from it keeps it open until it is done.
                self._open.popitem(last=False)
        return opened

    def _file(self, shard: str) -> Path:
        return self.columns.path / "shards" / f"{shard}.safetensors"

    def _corrupt(self, place: LatentPlace, why: str) -> CorruptFile:
        return CorruptFile(
            f"{self._file(place.shard)}, latent {place.row}: {why}. "
            "Run the cache step again: it encodes again what is damaged, and nothing else."
        )


class _Shard:
    """An open safetensors file; each read is one system call that moves no shared position.

    Not a memory map: a file cut short under a map kills the process, here it is an error.
    """

    def __init__(self, file: Path) -> None:
        self._file = -1
        self._file = os.open(file, os.O_RDONLY)
        self._begins: dict[str, tuple[int, int]] = {}
        size = os.fstat(self._file).st_size
        (length,) = struct.unpack("<Q", self._bytes(0, 8))
        if length > min(size - 8, _MOST_HEADER):
            raise ValueError("the file is cut short, or no safetensors file")
        header = dict(json.loads(self._bytes(8, length)))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            if not begin <= end <= size:
                raise ValueError("the file is cut short")
            self._begins[name] = begin, end
        self._offsets = {
            name.removesuffix("_offsets"): np.frombuffer(self._bytes(begin, end - begin), "<i8")
            for name, (begin, end) in self._begins.items()
            if name.endswith("_offsets")
        }

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def read(self, name: str, place: LatentPlace, into: np.ndarray) -> None:
        """One latent's bytes of the tensor `name` into uint8 [n]."""
        begin, end = self._begins[name]
        if place.kind.format.codec == "none":
            first = begin + place.row * into.nbytes
            if (
                first + into.nbytes > end
                or os.preadv(self._file, [into.data], first) != into.nbytes
            ):
                raise ValueError("the file is cut short")
            return
        first, last = self._offsets[name][place.row : place.row + 2].tolist()
        if not 0 <= first < last <= end - begin:
            raise ValueError("the offsets are wrong")
        _unpack(self._bytes(begin + first, last - first), into)

    def _bytes(self, first: int, length: int) -> bytes:
        data = os.pread(self._file, length, first)
        if len(data) != length:
            raise ValueError("the file is cut short")
        return data


def _unpack(frame: bytes, into: np.ndarray) -> None:
    """Decode one blosc2 frame; the library writes past `into` when the frame says so, so ask it.

    A frame begins with 4 bytes of flags and three little-endian numbers of 4 bytes: decoded
    length, length of a block, length of the frame.
    """
    blosc2 = _blosc2()
    decoded, _, length = struct.unpack_from("<4xiii", frame) if len(frame) >= 16 else (-1, 0, 0)
    if (decoded, length) != (into.nbytes, len(frame)):
        raise ValueError("a packed latent has the wrong length")
    # One thread: the library's own ones cost more than they save at this size.
    blosc2.decompress2(frame, dst=into, nthreads=1)


def _blosc2() -> Any:
    # Its annotations name the type of the options' container where they mean that of an option.
    import blosc2

    return blosc2


def _empty(
    shape: tuple[int, ...], dtype: LatentDtype, has_logvar: bool
) -> tuple[Tensor, Tensor | None]:
    mean = torch.empty(shape, dtype=_DTYPES[dtype])
    return mean, torch.empty_like(mean) if has_logvar else None


def _rows_of(
    out: Tensor | None, numbers: Sequence[int], shape: tuple[int, ...], dtype: LatentDtype
) -> np.ndarray:
    """The bytes of a batch, uint8 [B, n], in the same memory."""
    expected = (len(numbers), *shape)
    if (
        out is None
        or (out.shape, out.dtype) != (expected, _DTYPES[dtype])
        or not out.is_contiguous()
    ):
        got = "no tensor" if out is None else f"{tuple(out.shape)} in {out.dtype}"
        raise InputError(
            "out", got, f"contiguous {expected} in {dtype}", "Give tensors like the latents."
        )
    return out.view(torch.uint8).numpy().reshape(len(numbers), -1)
