"""Near pairs against comparing all with all, and clusters against a plainly written loop."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.curation.clusters import clusters
from tastemaker.curation.near_hashes import near_pairs_hamming
from tastemaker.curation.near_pairs import NearPairs
from tastemaker.curation.near_vectors import near_pairs_embedding
from tastemaker.errors import InputError, MissingExtra


def distance(one: int, other: int) -> int:
    return (int(one) ^ int(other)).bit_count()


def all_pairs(hashes, mirrored, most_bits, groups):
    """{(left, right, mirrored): bits} of pictures."""
    found = {}
    for one in range(len(hashes)):
        for other in range(one + 1, len(hashes)):
            if groups is not None and groups[one] != groups[other]:
                continue
            ways = [(False, distance(hashes[one], hashes[other]))]
            if mirrored is not None:
                there = distance(hashes[one], mirrored[other])
                back = distance(mirrored[one], hashes[other])
                ways.append((True, min(there, back)))
            found |= {(one, other, flip): bits for flip, bits in ways if bits <= most_bits}
    return found


def of_pictures(near: NearPairs):
    """Pairs of looks as pairs of pictures."""
    members = [np.flatnonzero(near.look_of == look) for look in range(near.look_of.max() + 1)]
    rows = [*zip(near.left, near.right, near.mirrored, near.value, strict=True)]
    assert len({row[:3] for row in rows}) == len(rows)
    assert rows == sorted(rows)
    rows += [(look, look, False, near.same) for look in range(len(members))]
    return {
        (min(one, other), max(one, other), bool(flip)): value
        for left, right, flip, value in rows
        for one in members[left]
        for other in members[right]
        if one != other
    }


@st.composite
def hashed(draw, most=14):
    """Hashes and mirror hashes with near, equal and mirrored ones among them, and groups."""
    words = st.integers(0, 2**64 - 1)
    rows = draw(st.lists(st.tuples(words, words), min_size=1, max_size=most))
    changes = st.tuples(
        st.integers(0, 99), st.booleans(), st.sets(st.integers(0, 63), max_size=12),
        st.sets(st.integers(0, 63), max_size=2),
    )  # fmt: skip
    for which, flip, flips, mirror_flips in draw(st.lists(changes, max_size=most)):
        row = rows[which % len(rows)][:: -1 if flip else 1]
        noise = [sum(1 << bit for bit in bits) for bits in (flips, mirror_flips)]
        rows.append((row[0] ^ noise[0], row[1] ^ noise[1]))
    hashes, mirrored = np.array(rows, np.uint64).reshape(-1, 2).T
    groups = draw(st.none() | st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    return (
        np.ascontiguousarray(hashes),
        draw(st.sampled_from([np.ascontiguousarray(mirrored), None])),
        None if groups is None else np.array(groups, np.int64),
    )


# --- hashes --------------------------------------------------------------------------------------


@given(hashed(), st.integers(0, 12), st.sampled_from([None, 1, 2, 3]))
def test_the_search_finds_what_comparing_all_finds(given_, most_bits, more_bands):
    hashes, mirrored, groups = given_
    bands = None if more_bands is None else most_bits + more_bands
    near = near_pairs_hamming(hashes, mirrored, most_bits, groups, bands=bands)
    assert of_pictures(near) == all_pairs(hashes, mirrored, most_bits, groups)


@pytest.mark.parametrize("most_bits", [0, 3, 6, 10])
def test_thousands_of_hashes_with_unequal_bits(most_bits):
    random = np.random.default_rng(most_bits)
    bits = random.random((3000, 64)) < random.uniform(0.2, 0.8, 64)
    bits[::7] = bits[1::7][: len(bits[::7])] ^ (random.random((len(bits[::7]), 64)) < 0.05)
    hashes = np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)
    hashes = np.unique(hashes)
    near = near_pairs_hamming(hashes, None, most_bits)
    found = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= most_bits
    one, other = np.nonzero(np.triu(found, 1))
    looks = np.sort(near.look_of[np.stack([one, other])], axis=0)
    got = np.stack([near.left, near.right])
    assert got.shape == looks.shape
    np.testing.assert_array_equal(got, looks[:, np.lexsort(looks[::-1])])
    assert most_bits < 6 or near.left.size > 5


def test_one_bit_too_many_is_not_near():
    near = near_pairs_hamming(np.array([0, 0b111, 0b1111], np.uint64), None, 3)
    pairs = of_pictures(near)
    assert pairs == {(0, 1, False): 3, (1, 2, False): 1}
    assert not near_pairs_hamming(np.array([5, 5], np.uint64), None, -1).left.size


def test_many_equal_pictures_are_one_look():
    hashes = np.zeros(20_000, np.uint64)
    hashes[:3] = [0b1, 2**64 - 1, 2**63]
    near = near_pairs_hamming(hashes, ~hashes, 1)
    assert len(np.bincount(near.look_of)) == 4
    assert (near.mirrored.sum(), (~near.mirrored).sum()) == (3, 2)
    found = clusters(np.arange(len(hashes)), near)
    # The first and the third differ in two bits, so both are kept; the second is nearly the mirror
    # image of the first; the rest joins the better one.
    assert np.bincount(found.representative).tolist() == [19_999, 0, 1]
    assert np.flatnonzero(found.mirrored).tolist() == [1]


def test_too_many_pairs_are_refused_with_a_remedy():
    hashes = np.arange(256, dtype=np.uint64)
    with pytest.raises(InputError, match=r"more than 100 near pairs at 8 bits.*stricter limit"):
        near_pairs_hamming(hashes, None, 8, most_pairs=100)


def test_no_pictures_have_no_pairs():
    near = near_pairs_hamming(np.empty(0, np.uint64), np.empty(0, np.uint64), 6)
    assert near.left.size == 0
    assert clusters(np.empty(0, np.int64), near).representative.size == 0


# --- clusters ------------------------------------------------------------------------------------


def plain_clusters(order, hashes, mirrored, most_bits, groups, grids, most_levels):
    """Picture -> (representative, bits, levels, mirrored), by comparing with every kept one."""
    near, found, kept = all_pairs(hashes, mirrored, most_bits, groups), {}, []
    for rank, picture in enumerate(order):
        ways = []
        for other_rank, other in kept:
            pair = min(picture, other), max(picture, other)
            for flip in (False, True):
                if (*pair, flip) in near:
                    grid = grids[other][:, ::-1] if flip else grids[other]
                    levels = np.abs(grids[picture].astype(float) - grid).mean()
                    if levels <= most_levels:
                        bits = near[*pair, flip]
                        ways.append((bits, flip, levels, other_rank, other))
        if ways:
            bits, flip, levels, _, other = min(ways)
            found[picture] = (other, bits, levels, flip)
        else:
            kept.append((rank, picture))
            found[picture] = (picture, 0, 0.0, False)
    return found


@given(
    hashed(8),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 20.5, 60.0]),
)
@settings(max_examples=60)
def test_clusters_are_those_of_the_plain_loop(given_, most_bits, random, most_levels):
    hashes, mirrored, groups = given_
    order = list(range(len(hashes)))
    random.shuffle(order)
    levels = [[random.choice([0, 60, 61, 120]) for _ in range(12)] for _ in hashes]
    grids = np.array(levels, np.uint8).reshape(-1, 2, 2, 3)
    near = near_pairs_hamming(hashes, mirrored, most_bits, groups)
    got = clusters(np.array(order), near, grids, most_levels)
    expected = plain_clusters(order, hashes, mirrored, most_bits, groups, grids, most_levels)
    for picture, (other, bits, levels, flip) in expected.items():
        assert got.representative[picture] == other
        assert (got.value[picture], got.mirrored[picture]) == (bits, flip)
        assert got.levels[picture] == pytest.approx(levels)
    assert set(np.flatnonzero(got.kept)) == {p for p, (other, *_) in expected.items() if p == other}


def chain() -> NearPairs:
    return near_pairs_hamming(np.array([0, 0b11, 0b1111], np.uint64), None, 2)


def test_a_chain_does_not_drop_its_far_end():
    assert clusters(np.array([0, 1, 2]), chain()).representative.tolist() == [0, 0, 2]
    assert clusters(np.array([1, 0, 2]), chain()).representative.tolist() == [1, 1, 1]


def test_the_reason_names_what_stands_for_it():
    hashes = np.array([0b0, 0b111, 0xFF00], np.uint64)
    mirrored = np.array([0xFF01, 0xF0F0F0, 0xABCDEF], np.uint64)
    grids = np.zeros((3, 8, 8, 3), np.uint8)
    grids[0, :, 0] = 24
    grids[1] = grids[0]
    grids[1, 0, 0, 0] = 216
    grids[2] = grids[0, :, ::-1]
    near = near_pairs_hamming(hashes, mirrored, 3)
    found = clusters(np.array([0, 1, 2]), near, grids, 4.0)
    assert found.reason(1, "folder a.png") == "3 bits and 1.0 levels from folder a.png"
    assert found.reason(2, "folder a.png") == "1 bits and 0.0 levels from folder a.png (mirrored)"
    assert found.kept.tolist() == [True, False, False]
    as_they_are = clusters(np.array([0, 1, 2]), near, grids[:, :, ::-1].copy(), 0.9)
    assert as_they_are.representative.tolist() == [0, 1, 0]
    assert clusters(np.array([0, 1, 2]), near).reason(1, "a") == "3 bits from a"


def test_equal_hashes_with_other_colours_are_other_pictures():
    hashes = np.zeros(300, np.uint64)
    shades = np.repeat([10, 100, 12, 103], 75)
    grids = np.broadcast_to(shades[:, None, None, None], (300, 8, 8, 3)).astype(np.uint8)
    found = clusters(np.arange(300), near_pairs_hamming(hashes, None, 6), grids, 4.0)
    assert np.unique(found.representative).tolist() == [0, 75]
    assert found.levels[[80, 160, 230]].tolist() == [0.0, 2.0, 3.0]


def test_a_picture_whose_hash_is_its_mirror_hash_may_be_mirrored_in_colour_only():
    hashes = np.array([7, 7], np.uint64)
    grids = np.zeros((2, 2, 2, 3), np.uint8)
    grids[0, :, 0] = grids[1, :, 1] = 90
    one_way = clusters(np.arange(2), near_pairs_hamming(hashes, None, 6), grids, 4.0)
    assert one_way.kept.all()
    found = clusters(np.arange(2), near_pairs_hamming(hashes, hashes, 6), grids, 4.0)
    assert found.reason(1, "a") == "0 bits and 0.0 levels from a (mirrored)"


def test_an_order_that_forgets_pictures_is_refused():
    with pytest.raises(ValueError, match="each of 3 pictures once"):
        clusters(np.array([0, 1, 1]), chain())


# --- embeddings ----------------------------------------------------------------------------------


def unit_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Random directions, a third of them close to another one, some equal."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, width))
    third = count // 3
    noise = random.normal(size=(third, width)) * random.uniform(0, 0.6, (third, 1))
    vectors[-third:] = vectors[:third] + noise
    vectors[1] = vectors[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [5, 1500])
@pytest.mark.parametrize("grouped", [False, True])
def test_embeddings_are_compared_with_all(count, grouped):
    pytest.importorskip("faiss")
    vectors = unit_vectors(count, 16)
    groups = np.arange(count) % (count // 3) % 3 if grouped else None
    near = near_pairs_embedding(vectors, 0.9, groups)
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    wanted = np.triu(cosine >= 0.9, 1)
    if groups is not None:
        wanted &= groups[:, None] == groups[None]
    expected = {(one, other): cosine[one, other] for one, other in np.argwhere(wanted).tolist()}
    got = {(one, other): value for (one, other, _), value in of_pictures(near).items()}
    assert got.keys() == expected.keys()
    assert len(got) > count // 20
    for pair, value in got.items():
        assert value == pytest.approx(expected[pair], abs=1e-6)


def test_clusters_of_embeddings_say_the_cosine():
    pytest.importorskip("faiss")
    angles = np.radians([0, 10, 20, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    near = near_pairs_embedding(vectors, float(np.cos(np.radians(12))))
    found = clusters(np.array([1, 0, 2, 3]), near)
    assert found.representative.tolist() == [1, 1, 1, 3]
    assert found.reason(0, "b.png") == "cosine 0.985 from b.png"
    assert clusters(np.arange(4), near).representative.tolist() == [0, 0, 2, 3]


def test_equal_embeddings_are_one_look():
    pytest.importorskip("faiss")
    vectors = np.tile(unit_vectors(9, 8)[:2], (20_000, 1))
    near = near_pairs_embedding(vectors, 0.9)
    assert near.left.size == 0
    assert clusters(np.arange(len(vectors)), near).kept.sum() == 1


@pytest.mark.parametrize("wrong", [0.0, np.nan, 2.0])
def test_embeddings_must_have_length_one(wrong):
    pytest.importorskip("faiss")
    vectors = unit_vectors(6, 4)
    vectors[4] *= wrong
    with pytest.raises(InputError, match="of vector 4"):
        near_pairs_embedding(vectors, 0.9)


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"tastemaker\[faiss\]"):
        near_pairs_embedding(unit_vectors(6, 4), 0.9)
