"""All pairs of 64-bit hashes that differ in few bits, exactly, among millions.

Two hashes that differ in at most k bits agree in at least m - k of any m bands of bits. So for each
choice of m - k bands, the hashes are sorted by these bands and compared with those that agree in
them: multi-index hashing (Norouzi et al. 2012, arXiv:1307.2982) by sorting instead of tables. How
many bands are best depends on the hashes, and is estimated from them.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Int64, UInt64

from tastemaker.curation.near_pairs import MOST_PAIRS, NearPairs, check_count

BITS = 64
_COMPARE_ALL = 2048
"""In groups of up to so many hashes all are compared, all groups at once (ours)."""

_BLOCK = 16384
"""Hashes that are compared at once: they stay in the processor's cache."""

_SORT_NS, _COMPARE_NS = 30.0, 1.2
"""What a choice of bands costs a hash, and a comparison (measured; only speed depends on it)."""

_MOST_CHOICES = 4000
"""More choices of bands are not tried (ours)."""

_Hits = tuple[np.ndarray, np.ndarray]
"""Indices of hashes that are near, int64 `[n]` each."""


def near_pairs_hamming(
    hashes: UInt64[np.ndarray, " N"],
    mirrored: UInt64[np.ndarray, " N"] | None,
    most_bits: int,
    groups: Int64[np.ndarray, " N"] | None = None,
    *,
    bands: int | None = None,
    most_pairs: int = MOST_PAIRS,
) -> NearPairs:
    """Find every pair of looks within some bits.

    Two pictures are near as they are when their hashes differ in at most `most_bits` bits, and near
    mirrored when the hash of one and the mirror hash of the other do; of the two ways to say so,
    the smaller number counts.

    Args:
        hashes: hash of every picture.
        mirrored: hash of the mirror image of every picture; None looks for no mirrored pairs.
        most_bits: below 0 no pair is near.
        groups: only pictures with equal numbers are compared; None compares all.
        bands: number of bands, above `most_bits`; None chooses. The result does not depend on it.
        most_pairs: what is the most to be returned.

    Returns:
        Pairs ordered by left, right, mirrored; `value` is the number of bits.

    Raises:
        InputError: there are more than `most_pairs` pairs.
    """
    looks = _Looks(hashes, mirrored, groups)
    found: list[np.ndarray] = []
    count = 0
    for first, second in looks.near(most_bits, bands) if most_bits >= 0 else ():
        found.append(looks.pairs(first, second))
        count += len(found[-1])
        check_count(count, most_pairs, f"{most_bits} bits")
    found.append(looks.own_mirror_images(most_bits))
    rows = np.concatenate(found)
    rows = rows[np.lexsort(rows.T[::-1])]
    # A mirrored pair is found from both sides; the first row has the fewer bits.
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (rows[1:, :3] != rows[:-1, :3]).any(axis=1)
    left, right, flipped, bits = rows[fresh].T
    return NearPairs("bits", looks.of, left, right, bits.astype(np.float64), flipped.astype(bool))


class _Looks:
    """The distinct hashes of every group; those of mirror images are entries of their own behind.

    Attributes:
        of: int64 `[N]`, the look of every picture.
        entries: uint64 `[E]`: hashes of the K looks, then those of their mirror images.
        groups: int64 `[E]`.
    """

    def __init__(
        self, hashes: np.ndarray, mirrored: np.ndarray | None, groups: np.ndarray | None
    ) -> None:
        columns = [hashes] if mirrored is None else [mirrored, hashes]
        group = np.zeros(len(hashes), np.int64) if groups is None else groups
        order = np.lexsort([*columns, group])
        fresh = np.ones(len(hashes), bool)
        sorted_columns = [column[order] for column in (*columns, group)]
        fresh[1:] = np.any([column[1:] != column[:-1] for column in sorted_columns], axis=0)
        self.of = np.empty(len(hashes), np.int64)
        self.of[order] = np.cumsum(fresh) - 1
        self._pictures = np.bincount(self.of)
        *parts, group = (column[fresh] for column in sorted_columns)
        self.count = len(group)
        self.entries = np.concatenate(parts[::-1])
        self.groups = np.tile(group, len(parts))

    def near(self, most_bits: int, bands: int | None) -> Iterator[_Hits]:
        """Pairs of entries of one group within some bits; each once."""
        order = np.argsort(self.groups, kind="stable")
        ends = _run_ends(self.groups[order])
        sizes = np.diff(ends, prepend=0)
        large = sizes > (_COMPARE_ALL if bands is None else 1)
        for end, size in zip(ends[large], sizes[large], strict=True):
            members = order[end - size : end]
            for first, second in _near_entries(self.entries[members], most_bits, bands):
                yield members[first], members[second]
        rest = order[np.repeat(~large, sizes)]
        ends = np.repeat(np.cumsum(sizes[~large]), sizes[~large])
        for first, second in _compare(self.entries[rest], ends, most_bits):
            yield rest[first], rest[second]

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Rows of (left, right, mirrored, bits) of pairs of entries, int64 `[n, 4]`."""
        looks = np.sort(np.stack([first % self.count, second % self.count], axis=1), axis=1)
        images = (first >= self.count).astype(np.int64) + (second >= self.count)
        bits = np.bitwise_count(self.entries[first] ^ self.entries[second])
        # Two mirror images say nothing that their originals do not say.
        wanted = (images < 2) & (looks[:, 0] != looks[:, 1])
        return np.column_stack([looks, images, bits])[wanted].astype(np.int64)

    def own_mirror_images(self, most_bits: int) -> np.ndarray:
        """Rows for the looks of several pictures that are near their own mirror image."""
        looks = np.arange(self.count if len(self.entries) > self.count else 0)
        bits = np.bitwise_count(self.entries[looks] ^ self.entries[looks + self.count])
        near = (bits.astype(np.int64) <= most_bits) & (self._pictures[looks] > 1)
        looks, bits = looks[near], bits[near]
        return np.column_stack([looks, looks, np.ones_like(looks), bits]).astype(np.int64)


def _near_entries(entries: np.ndarray, most_bits: int, bands: int | None) -> Iterator[_Hits]:
    """Pairs within some bits among one group's entries; each once."""
    entries = _bits_dealt(entries)
    bands = _best_bands(entries, most_bits) if bands is None else min(bands, BITS)
    if bands <= most_bits:
        yield from _compare(entries, np.full(len(entries), len(entries)), most_bits)
        return
    parts = _bands(bands)
    masks = np.array([mask << low for low, mask in parts], np.uint64)
    for choice in combinations(range(bands), bands - most_bits):
        order, ends = _agreeing(entries, [parts[band] for band in choice])
        chosen = np.isin(np.arange(bands), choice)
        for first, second in _compare(entries[order], ends, most_bits):
            one, other = order[first], order[second]
            # A pair may agree in more bands than asked: it is taken where it agrees in the first
            # ones.
            agrees = ((entries[one] ^ entries[other])[:, None] & masks) == 0
            leading = agrees & (agrees.cumsum(axis=1) <= bands - most_bits)
            new = (leading == chosen).all(axis=1)
            yield one[new], other[new]


def _agreeing(entries: np.ndarray, parts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Entries that share some bands with others, ordered so that these lie side by side.

    Returns:
        Their indices, int64 `[n]`, and the end of each one's neighbours, int64 `[n]`.
    """
    key = np.zeros(len(entries), np.uint64)
    for low, mask in parts:
        key <<= np.uint64(mask.bit_length())
        key |= entries >> np.uint64(low) & np.uint64(mask)
    # Sorting key and index as one number is several times quicker than sorting indices by a key.
    # Bits of the key that do not fit are left out: more are compared than need be.
    index_bits = max(1, (len(entries) - 1).bit_length())
    spare = sum(mask.bit_length() for _, mask in parts) - (BITS - index_bits)
    packed = key >> np.uint64(max(0, spare)) << np.uint64(index_bits)
    packed |= np.arange(len(entries), dtype=np.uint64)
    packed.sort()
    key = packed >> np.uint64(index_bits)
    same = key[1:] == key[:-1]
    shared = np.zeros(len(key), bool)
    shared[1:] = same
    shared[:-1] |= same
    order = (packed[shared] & np.uint64((1 << index_bits) - 1)).astype(np.int64)
    ends = _run_ends(key[shared])
    return order, np.repeat(ends, np.diff(ends, prepend=0))


def _compare(values: np.ndarray, ends: np.ndarray, most_bits: int) -> Iterator[_Hits]:
    """Compare each value with those behind it up to its end; positions of those within the limit.

    Args:
        values: uint64 `[n]`.
        ends: int64 `[n]`, never falling.
        most_bits: the limit.
    """
    differing, bits = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint8)
    for start in range(0, len(values), _BLOCK):
        stop = min(start + _BLOCK, len(values))
        reach = ends[start:stop] - np.arange(start, stop)
        for shift in range(1, int(reach.max())):
            count = min(stop, len(values) - shift) - start
            np.bitwise_xor(
                values[start : start + count],
                values[start + shift : start + shift + count],
                out=differing[:count],
            )
            np.bitwise_count(differing[:count], out=bits[:count])
            first = np.flatnonzero(bits[:count] <= most_bits)
            first = first[reach[first] > shift]
            if len(first):
                yield first + start, first + (start + shift)


def _best_bands(entries: np.ndarray, most_bits: int) -> int:
    """The number of bands that should take the least time; `most_bits` stands for comparing all."""
    count = len(entries)
    best, least = most_bits, _COMPARE_NS * count**2 / 2
    for bands in range(most_bits + 1, BITS + 1):
        choices, parts = comb(bands, most_bits), _bands(bands)
        if choices > _MOST_CHOICES or choices * count * _SORT_NS > least:
            break
        order, ends = _agreeing(entries, parts[: bands - most_bits])
        comparisons = float((ends - np.arange(len(order))).sum())
        cost = choices * (count * _SORT_NS + comparisons * _COMPARE_NS)
        if cost < least:
            best, least = bands, cost
    return best


def _bits_dealt(entries: np.ndarray) -> np.ndarray:
    """The same hashes with their bits in another order, so that every band tells as much.

    Bits of real hashes are not equally often set; those that tell most are dealt first.
    """
    blocks = [
        np.unpackbits(block.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
        for block in np.array_split(entries, -(-len(entries) // _BLOCK))
    ]
    share = sum(block.sum(axis=0, dtype=np.int64) for block in blocks) / len(entries)
    by_balance = np.argsort(np.abs(share - 0.5), kind="stable")
    # A card to each of eight hands: neighbouring places then hold bits from all ranks.
    dealt = by_balance.reshape(8, 8).T.reshape(-1)
    packed = [np.packbits(block[:, dealt], axis=1) for block in blocks]
    return np.concatenate(packed).reshape(-1).view(">u8").astype(np.uint64)


def _bands(count: int) -> list[tuple[int, int]]:
    """(lowest bit, mask) of `count` bands that cover the 64 bits."""
    edges = [round(index * BITS / count) for index in range(count + 1)]
    return [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]


def _run_ends(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values end, int64 `[runs]`."""
    ends = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.append(ends, len(values)) if len(values) else ends
