"""The index of a latent cache: what each latent is, where it lies, and why one is missing."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.atomic import atomic_file
from tastemaker.store.hashing import hash_json
from tastemaker.store.latent_formats import LatentFormat

T = TypeVar("T")

LOADER = "exif apply, lanczos 1"
"""How pictures are loaded and resized: the policy for EXIF's orientation, and the resampling."""


@dataclass(frozen=True)
class WantedLatent:
    """All that determines a latent.

    Attributes:
        id: of the picture, the hash of its file.
        sizes: its size, the crop and the bucket.
        format: autoencoder and dtype; the codec loses nothing, so it does not count.
        logvar: whether the log-variance is kept.
        loader: how the picture is loaded.
        source: the picture's name in its source, which does not count either; by it an edited
            picture is told from a new one.
    """

    id: str
    sizes: ImageSizes
    format: LatentFormat
    logvar: bool = False
    loader: str = LOADER
    source: str = ""

    @property
    def key(self) -> str:
        """Hash of it: a changed picture or setting never finds an old latent."""
        facts = [self.loader, list(self.sizes.time_ids()), self.format.vae_hash]
        return hash_json([self.id, *facts, self.format.dtype, self.logvar])


def latent_key(
    picture_id: str,
    sizes: ImageSizes,
    format: LatentFormat,
    *,
    logvar: bool = False,
    loader: str = LOADER,
) -> str:
    """The key of one latent, see `WantedLatent`."""
    return WantedLatent(picture_id, sizes, format, logvar, loader).key


@dataclass(frozen=True)
class IndexRow:
    """Where one latent lies, and what it is.

    Attributes:
        key: see `latent_key`.
        id: of the picture.
        shard: name of the shard.
        row: number of the latent in it.
        sizes: what belongs to the latent.
        shape: channels, rows, columns.
        format: autoencoder, dtype, codec.
        has_logvar: whether a log-variance lies beside the mean.
        loader: how the picture was loaded.
        source: the picture's name in its source.
        checksum: of the bytes of mean and log-variance.
    """

    key: str
    id: str
    shard: str
    row: int
    sizes: ImageSizes
    shape: tuple[int, int, int]
    format: LatentFormat
    has_logvar: bool
    loader: str
    source: str
    checksum: str

    @property
    def bucket(self) -> Size:
        """Height and width of the crop."""
        return self.sizes.target


def why_missing(wanted: Sequence[WantedLatent], rows: Iterable[IndexRow]) -> dict[str, str]:
    """Key -> the reason why it has no latent here: what is other than in the most alike one.

    Args:
        wanted: latents that are not in the index.
        rows: the index.

    Returns:
        `new picture`, `edited picture` (its name in the source is known, with other content), or
        what differs, joined by ` and `: `other picture loading`, `other bucket`, `other crop`,
        `other autoencoder`, `other dtype`, `log-variance`.
    """
    ids, names = {one.id for one in wanted}, {one.source for one in wanted if one.source}
    known: dict[str, list[IndexRow]] = {}
    sources = set()
    for row in rows:
        if row.id in ids:
            known.setdefault(row.id, []).append(row)
        elif row.source in names:
            sources.add(row.source)
    reasons = {}
    for one in wanted:
        differences = [_differences(one, row) for row in known.get(one.id, ())]
        if differences:
            reasons[one.key] = " and ".join(min(differences, key=len))
        else:
            reasons[one.key] = "edited picture" if one.source in sources else "new picture"
    return reasons


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason is given, the most frequent first."""
    return dict(Counter(reasons).most_common())


def _differences(wanted: WantedLatent, row: IndexRow) -> list[str]:
    crops = [(one.sizes.crop_top, one.sizes.crop_left) for one in (wanted, row)]
    bucket = wanted.sizes.target != row.sizes.target
    found = {
        "other picture loading": wanted.loader != row.loader
        or wanted.sizes.original != row.sizes.original,
        "other bucket": bucket,
        # In another bucket the crop is another one by itself.
        "other crop": not bucket and crops[0] != crops[1],
        "other autoencoder": wanted.format.vae_hash != row.format.vae_hash,
        "other dtype": wanted.format.dtype != row.format.dtype,
        "log-variance": wanted.logvar != row.has_logvar,
    }
    return [name for name, differs in found.items() if differs] or ["other key"]


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Write the rows of one shard atomically, with checksums."""
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
            "loader": row.loader,
            "source": row.source,
            "checksum": row.checksum,
        }
        for row in rows
    ]
    with atomic_file(path) as temporary:
        # Sizes that belong to another picture would be as bad as a wrong latent.
        parquet.write_table(pa.Table.from_pylist(columns), temporary, write_page_checksum=True)


def read_index(path: Path) -> list[IndexRow]:
    """The rows of one shard.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is no index, or a checksum in it does not match.
    """
    return from_index(path, lambda table: [_index_row(line) for line in table.to_pylist()])


def from_index(path: Path, take: Callable[[Any], T]) -> T:
    """What `take` makes of an index file's table.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is no index, or a checksum in it does not match.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            return take(file.read(use_threads=False))
    except FileNotFoundError:
        raise
    # A flipped byte in the footer may surface as anything: an odd name, a wrong type.
    except (pa.ArrowException, InputError, KeyError, OSError, ValueError, TypeError) as error:
        raise CorruptFile(
            f"{path}: not an index of latents ({error}). Run the cache step again: it encodes "
            "again what this file stood for."
        ) from error


def _index_row(line: Mapping[str, Any]) -> IndexRow:
    bucket = Size(line["bucket_h"], line["bucket_w"])
    original = Size(line["original_h"], line["original_w"])
    return IndexRow(
        key=line["key"],
        id=line["id"],
        shard=line["shard"],
        row=line["row"],
        sizes=ImageSizes(original, line["crop_top"], line["crop_left"], bucket),
        shape=(line["channels"], line["latent_h"], line["latent_w"]),
        format=LatentFormat(line["vae_hash"], line["dtype"], line["codec"]),
        has_logvar=line["has_logvar"],
        loader=line["loader"],
        source=line["source"],
        checksum=line["checksum"],
    )


def _pair(name: str, size: Size) -> dict[str, int]:
    return {f"{name}_h": size.h, f"{name}_w": size.w}
