"""Who duplicates whom among those still there, against a plainly written loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.curation import copies as module
from tastemaker.curation.copies import CopyFinder, Looks, Vectors
from tastemaker.curation.facts import Facts, objects
from tastemaker.curation.rules import Duplicates

NOBODY = -1


def bits(one: int, other: int) -> int:
    return (int(one) ^ int(other)).bit_count()


def levels(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def order_of(facts: Facts, address: str, pictures) -> list[int]:
    """Best first; of equal ones hashes of the ids decide."""
    values = facts.values[address]
    known = {i: values[i] if np.isfinite(values[i]) else -np.inf for i in pictures}
    return sorted(pictures, key=lambda i: (-known[i], facts.tie_order[i]))


def group_of(facts: Facts, rule: Duplicates, picture: int) -> str:
    return "" if rule.within is None else str(facts.values[rule.within][picture] or "")


def loop_looks(facts: Facts, rule: Duplicates, looks: Looks, alive: np.ndarray) -> list[int]:
    """Index of the picture that stands for each, or -1."""
    at = {int(row): k for k, row in enumerate(looks.rows)}
    order = order_of(facts, rule.preference, [i for i in at if alive[i]])
    kept, found = [], [NOBODY] * facts.count
    for rank, one in enumerate(order):
        near = []
        for better, other in kept:
            a, b = at[one], at[other]
            if group_of(facts, rule, one) != group_of(facts, rule, other):
                continue
            ways = [(bits(looks.hashes[a], looks.hashes[b]), False)]
            if rule.mirrored:
                there = bits(looks.hashes[a], looks.mirrored[b])
                back = bits(looks.mirrored[a], looks.hashes[b])
                ways.append((min(there, back), True))
            for far, flip in ways:
                grid = looks.colours[b][:, ::-1] if flip else looks.colours[b]
                colour = levels(looks.colours[a], grid)
                if far <= rule.most_bits and colour <= rule.most_levels:
                    near.append((far, flip, colour, better, other))
        if near:
            found[one] = min(near)[-1]
        else:
            kept.append((rank, one))
    return found


@st.composite
def seen(draw):
    count = draw(st.integers(1, 12))
    base = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))

    def near(_):
        changed = draw(st.sets(st.integers(0, 63), max_size=4))
        return draw(st.sampled_from(base)) ^ sum(1 << bit for bit in changed)

    hashes, mirrored = ([near(n) for n in range(count)] for _ in range(2))
    grey = np.array(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)))
    colours = np.zeros((count, 8, 8, 3), np.uint8)
    colours[:, :, :4] = grey[:, None, None, None]
    rows = sorted(draw(st.sets(st.integers(0, count - 1))))
    sizes = st.lists(st.sampled_from([1.0, 2.0, float("nan")]), min_size=count, max_size=count)
    styles = st.lists(st.sampled_from(["x", "y", None]), min_size=count, max_size=count)
    options = {
        "most_bits": draw(st.integers(0, 6)),
        "most_levels": draw(st.sampled_from([0.0, 1.0, 255.0])),
        "mirrored": draw(st.booleans()),
        "within": draw(st.sampled_from([None, "attribute.style"])),
    }
    alive = st.lists(st.booleans(), min_size=count, max_size=count)
    masks = [np.array(draw(alive)) for _ in range(3)]
    return rows, hashes, mirrored, colours, draw(sizes), draw(styles), options, masks


def finder(facts, looks=None, vectors=None) -> CopyFinder:
    return CopyFinder(facts, looks=lambda _: looks, vectors=lambda _: vectors)


@settings(max_examples=200)
@given(seen())
def test_looks_among_those_still_there(case):
    rows, hashes, mirrored, colours, sizes, styles, options, masks = case
    looks = Looks(
        np.array(rows, np.int64),
        np.array(hashes, np.uint64)[rows],
        np.array(mirrored, np.uint64)[rows],
        colours[rows],
    )
    values = {"megapixels": np.array(sizes), "attribute.style": objects(styles)}
    ids = range(len(sizes))
    facts = Facts([f"id{n}" for n in ids], values, [f"name{n}" for n in ids])
    rule = Duplicates(**options)
    find = finder(facts, looks)
    for alive in masks:
        found = find(rule, alive)
        expected = loop_looks(facts, rule, looks, alive)
        assert found.of.tolist() == expected
        for picture, of in enumerate(expected):
            if of != NOBODY:
                assert f"from name{of}" in found.got(picture)
    assert find(rule, masks[0]).of.tolist() == finder(facts, looks)(rule, masks[0]).of.tolist()


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_embeddings_among_those_still_there(count, seed, data):
    pytest.importorskip("faiss")
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(random.random(count) < 0.8).astype(np.int64)
    vectors = random.normal(size=(len(rows), 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = random.integers(0, 3, count).astype(float)
    facts = Facts([f"id{n}" for n in range(count)], {"a.score": scores})
    rule = Duplicates(
        by="embedding", column="e", least_cosine=0.7, keep="best", score="a.score"
    )  # fmt: skip
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = finder(facts, vectors=Vectors(rows, vectors))(rule, alive)
    at = {int(row): k for k, row in enumerate(rows)}
    kept, expected = [], [NOBODY] * count
    for one in order_of(facts, "a.score", [i for i in at if alive[i]]):
        cosines = {other: float(vectors[at[one]] @ vectors[at[other]]) for other in kept}
        near = [(-cosine, kept.index(o), o) for o, cosine in cosines.items() if cosine >= 0.7]
        if near:
            expected[one] = min(near)[-1]
        else:
            kept.append(one)
    assert found.of.tolist() == expected
    dropped = [i for i, of in enumerate(expected) if of != NOBODY]
    assert all(found.got(i).startswith("cosine ") for i in dropped)


def test_pairs_are_searched_for_once_a_rule(monkeypatch):
    calls = []
    real = module.near_pairs_hamming
    monkeypatch.setattr(
        module, "near_pairs_hamming", lambda *given: calls.append(given) or real(*given)
    )
    looks = Looks(
        np.arange(3),
        np.array([0, 1, 0xFFFF], np.uint64),
        np.array([0, 0, 0], np.uint64),
        np.zeros((3, 8, 8, 3), np.uint8),
    )
    facts = Facts(list("abc"), {"megapixels": np.array([1.0, 2.0, 3.0])})
    find = finder(facts, looks)
    everyone = np.ones(3, bool)
    assert find(Duplicates(), everyone).of.tolist() == [1, NOBODY, NOBODY]
    assert find(Duplicates(), np.array([True, False, True])).of.tolist() == [NOBODY] * 3
    assert len(calls) == 1
    assert find(Duplicates(most_bits=32), everyone).of.tolist() == [2, 2, NOBODY]
    assert len(calls) == 2


def test_nobody_there_has_no_copies():
    facts = Facts([], {"megapixels": np.zeros(0)})
    none = Looks(
        np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64),
        np.zeros((0, 8, 8, 3), np.uint8),
    )  # fmt: skip
    assert finder(facts, none)(Duplicates(), np.zeros(0, bool)).of.tolist() == []
    vectors = Vectors(np.zeros(0, np.int64), np.zeros((0, 1), np.float32))
    rule = Duplicates(by="embedding", column="e")
    one = Facts(["a"], {"megapixels": np.ones(1)})
    assert finder(one, vectors=vectors)(rule, np.ones(1, bool)).of.tolist() == [NOBODY]
