"""The index of a latent cache in memory: arrays instead of objects, for millions of latents.

Some 300 bytes a latent; as many `IndexRow` objects take more than five times that.

Axes: N latents that were read, K keys asked for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tastemaker.records.size import ImageSizes, Size
from tastemaker.store.atomic import TEMPORARY
from tastemaker.store.latent_formats import LatentFormat
from tastemaker.store.latent_index import IndexRow, from_index

_TEXTS = ("key", "id", "source")
_SIZES = ("original_h", "original_w", "crop_top", "crop_left")
_KIND = (
    *("bucket_h", "bucket_w", "channels", "latent_h", "latent_w"),
    *("vae_hash", "dtype", "codec", "has_logvar", "loader"),
)

_ROW = np.dtype(
    [
        ("high", np.uint64),
        ("low", np.uint64),
        ("checksum", np.uint8, (16,)),
        ("sizes", np.int32, (4,)),
        ("shard", np.int32),
        ("row", np.int32),
        ("kind", np.int16),
    ]
)
_MOST_RECENT = 4096
"""New latents are found by a dict until there are so many, or an eighth of all: sorting is slow."""


class LatentKind(NamedTuple):
    """What many latents have in common.

    Attributes:
        bucket: size of the picture's crop, in pixels.
        shape: latent channels, rows, columns.
        format: who made it, and how it is stored.
        has_logvar: whether a log-variance lies beside the mean.
        loader: how the picture was loaded.
    """

    bucket: Size
    shape: tuple[int, int, int]
    format: LatentFormat
    has_logvar: bool
    loader: str


class LatentPlace(NamedTuple):
    """One latent: its shard's name, its row there, and the digest of its bytes."""

    shard: str
    row: int
    checksum: bytes
    kind: LatentKind


class LatentColumns(Mapping[str, IndexRow]):
    """Key -> row of every latent of a cache, made when it is asked for.

    Each latent also has a number, which it keeps: other threads may look numbers up while new
    latents are read. Of two latents with one key the one that was read last counts.

    Args:
        path: the cache's folder.

    Raises:
        CorruptFile: an index file cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._seen: dict[str, tuple[int, int]] = {}
        self._shards: dict[str, int] = {}
        self._kinds: dict[LatentKind, int] = {}
        self._shard_names: list[str] = []
        self._kind_values: list[LatentKind] = []
        self._count = 0
        self._rows = np.empty(0, _ROW)
        self._starts: list[int] = []
        self._texts: list[Any] = []
        self._order = np.empty(0, np.int64)
        self._sorted_high = np.empty(0, np.uint64)
        self._recent: dict[str, int] = {}
        self._dropped: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the index files that were written, or replaced, since.

        Raises:
            CorruptFile: an index file cannot be read.
        """
        for file in sorted((self.path / "index").glob("*.parquet")):
            if TEMPORARY not in file.name:
                self.take(file)

    def take(self, file: Path) -> None:
        """Read one index file, if it is new.

        Raises:
            CorruptFile: it cannot be read.
        """
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if self._seen.get(file.name) == stamp:
                return
            from_index(file, self._add)
        except FileNotFoundError:  # another process has taken it away
            return
        self._seen[file.name] = stamp

    def drop(self, keys: Iterable[str]) -> None:
        """Forget these latents; those that had their keys before are forgotten too."""
        keys = list(keys)
        self._sort()
        while (numbers := self.find(keys)).max(initial=-1) >= 0:
            self._dropped.update(numbers[numbers >= 0].tolist())
            self._sort()

    def find(self, keys: Iterable[str]) -> np.ndarray:
        """Number of each key's latent, or -1 where there is none; int64 [K]."""
        keys = list(keys)
        found = self._find_sorted(keys)
        if self._recent:
            for place, key in enumerate(keys):
                if key in self._recent:
                    found[place] = self._recent[key]
        return found

    def numbers(self) -> np.ndarray:
        """The numbers of all latents, ascending."""
        if self._recent:
            self._sort()
        return np.sort(self._order)

    def kind(self, number: int) -> LatentKind:
        """What the latent has in common with others."""
        return self._kind_values[self._rows["kind"][number]]

    def place(self, number: int) -> LatentPlace:
        """Where the latent lies."""
        row = self._rows[number]
        return LatentPlace(
            self._shard_names[row["shard"]],
            int(row["row"]),
            row["checksum"].tobytes(),
            self._kind_values[row["kind"]],
        )

    def sizes(self, number: int) -> ImageSizes:
        """The sizes that belong to the latent."""
        h, w, top, left = self._rows["sizes"][number].tolist()
        return ImageSizes(Size(h, w), top, left, self.kind(number).bucket)

    def row(self, number: int) -> IndexRow:
        """All that the index says of the latent."""
        place = self.place(number)
        at = bisect_right(self._starts, number) - 1
        texts, line = self._texts[at], number - self._starts[at]
        return IndexRow(
            **{name: texts[name][line].as_py() for name in _TEXTS},
            shard=place.shard,
            row=place.row,
            sizes=self.sizes(number),
            shape=place.kind.shape,
            format=place.kind.format,
            has_logvar=place.kind.has_logvar,
            loader=place.kind.loader,
            checksum=place.checksum.hex(),
        )

    def in_order_of_place(self, numbers: np.ndarray) -> np.ndarray:
        """The same numbers, sorted by shard and row, so that a disk reads in one direction."""
        rows = self._rows[numbers]
        return numbers[np.lexsort([rows["row"], rows["shard"]])]

    def __getitem__(self, key: str) -> IndexRow:
        """The row of one latent."""
        number = int(self.find([key])[0])
        if number < 0:
            raise KeyError(key)
        return self.row(number)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a latent."""
        return isinstance(key, str) and int(self.find([key])[0]) >= 0

    def __iter__(self) -> Iterator[str]:
        """Keys, in the order in which they were read."""
        return (row.key for row in self.values())

    def __len__(self) -> int:
        """How many latents there are."""
        return len(self.numbers())

    def values(self) -> ValuesView[IndexRow]:
        """Rows, in the order in which they were read."""
        return _Rows(self)

    def _add(self, table: Any) -> None:
        new = len(table)
        if self._count + new > len(self._rows):
            grown = np.empty(max(2 * len(self._rows), self._count + new), _ROW)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        keys = table["key"].to_pylist()
        self._fill(self._rows[self._count : self._count + new], table, keys)
        self._shard_names, self._kind_values = list(self._shards), list(self._kinds)
        self._starts.append(self._count)
        self._texts.append({name: table[name].combine_chunks() for name in _TEXTS})
        self._recent |= {key: self._count + n for n, key in enumerate(keys)}
        self._count += new
        if len(self._recent) > max(_MOST_RECENT, self._count // 8):
            self._sort()

    def _fill(self, rows: np.ndarray, table: Any, keys: Sequence[str]) -> None:
        digests = _digests(keys)
        rows["high"], rows["low"] = digests["high"], digests["low"]
        checksums = b"".join(bytes.fromhex(text) for text in table["checksum"].to_pylist())
        rows["checksum"] = np.frombuffer(checksums, np.uint8).reshape(-1, 16)
        rows["row"] = table["row"].to_numpy()
        for n, name in enumerate(_SIZES):
            rows["sizes"][:, n] = table[name].to_numpy()
        rows["shard"] = [_number(self._shards, name) for name in table["shard"].to_pylist()]
        # Nearly always one kind a file: its rows are told apart as bare values first.
        kind_of: dict[tuple[Any, ...], int] = {}
        columns = (table[name].to_pylist() for name in _KIND)
        for n, values in enumerate(zip(*columns, strict=True)):
            if values not in kind_of:
                kind_of[values] = _number(self._kinds, _kind(values))
            rows["kind"][n] = kind_of[values]

    def _sort(self) -> None:
        """Put all latents that count in the order of their digests."""
        numbers = np.arange(self._count)
        if self._dropped:
            numbers = np.delete(numbers, list(self._dropped))
        rows = self._rows[numbers]
        # Stable, so that the last of equal ones was read last.
        by_digest = np.lexsort([rows["low"], rows["high"]])
        rows, numbers = rows[by_digest], numbers[by_digest]
        differs = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
        last = np.append(differs, True) if len(numbers) else np.empty(0, bool)
        self._order, self._sorted_high = numbers[last], rows["high"][last]
        self._recent = {}

    def _find_sorted(self, keys: Sequence[str]) -> np.ndarray:
        wanted, order = _digests(keys), self._order
        if not len(order):
            return np.full(len(keys), -1, np.int64)
        high, low = self._rows["high"], self._rows["low"]
        places = np.searchsorted(self._sorted_high, wanted["high"], side="right")
        found = order[np.maximum(places - 1, 0)]
        near = high[found] == wanted["high"]
        right = near & (low[found] == wanted["low"])
        for n in np.flatnonzero(near & ~right).tolist():
            # 64 bits are equal by chance only; those of the other keys lie right before.
            place = int(places[n]) - 1
            while place >= 0 and high[order[place]] == wanted["high"][n] and not right[n]:
                found[n] = order[place]
                right[n] = low[found[n]] == wanted["low"][n]
                place -= 1
        return np.where(right, found, -1)


class _Rows(ValuesView[IndexRow]):
    """Rows one after the other, without looking their keys up."""

    def __init__(self, columns: LatentColumns) -> None:
        self._columns = columns

    def __iter__(self) -> Iterator[IndexRow]:
        return map(self._columns.row, self._columns.numbers().tolist())

    def __len__(self) -> int:
        return len(self._columns)


def _kind(values: tuple[Any, ...]) -> LatentKind:
    bucket_h, bucket_w, channels, h, w, vae_hash, dtype, codec, has_logvar, loader = values
    return LatentKind(
        Size(bucket_h, bucket_w),
        (channels, h, w),
        LatentFormat(vae_hash, dtype, codec),
        bool(has_logvar),
        loader,
    )


def _number(known: dict[Any, int], value: Any) -> int:
    """The number of a value, the next one when it is new."""
    return known.setdefault(value, len(known))


def _digests(keys: Iterable[str]) -> np.ndarray:
    """128 bits of each key, as two numbers."""
    digests = b"".join(blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.frombuffer(digests, np.dtype([("high", np.uint64), ("low", np.uint64)]))
