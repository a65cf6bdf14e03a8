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
without the others.

Axes: n latents of a shard, c latent channels, h and w latent rows and columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tastemaker.errors import CorruptFile, InputError, TastemakerError
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.atomic import TEMPORARY, atomic_file
from tastemaker.store.hashing import hash_json

LatentDtype = Literal["bf16", "fp16", "fp32"]
Codec = Literal["shuffle-zstd", "none"]

_DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
_ZSTD_LEVEL = 5
EXIF_POLICY = "apply"
"""What the picture loader does with the orientation; part of the key."""


@dataclass(frozen=True)
class LatentFormat:
    """How a shard is written.

    Attributes:
        vae_hash: hash of the autoencoder that made the latents.
        dtype: of the stored numbers.
        codec: packing of each latent.
    """

    vae_hash: str
    dtype: LatentDtype = "bf16"
    codec: Codec = "shuffle-zstd"

    def __post_init__(self) -> None:
        """Refuse names that are not in the tables."""
        for name, value, known in (
            ("dtype", self.dtype, get_args(LatentDtype)),
            ("codec", self.codec, get_args(Codec)),
        ):
            if value not in known:
                raise InputError(name, value, f"one of {', '.join(known)}", "Choose one of these.")


@dataclass(frozen=True)
class LatentEntry:
    """One latent to be written: mean and logvar [c, h, w], scaled as the denoiser sees them."""

    id: str
    key: str
    mean: Tensor
    sizes: ImageSizes
    logvar: Tensor | None = None


@dataclass(frozen=True)
class CachedLatent:
    """One latent as read, in the dtype it was stored in."""

    mean: Tensor
    logvar: Tensor | None
    sizes: ImageSizes


@dataclass(frozen=True)
class IndexRow:
    """Where one latent lies, and what it is."""

    key: str
    id: str
    shard: str
    row: int
    bucket: Size
    sizes: ImageSizes
    shape: tuple[int, int, int]
    format: LatentFormat
    has_logvar: bool
    checksum: str


def latent_key(
    picture_id: str,
    bucket: Size,
    format: LatentFormat,
    *,
    crop_seed: int = 0,
    logvar: bool = False,
    exif: str = EXIF_POLICY,
) -> str:
    """Hash of all that determines a latent: a changed picture or setting never finds an old one.

    The picture's id is the hash of its file; the codec does not matter, because it loses nothing.
    """
    parts = [picture_id, exif, list(bucket), crop_seed, format.vae_hash, format.dtype, logvar]
    return hash_json(parts)


class LatentCache:
    """A folder of latent shards.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that have no latent here, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._rows]

    def index(self) -> Mapping[str, IndexRow]:
        """Every latent by its key."""
        return self._rows

    def ids(self) -> set[str]:
        """The pictures that have a latent here."""
        return {row.id for row in self._rows.values()}

    def write_shard(
        self, bucket: Size, entries: Sequence[LatentEntry], format: LatentFormat
    ) -> str:
        """Write latents of one bucket as one file, then its index; the shard's name.

        Raises:
            TastemakerError: a latent is not finite; the message names its picture.
            InputError: the latents differ in shape or in having a log-variance, or are of another
                bucket.
            StorageError: the disk is full; nothing of the shard is left.
        """
        from safetensors.torch import save_file

        _check_entries(bucket, entries)
        name = f"{bucket}-{hash_json(sorted(entry.key for entry in entries))[:16]}"
        dtype = _DTYPES[format.dtype]
        tensors: dict[str, Tensor] = {}
        digests = [blake2b(digest_size=16) for _ in entries]
        for part in ("mean", "logvar") if entries[0].logvar is not None else ("mean",):
            values = [getattr(entry, part).detach().cpu() for entry in entries]
            stored = [_rounded(v, dtype, e.id) for v, e in zip(values, entries, strict=True)]
            for digest, value in zip(digests, stored, strict=True):
                digest.update(_bytes(value))
            tensors |= _packed(part, stored, format.codec)
        with atomic_file(self._shard_file(name)) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt", "bucket": str(bucket)})
        rows = [
            IndexRow(
                key=entry.key,
                id=entry.id,
                shard=name,
                row=number,
                bucket=bucket,
                sizes=entry.sizes,
                shape=(entry.mean.shape[0], entry.mean.shape[1], entry.mean.shape[2]),
                format=format,
                has_logvar=entry.logvar is not None,
                checksum=digest.hexdigest(),
            )
            for number, (entry, digest) in enumerate(zip(entries, digests, strict=True))
        ]
        _write_index(self.path / "index" / f"{name}.parquet", rows)
        self._rows.update({row.key: row for row in rows})
        self.__dict__.pop("_keys_of", None)
        return name

    def read(self, id: str) -> CachedLatent:
        """The latent of a picture, by picture id or by key.

        Raises:
            InputError: there is none, or the picture has several (read by key then).
            CorruptFile: the checksum does not match, or the shard cannot be read.
        """
        return self.read_row(self._row(id))

    def read_row(self, row: IndexRow) -> CachedLatent:
        """The latent of an index row.

        Raises:
            CorruptFile: the checksum does not match, or the shard cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        file = self._shard_file(row.shard)
        try:
            with safe_open(file, framework="pt") as shard:
                mean = _unpacked(shard, "mean", row)
                logvar = _unpacked(shard, "logvar", row) if row.has_logvar else None
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise self._corrupt(row, str(error)) from error
        digest = blake2b(_bytes(mean), digest_size=16)
        if logvar is not None:
            digest.update(_bytes(logvar))
        if digest.hexdigest() != row.checksum:
            raise self._corrupt(row, "the checksum does not match")
        return CachedLatent(mean, logvar, row.sizes)

    def verify(self) -> int:
        """Read every latent and check it; how many there are.

        Raises:
            CorruptFile: the first one that is not what was written.
        """
        for row in self._rows.values():
            self.read_row(row)
        return len(self._rows)

    @cached_property
    def _rows(self) -> dict[str, IndexRow]:
        files = sorted((self.path / "index").glob("*.parquet"))
        rows = (r for file in files if TEMPORARY not in file.name for r in _read_index(file))
        return {row.key: row for row in rows}

    @cached_property
    def _keys_of(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for row in self._rows.values():
            keys.setdefault(row.id, []).append(row.key)
        return keys

    def _row(self, id: str) -> IndexRow:
        if id in self._rows:
            return self._rows[id]
        keys = self._keys_of.get(id, [])
        if len(keys) != 1:
            got = f"{len(keys)} latents of picture {id[:12]}"
            raise InputError(
                self.path, got, "exactly one", "Run the cache step again, or read by key."
            )
        return self._rows[keys[0]]

    def _shard_file(self, name: str) -> Path:
        return self.path / "shards" / f"{name}.safetensors"

    def _corrupt(self, row: IndexRow, why: str) -> CorruptFile:
        return CorruptFile(
            f"{self._shard_file(row.shard)}, latent of picture {row.id[:12]}: {why}. "
            "Delete the cache folder and run the cache step again."
        )


def _check_entries(bucket: Size, entries: Sequence[LatentEntry]) -> None:
    if not entries:
        raise InputError("shard", "no latents", "at least one", "Write shards with content only.")
    kinds = {(tuple(e.mean.shape), e.logvar is None) for e in entries}
    targets = {e.sizes.target for e in entries}
    if len(kinds) > 1 or targets != {bucket} or entries[0].mean.ndim != 3:
        got = f"{len(kinds)} kinds of latents for targets {', '.join(map(str, sorted(targets)))}"
        raise InputError(f"shard of bucket {bucket}", got, "one kind, of this bucket", "Sort them.")


def _rounded(value: Tensor, dtype: torch.dtype, picture: str) -> Tensor:
    """In the stored dtype; what does not fit into it is refused like what was never a number."""
    stored = value.to(dtype).contiguous()
    if not bool(torch.isfinite(stored).all()):
        raise TastemakerError(
            f"picture {picture}: its latent has values that are not numbers, or too large for "
            f"{dtype}. Look at the picture; use an autoencoder in fp32, and dtype bf16 or fp32."
        )
    return stored


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes()


def _packed(name: str, values: Sequence[Tensor], codec: str) -> dict[str, Tensor]:
    if codec == "none":
        return {name: torch.stack(list(values))}
    blosc2 = _blosc2()
    frames = [
        blosc2.compress2(
            _bytes(value),
            typesize=value.element_size(),
            codec=blosc2.Codec.ZSTD,
            clevel=_ZSTD_LEVEL,
            filters=[blosc2.Filter.SHUFFLE],
            nthreads=1,
        )
        for value in values
    ]
    ends = np.cumsum([0, *(len(frame) for frame in frames)])
    run = np.frombuffer(b"".join(frames), dtype=np.uint8).copy()
    return {name: torch.from_numpy(run), f"{name}_offsets": torch.from_numpy(ends)}


def _unpacked(shard: Any, name: str, row: IndexRow) -> Tensor:
    if row.format.codec == "none":
        return shard.get_slice(name)[row.row]
    blosc2 = _blosc2()
    begin, end = shard.get_slice(f"{name}_offsets")[row.row : row.row + 2].tolist()
    raw = blosc2.decompress2(shard.get_slice(name)[begin:end].numpy().tobytes())
    data = torch.frombuffer(bytearray(raw), dtype=_DTYPES[row.format.dtype])
    return data.view(row.shape)


def _blosc2() -> Any:
    # Its annotations name the type of the options' container where they mean that of an option.
    import blosc2

    return blosc2


def _write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [
        {
            "key": row.key,
            "id": row.id,
            "shard": row.shard,
            "row": row.row,
            **_pair("bucket", row.bucket),
            **_pair("original", row.sizes.original),
            "crop_top": row.sizes.crop_top,
            "crop_left": row.sizes.crop_left,
            "channels": row.shape[0],
            **_pair("latent", Size(*row.shape[1:])),
            "vae_hash": row.format.vae_hash,
            "dtype": row.format.dtype,
            "codec": row.format.codec,
            "has_logvar": row.has_logvar,
            "checksum": row.checksum,
        }
        for row in rows
    ]
    with atomic_file(path) as temporary:
        parquet.write_table(pa.Table.from_pylist(columns), temporary)


def _read_index(path: Path) -> list[IndexRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return [_index_row(line) for line in parquet.read_table(path).to_pylist()]
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptFile(
            f"{path}: not an index of latents ({error}). Delete it and run the cache step again."
        ) from error


def _index_row(line: Mapping[str, Any]) -> IndexRow:
    bucket = Size(line["bucket_h"], line["bucket_w"])
    original = Size(line["original_h"], line["original_w"])
    return IndexRow(
        key=line["key"],
        id=line["id"],
        shard=line["shard"],
        row=line["row"],
        bucket=bucket,
        sizes=ImageSizes(original, line["crop_top"], line["crop_left"], bucket),
        shape=(line["channels"], line["latent_h"], line["latent_w"]),
        format=LatentFormat(line["vae_hash"], line["dtype"], line["codec"]),
        has_logvar=line["has_logvar"],
        checksum=line["checksum"],
    )


def _pair(name: str, size: Size) -> dict[str, int]:
    return {f"{name}_h": size.h, f"{name}_w": size.w}
