"""Which pictures are near duplicates: what a `Duplicates` rule asks for, of hashes or embeddings.

Axes: N pictures, K of which have a hash or an embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64

from tastemaker.curation.clusters import clusters
from tastemaker.curation.facts import Facts
from tastemaker.curation.judgement import KEPT, Copies
from tastemaker.curation.near_hashes import near_pairs_hamming
from tastemaker.curation.near_pairs import NearPairs
from tastemaker.curation.near_vectors import near_pairs_embedding
from tastemaker.curation.rules_among import Duplicates, group_values


@dataclass(frozen=True)
class Looks:
    """How the pictures of a collection look.

    Attributes:
        rows: the K pictures whose look is known, ascending.
        hashes: 64-bit perceptual hash of each.
        mirrored: that of its mirror image.
        colours: mean colours of an 8x8 grid.
    """

    rows: Int64[np.ndarray, " K"]
    hashes: UInt64[np.ndarray, " K"]
    mirrored: UInt64[np.ndarray, " K"]
    colours: UInt8[np.ndarray, "K 8 8 3"]


@dataclass(frozen=True)
class Vectors:
    """Embeddings of the pictures of a collection, of length 1.

    Attributes:
        rows: the K pictures that have one, ascending.
        values: the embeddings.
    """

    rows: Int64[np.ndarray, " K"]
    values: Float32[np.ndarray, "K D"]


class CopyFinder:
    """Answers `Duplicates` rules. Pairs are searched for once a rule, clusters made for each call.

    Args:
        facts: what is known of the N pictures.
        looks: name of a column -> looks.
        vectors: name of a column -> embeddings.
    """

    def __init__(
        self,
        facts: Facts,
        looks: Callable[[str], Looks],
        vectors: Callable[[str], Vectors],
    ) -> None:
        self._facts, self._looks, self._vectors = facts, looks, vectors
        self._found: dict[Duplicates, _Pairs] = {}

    def __call__(self, rule: Duplicates, alive: Bool[np.ndarray, " N"]) -> Copies:
        """Who duplicates whom among the pictures that are still there.

        A picture without hash or embedding is no duplicate, and none is one of it.
        """
        if rule not in self._found:
            self._found[rule] = self._pairs(rule)
        pairs = self._found[rule]
        place = np.full(self._facts.count, -1)
        place[pairs.rows] = np.arange(len(pairs.rows))
        # Best first, so that the order of the clusters is that of the arrays.
        pictures = rule.best_first(self._facts, alive & (place >= 0))
        own = place[pictures]
        near = replace(pairs.near, look_of=pairs.near.look_of[own])
        colours = None if pairs.colours is None else pairs.colours[own]
        found = clusters(np.arange(len(own)), near, colours, rule.most_levels)
        of = np.full(self._facts.count, KEPT)
        dropped = np.flatnonzero(~found.kept)
        of[pictures[dropped]] = pictures[found.representative[dropped]]
        at = {int(pictures[index]): int(index) for index in dropped}
        names: Sequence[str] = self._facts.names()
        return Copies(of, lambda picture: found.reason(at[picture], names[int(of[picture])]))

    def _pairs(self, rule: Duplicates) -> "_Pairs":
        names = np.array(group_values(self._facts, rule.within), object)
        groups = np.unique(names.astype(str), return_inverse=True)[1].astype(np.int64)
        if rule.by == "embedding":
            vectors = self._vectors(rule.source)
            own = groups[vectors.rows]
            near = near_pairs_embedding(vectors.values, rule.least_cosine, own)
            return _Pairs(vectors.rows, near, None)
        looks = self._looks(rule.source)
        mirrored = looks.mirrored if rule.mirrored else None
        own = groups[looks.rows]
        near = near_pairs_hamming(looks.hashes, mirrored, rule.most_bits, own)
        return _Pairs(looks.rows, near, looks.colours)


@dataclass(frozen=True)
class _Pairs:
    rows: Int64[np.ndarray, " K"]
    near: NearPairs
    colours: UInt8[np.ndarray, "K 8 8 3"] | None
