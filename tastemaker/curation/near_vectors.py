"""All pairs of embeddings with a high cosine, by comparing all with all.

Axes: vectors are float32 `[N, D]`, of length 1.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from tastemaker.curation.near_pairs import MOST_PAIRS, NearPairs, check_count
from tastemaker.errors import InputError, MissingExtra

LENGTH_TOLERANCE = 1e-3
"""By how much a length may differ from 1: what float16 leaves of it (ours)."""

_BLOCK = 1024
_MARGIN = 1e-4
"""Cosines in float32 are that exact; those of what is found are computed again in float64."""


def near_pairs_embedding(
    vectors: Float32[np.ndarray, "N D"],
    least_cosine: float,
    groups: Int64[np.ndarray, " N"] | None = None,
    *,
    most_pairs: int = MOST_PAIRS,
) -> NearPairs:
    """Find every pair of looks with at least some cosine; exact, by a flat index of faiss.

    Args:
        vectors: embedding of every picture, divided by its length.
        least_cosine: -1..1.
        groups: only pictures with equal numbers are compared; None compares all.
        most_pairs: what is the most to be returned.

    Returns:
        Pairs ordered by left and right, none mirrored; `value` is the cosine.

    Raises:
        MissingExtra: faiss is not installed.
        InputError: a vector is not finite or not of length 1, or there are more than `most_pairs`
            pairs.
    """
    faiss = _faiss()
    _check_lengths(vectors)
    group = np.zeros(len(vectors), np.int64) if groups is None else groups
    look_of, firsts = _looks(vectors, group)
    found: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    cosines: list[np.ndarray] = [np.empty(0)]
    count = 0
    order = np.argsort(group[firsts], kind="stable")
    ends = np.flatnonzero(np.diff(group[firsts][order])) + 1
    for looks in np.split(order, ends):
        members = np.ascontiguousarray(vectors[firsts[looks]])
        for later, earlier in _search(faiss, members, least_cosine - _MARGIN):
            cosine = np.einsum("ij,ij->i", members[later], members[earlier], dtype=np.float64)
            near = cosine >= least_cosine
            pairs = np.stack([looks[earlier[near]], looks[later[near]]], axis=1)
            found.append(np.sort(pairs, axis=1))
            cosines.append(cosine[near])
            count += len(cosines[-1])
            check_count(count, most_pairs, f"cosine {least_cosine:g}")
    rows, cosine = np.concatenate(found), np.concatenate(cosines)
    by_look = np.lexsort(rows.T[::-1])
    left, right = rows[by_look].T
    none_mirrored = np.zeros(len(left), bool)
    return NearPairs("cosine", look_of, left, right, np.minimum(cosine[by_look], 1), none_mirrored)


def _search(
    faiss: Any, vectors: np.ndarray, above: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of pairs whose cosine is above a limit: (later, earlier), each pair once."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        # Each block is compared with those before it and with itself: half of all.
        index.add(block)
        limits, _, found = index.range_search(block, above)
        later = np.repeat(np.arange(start, start + len(block)), np.diff(limits.astype(np.int64)))
        once = found < later
        yield later[once], found[once]


def _looks(vectors: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look of every picture, int64 `[N]`, and the first picture of each look, int64 `[K]`."""
    numbers: dict[tuple[int, bytes], int] = {}
    look_of, firsts = np.empty(len(vectors), np.int64), []
    for row, (vector, group) in enumerate(zip(vectors, groups.tolist(), strict=True)):
        look_of[row] = numbers.setdefault((group, vector.tobytes()), len(numbers))
        if look_of[row] == len(firsts):
            firsts.append(row)
    return look_of, np.array(firsts, np.int64)


def _check_lengths(vectors: np.ndarray) -> None:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    # Written so that NaN, too, is wrong.
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))
    if len(wrong):
        raise InputError(
            "embeddings",
            f"length {lengths[wrong[0]]:.4g} of vector {wrong[0]} ({len(wrong)} such)",
            "length 1",
            "Divide each embedding by its length.",
        )


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "near duplicates by embedding",
            f"no package {error.name}",
            "faiss-cpu",
            'Run pip install "tastemaker[faiss]".',
        ) from error
    return faiss
