"""Groups of pictures that mean alike: k-means of their embeddings.

Axes: K pictures, D numbers of an embedding.
"""

from hashlib import blake2b

import numpy as np
from jaxtyping import Float32, Int64

CLUSTERS = (8, 16, 32, 64, 128, 256)
"""Numbers of groups that rules may ask for (ours)."""

_FITTED = 256
"""Pictures a group, at most, from which the centres are found (ours)."""

_ROUNDS = 20
_BLOCK = 1 << 14


def cluster_numbers(
    vectors: Float32[np.ndarray, "K D"], clusters: int, seed: int = 0
) -> Int64[np.ndarray, " K"]:
    """Number of every picture's group, 0 and up; neither order nor repeats of a run change it.

    The centres start as k-means++ chooses them, on pictures in the order of their hashes.

    Args:
        vectors: embeddings of length 1.
        clusters: how many groups; no more than there are different pictures.
        seed: of the start.
    """
    from scipy.cluster.vq import kmeans2

    digests = [blake2b(vector.tobytes(), digest_size=8).digest() for vector in vectors]
    order = sorted(range(len(vectors)), key=digests.__getitem__)[: clusters * _FITTED]
    sample = vectors[order].astype(np.float64)
    clusters = min(clusters, len(np.unique(sample, axis=0)))
    if clusters <= 1:
        return np.zeros(len(vectors), np.int64)
    random = np.random.default_rng(seed)
    centres, _ = kmeans2(sample, clusters, iter=_ROUNDS, minit="++", rng=random)
    offsets = (centres**2).sum(axis=1) / 2
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float64)
        found[start : start + _BLOCK] = (block @ centres.T - offsets).argmax(axis=1)
    return found
