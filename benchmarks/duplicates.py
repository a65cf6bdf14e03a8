"""How long the search for duplicates takes: CPU seconds of one thread, and what it found.

    uniform      random 64-bit hashes with planted near pairs (0 to 3 bits), at 3, 6 and 10 bits
    mirrored     the same with mirror hashes, at 6 bits
    biased       each bit set with its own chance of 0.2 to 0.8, at 6 bits
    frequencies  signs of frequencies against their median, as perceptual hashes are made, at 6 bits
    identical    a fifth of all hashes equal, at 6 bits
    clusters     representatives of `identical`, with colours as a second condition
    embeddings   vectors with planted neighbours, cosine 0.95 (needs faiss)

Run: OMP_NUM_THREADS=1 python benchmarks/duplicates.py [--hashes 1000000] [--vectors 50000]
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tastemaker.curation.clusters import clusters
from tastemaker.curation.near_hashes import near_pairs_hamming
from tastemaker.curation.near_vectors import near_pairs_embedding

PLANTED, WIDTH, COSINE = 1000, 512, 0.95


def random_hashes(source: np.random.Generator, count: int) -> np.ndarray:
    """Uniform over 64 bits, uint64 `[count]`."""
    return source.integers(0, 2**64, count, dtype=np.uint64)


def packed(bits: np.ndarray) -> np.ndarray:
    """Bits `[N, 64]` as uint64 `[N]`."""
    return np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)


def biased_hashes(source: np.random.Generator, count: int) -> np.ndarray:
    """Independent bits, each with its own chance."""
    return packed(source.random((count, 64), np.float32) < source.uniform(0.2, 0.8, 64))


def frequency_hashes(source: np.random.Generator, count: int) -> np.ndarray:
    """Like DCT hashes: the mean always set, half of the bits set, low frequencies decide more."""
    falling = 1 / (1 + np.hypot(*np.mgrid[:8, :8])).reshape(-1) ** 1.5
    pieces = []
    for size in [100_000] * (count // 100_000) + [count % 100_000]:
        values = source.laplace(size=(size, 64)).astype(np.float32) * falling
        values[:, 0] = 50
        pieces.append(packed(values > np.median(values, axis=1, keepdims=True)))
    return np.concatenate(pieces)


def plant(source: np.random.Generator, hashes: np.ndarray) -> np.ndarray:
    """Make the second half of 2 x 1000 places a copy of the first with up to 3 bits flipped."""
    places = source.choice(len(hashes), 2 * PLANTED, replace=False)
    flips = np.zeros((PLANTED, 64), bool)
    for row in flips:
        row[source.choice(64, source.integers(0, 4), replace=False)] = True
    hashes[places[PLANTED:]] = hashes[places[:PLANTED]] ^ packed(flips)
    return places


def planted_found(near: Any, places: np.ndarray) -> int:
    """How many of the planted pairs were found, or are one look."""
    one, other = near.look_of[places[:PLANTED]], near.look_of[places[PLANTED:]]
    looks = len(near.look_of)
    keys = np.minimum(one, other) * looks + np.maximum(one, other)
    return int(((one == other) | np.isin(keys, near.left * looks + near.right)).sum())


def vectors_with_neighbours(source: np.random.Generator, count: int) -> np.ndarray:
    """Random directions, a twentieth of them near another."""
    vectors = source.normal(size=(count, WIDTH)).astype(np.float32)
    few = count // 20
    vectors[-few:] = vectors[:few] + 0.2 * vectors[-few:]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds."""
    start = time.process_time()
    result = work()
    return result, round(time.process_time() - start, 2)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=50_000)
    options = parser.parse_args()
    source, count = np.random.default_rng(0), options.hashes
    result: dict[str, Any] = {"hashes": count, "planted": PLANTED}

    def search(name: str, hashes: np.ndarray, mirrored: np.ndarray | None, bits: int) -> Any:
        places = plant(source, hashes)
        near, seconds = timed(lambda: near_pairs_hamming(hashes, mirrored, bits))
        found = {"cpu_s": seconds, "pairs": len(near.left), "planted": planted_found(near, places)}
        result[f"{name}_{bits}_bits"] = found
        return near

    for bits in (3, 6, 10):
        search("uniform", random_hashes(source, count), None, bits)
    search("mirrored", random_hashes(source, count), random_hashes(source, count), 6)
    search("biased", biased_hashes(source, count), None, 6)
    search("frequencies", frequency_hashes(source, count), None, 6)
    hashes = random_hashes(source, count)
    hashes[: count // 5] = hashes[0]
    near = search("identical", hashes, ~hashes, 6)
    # Blank pictures of sixteen shades.
    shades = source.integers(0, 16, count, np.uint8) * 16
    grids = np.broadcast_to(shades[:, None, None, None], (count, 8, 8, 3))
    found, seconds = timed(lambda: clusters(source.permutation(count), near, grids, 4.0))
    result["clusters"] = {"cpu_s": seconds, "dropped": int((~found.kept).sum())}
    result["embeddings"] = embeddings(vectors_with_neighbours(source, options.vectors))
    print(json.dumps(result, indent=2))


def embeddings(vectors: np.ndarray) -> dict[str, Any] | str:
    """Figures of the flat index, or why there are none."""
    try:
        import faiss
    except ImportError:
        return "faiss is not installed"
    faiss.omp_set_num_threads(1)
    near, seconds = timed(lambda: near_pairs_embedding(vectors, COSINE))
    clustered, more = timed(lambda: clusters(np.arange(len(vectors)), near))
    return {
        "vectors": list(vectors.shape),
        "cpu_s": seconds,
        "pairs": len(near.left),
        "clusters_cpu_s": more,
        "dropped": int((~clustered.kept).sum()),
    }


if __name__ == "__main__":
    main()
