"""The latent cache: shards of autoencoder latents, each with the sizes that it belongs to.

```
CACHE/
  shards/<name>.safetensors   one bucket a shard; `mean`, and `logvar` when kept
  index/<name>.parquet        a row a latent: key, picture, shard, row, bucket, sizes, format,
                              checksum
```

A shard counts once its index file is there, which is written last. With codec `none` a tensor is
[n, c, h, w] in its dtype, readable by anything; with `shuffle-zstd` it is a run of bytes, one
blosc2 frame a latent, and `<tensor>_offsets` says where each begins, so that one latent is read
without the others. Several processes may write and read at once: files appear whole, and what has
the same name has the same content.

Axes: n latents of a shard, c latent channels, h and w latent rows and columns.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tastemaker.errors import CorruptFile, InputError, TastemakerError
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.atomic import TEMPORARY, atomic_file
from tastemaker.store.hashing import hash_json
from tastemaker.store.latent_columns import LatentColumns
from tastemaker.store.latent_formats import (
    Codec,
    LatentDtype,
    LatentFormat,
    bytes_of,
    opened_value,
    pack,
    stored_value,
    unpack,
)
from tastemaker.store.latent_index import (
    LOADER,
    IndexRow,
    WantedLatent,
    latent_key,
    read_index,
    why_missing,
    write_index,
)

__all__ = [
    "CachedLatent", "Codec", "IndexRow", "LatentCache", "LatentDtype", "LatentEntry",
    "LatentFormat", "WantedLatent", "latent_key",
]  # fmt: skip

_OPEN_SHARDS = 256
"""Shards that are kept open: opening one costs more than reading a latent."""


@dataclass(frozen=True)
class LatentEntry:
    """One latent to be written: mean and logvar [c, h, w], scaled as the denoiser sees them."""

    id: str
    key: str
    mean: Tensor
    sizes: ImageSizes
    logvar: Tensor | None = None
    source: str = ""
    loader: str = LOADER


@dataclass(frozen=True)
class CachedLatent:
    """One latent as read, in the dtype it was stored in (`u12`: in fp32)."""

    mean: Tensor
    logvar: Tensor | None
    sizes: ImageSizes


class LatentCache:
    """A folder of latent shards.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._open = lru_cache(_OPEN_SHARDS)(self._open_shard)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that have no latent here, in their order."""
        asked = list(dict.fromkeys(keys))
        found = self.columns.find(asked).tolist()
        return [key for key, number in zip(asked, found, strict=True) if number < 0]

    def why_missing(self, wanted: Sequence[WantedLatent]) -> dict[str, str]:
        """Key -> reason for each of these that has no latent here, see `latent_index`."""
        missing = [one for one in wanted if one.key not in self.columns]
        return why_missing(missing, self.columns.values())

    def index(self) -> Mapping[str, IndexRow]:
        """Every latent by its key."""
        return self.columns

    def ids(self) -> set[str]:
        """The pictures that have a latent here."""
        return {row.id for row in self.columns.values()}

    def reread(self) -> None:
        """Take in what another process has written since."""
        self.columns.refresh()
        self.__dict__.pop("_keys_of", None)

    def write_shard(
        self, bucket: Size, entries: Sequence[LatentEntry], format: LatentFormat
    ) -> str:
        """Write latents of one bucket as one file, then its index; the shard's name.

        Raises:
            TastemakerError: a latent is not finite; the message names its picture.
            InputError: the latents differ in shape or in having a log-variance, are of another
                bucket, or their shape is not that of the bucket.
            StorageError: the disk is full; nothing of the shard is left.
        """
        from safetensors.torch import save_file

        _check_entries(bucket, entries)
        name = f"{bucket}-{hash_json(sorted(entry.key for entry in entries))[:16]}"
        tensors: dict[str, Tensor] = {}
        digests = [blake2b(digest_size=16) for _ in entries]
        for part in ("mean", "logvar") if entries[0].logvar is not None else ("mean",):
            stored = [_stored(getattr(e, part), format, e.id) for e in entries]
            for digest, value in zip(digests, stored, strict=True):
                digest.update(bytes_of(value))
            tensors |= pack(part, stored, format.codec)
        with atomic_file(self.shard_file(name)) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt", "bucket": str(bucket)})
        rows = [
            _row(name, number, entry, format, digest.hexdigest())
            for number, (entry, digest) in enumerate(zip(entries, digests, strict=True))
        ]
        write_index(self._index_file(name), rows)
        self._forget_handles()
        self.columns.take(self._index_file(name))
        self.__dict__.pop("_keys_of", None)
        return name

    def read(self, id: str) -> CachedLatent:
        """The latent of a picture, by picture id or by key.

        Raises:
            InputError: there is none, or the picture has several (read by key then).
            CorruptFile: the checksum does not match, or the shard cannot be read.
        """
        return self.read_row(self._row(id))

    def read_row(self, row: IndexRow, *, check: bool = True) -> CachedLatent:
        """The latent of an index row.

        Args:
            row: from `index()`.
            check: compare the checksum, which takes longer than reading; not needed for what
                `damaged` has looked at.

        Raises:
            CorruptFile: the checksum does not match, or the shard cannot be read.
        """
        from safetensors import SafetensorError

        try:
            shard = self._open(row.shard)
            mean = unpack(shard, "mean", row.row, row.shape, row.format)
            logvar = None
            if row.has_logvar:
                logvar = unpack(shard, "logvar", row.row, row.shape, row.format)
        except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
            raise self._corrupt(row, str(error)) from error
        if check:
            digest = blake2b(digest_size=16)
            for part in (mean, logvar):
                digest.update(b"" if part is None else bytes_of(part))
            if digest.hexdigest() != row.checksum:
                raise self._corrupt(row, "the checksum does not match")
        dtype = row.format.dtype
        return CachedLatent(
            opened_value(mean, dtype),
            None if logvar is None else opened_value(logvar, dtype),
            row.sizes,
        )

    def damaged(
        self, keys: Iterable[str], on_read: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        """Read these latents; key -> what is wrong with it, for each that is not what was written.

        Args:
            keys: which; those that are not here are passed over.
            on_read: called after each, for progress.
        """
        numbers = np.unique(self.columns.find(keys))
        found = {}
        for number in self.columns.in_order_of_place(numbers[numbers >= 0]).tolist():
            row = self.columns.row(number)
            try:
                self.read_row(row)
            except CorruptFile as error:
                found[row.key] = str(error)
            on_read()
        return found

    def verify(self) -> int:
        """Read every latent and check it; how many there are.

        Raises:
            CorruptFile: the first one that is not what was written.
        """
        for problem in self.damaged(self.columns).values():
            raise CorruptFile(problem)
        return len(self.columns)

    def forget(self, keys: Collection[str]) -> None:
        """Take latents out of the index, so that they are missing; a shard without any goes."""
        lost = set(keys)
        for shard in {self.columns[key].shard for key in lost if key in self.columns}:
            rows = [row for row in self.columns.values() if row.shard == shard]
            left = [row for row in rows if row.key not in lost]
            if left:
                write_index(self._index_file(shard), left)
            else:
                self._index_file(shard).unlink(missing_ok=True)
                self.shard_file(shard).unlink(missing_ok=True)
        self._forget_handles()
        self.columns.drop(lost)
        self.__dict__.pop("_keys_of", None)

    def drop_damaged_indexes(self) -> list[str]:
        """Remove index files that cannot be read; their latents are missing then. The names."""
        dropped = []
        for file in self._index_files():
            try:
                read_index(file)
            except FileNotFoundError:
                continue
            except CorruptFile:
                file.unlink(missing_ok=True)
                dropped.append(file.stem)
        return dropped

    def shard_file(self, name: str) -> Path:
        """Where a shard lies."""
        return self.path / "shards" / f"{name}.safetensors"

    @cached_property
    def columns(self) -> LatentColumns:
        """The index, by key and by number."""
        return LatentColumns(self.path)

    @cached_property
    def _keys_of(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for row in self.columns.values():
            keys.setdefault(row.id, []).append(row.key)
        return keys

    def _row(self, id: str) -> IndexRow:
        if id in self.columns:
            return self.columns[id]
        keys = self._keys_of.get(id, [])
        if len(keys) != 1:
            got = f"{len(keys)} latents of picture {id[:12]}"
            raise InputError(
                self.path, got, "exactly one", "Run the cache step again, or read by key."
            )
        return self.columns[keys[0]]

    def _index_files(self) -> list[Path]:
        files = sorted((self.path / "index").glob("*.parquet"))
        return [file for file in files if TEMPORARY not in file.name]

    def _index_file(self, name: str) -> Path:
        return self.path / "index" / f"{name}.parquet"

    def _open_shard(self, name: str) -> Any:
        from safetensors import safe_open

        return safe_open(self.shard_file(name), framework="pt")

    def _forget_handles(self) -> None:
        self._open.cache_clear()

    def _corrupt(self, row: IndexRow, why: str) -> CorruptFile:
        return CorruptFile(
            f"{self.shard_file(row.shard)}, latent of picture {row.id[:12]}: {why}. "
            "Run the cache step again: it encodes again what is damaged, and nothing else."
        )


def _check_entries(bucket: Size, entries: Sequence[LatentEntry]) -> None:
    if not entries:
        raise InputError("shard", "no latents", "at least one", "Write shards with content only.")
    kinds = {(tuple(e.mean.shape), e.logvar is None) for e in entries}
    targets = {e.sizes.target for e in entries}
    if len(kinds) > 1 or targets != {bucket} or entries[0].mean.ndim != 3:
        got = f"{len(kinds)} kinds of latents for targets {', '.join(map(str, sorted(targets)))}"
        raise InputError(f"shard of bucket {bucket}", got, "one kind, of this bucket", "Sort them.")
    latent = Size(*entries[0].mean.shape[1:])
    # Whatever the autoencoder's factor is: a latent of another bucket has another one.
    if bucket.h * latent.w != bucket.w * latent.h or bucket.h % latent.h:
        raise InputError(
            f"shard of bucket {bucket}",
            f"latents of {latent}",
            "the bucket's sides, divided by the autoencoder's factor",
            "Encode the pictures at the bucket's size.",
        )


def _row(
    shard: str, number: int, entry: LatentEntry, format: LatentFormat, checksum: str
) -> IndexRow:
    channels, h, w = entry.mean.shape
    return IndexRow(
        key=entry.key,
        id=entry.id,
        shard=shard,
        row=number,
        sizes=entry.sizes,
        shape=(channels, h, w),
        format=format,
        has_logvar=entry.logvar is not None,
        loader=entry.loader,
        source=entry.source,
        checksum=checksum,
    )


def _stored(value: Tensor, format: LatentFormat, picture: str) -> Tensor:
    """In the stored dtype; what does not fit into it is refused like what was never a number."""
    stored = stored_value(value, format.dtype)
    if stored is None:
        raise TastemakerError(
            f"picture {picture}: its latent has values that are not numbers, or too large for "
            f"{format.dtype}. Look at the picture; use an autoencoder in fp32, and dtype bf16 or "
            "fp32."
        )
    return stored
