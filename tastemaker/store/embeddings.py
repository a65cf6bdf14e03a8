"""The embeddings of a collection, found by the name of their column.

Axes: K pictures, D numbers of an embedding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tastemaker.errors import InputError
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.column_files import read_manifest
from tastemaker.store.looks import read_vectors


@dataclass(frozen=True)
class Embeddings:
    """Vectors of the pictures that have one.

    Attributes:
        column: name of the column.
        folder: its folder's name, which says how it was made.
        ids: the pictures, in the order of the collection, each once.
        vectors: float32 `[K, D]`, of length 1.
        hashes: of the models that made them.
    """

    column: str
    folder: str
    ids: tuple[str, ...]
    vectors: np.ndarray
    hashes: tuple[str, ...] = ()


def find_embeddings(
    catalogue: Catalogue, name: str, *, optional: bool = False
) -> Embeddings | None:
    """The newest finished column of this name that holds vectors.

    Args:
        catalogue: the collection.
        name: of the column.
        optional: None instead of an error when there is none.

    Raises:
        InputError: there is no such column, or it holds no vector.
    """
    found = _newest(catalogue, name)
    vectors = None if found is None else read_vectors(catalogue, found[1])
    if found is None or vectors is None or not len(vectors.rows):
        if optional:
            return None
        raise InputError(
            catalogue.path,
            f"no column '{name}' with vectors",
            "embeddings of its pictures",
            "Measure them: tastemaker curate RUN 'columns=[{kind: embedding, model: tiny-clip}]'.",
        )
    ids = np.array(catalogue.base_table(["id"])["id"].to_pylist(), object)[vectors.rows]
    # Copies have one id and one vector.
    _, first = np.unique(ids.astype(str), return_index=True)
    kept = np.sort(first)
    hashes = tuple(str(value) for value in found[1].params.values())
    return Embeddings(name, found[0], tuple(ids[kept].tolist()), vectors.values[kept], hashes)


def _newest(catalogue: Catalogue, name: str) -> tuple[str, ColumnKey] | None:
    ranked: list[tuple[int, int, Path, ColumnKey]] = []
    for path in sorted((catalogue.path / "catalog" / "col").glob(f"{name}@*/manifest.json")):
        facts = read_manifest(path)
        if "vector" in facts.get("fields", {}):
            key = ColumnKey(facts["op"], facts["version"], facts.get("params", {}))
            ranked.append((facts["version"], path.stat().st_mtime_ns, path.parent, key))
    if not ranked:
        return None
    _, _, folder, key = max(ranked, key=lambda one: one[:2])
    return folder.name, key
