"""Groups of embeddings: planted ones are found, and order does not matter."""

import numpy as np

from tastemaker.curation.embedding_clusters import cluster_numbers
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.scorers.embedding import Embedding
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.facts import FilledColumn, known_addresses, read_facts


def planted(groups: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(16, 16)))[0][:groups]
    truth = np.repeat(np.arange(groups), each)
    vectors = centres[truth] + random.normal(scale=0.03, size=(groups * each, 16))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32), truth


def test_planted_groups_are_found_in_any_order() -> None:
    vectors, truth = planted(8, 40)
    found = cluster_numbers(vectors, 8)
    pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 8
    assert len(set(found.tolist())) == 8
    order = np.random.default_rng(1).permutation(len(vectors))
    assert cluster_numbers(vectors[order], 8).tolist() == found[order].tolist()


def test_no_more_groups_than_pictures() -> None:
    vectors, _ = planted(2, 1)
    assert len(set(cluster_numbers(vectors, 8).tolist())) == 2
    assert cluster_numbers(vectors[:1].repeat(5, axis=0), 8).tolist() == [0] * 5
    assert cluster_numbers(vectors[:0], 8).tolist() == []


def test_a_rule_can_ask_for_the_group_of_a_picture(tmp_path) -> None:
    vectors, truth = planted(8, 3)
    made = Catalogue(tmp_path / "collection")
    ids = [f"{n:02d}" for n in range(len(vectors))]
    records = [ImageRecord(i, f"{i}.png", "s", i, Size(4, 4)) for i in [*ids, "bare"]]
    (part,) = made.append_base(records)
    made.close_base()
    key, fields = ColumnKey("embedding", 1), Embedding.FIELDS
    rows = {i: {"vector": vector} for i, vector in zip(ids, vectors, strict=True)}
    made.write_rows(key, part, rows, fields)
    made.finish_column(key, fields)
    address = "embedding.cluster_of_8"
    assert known_addresses(made, {"embedding": fields})[address] == "number"
    found = read_facts(made, {"embedding": FilledColumn(key, fields)}, [address]).numbers(address)
    assert len(set(zip(truth.tolist(), found[:-1].tolist(), strict=True))) == 8
    assert np.isnan(found[-1])
