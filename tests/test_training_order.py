"""Data order: an epoch is every id once, a step one bucket, all of it a pure function of k."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError
from tastemaker.records.run import Visit
from tastemaker.records.size import Size
from tastemaker.training.order import DataOrder, rank_slice

buckets = st.dictionaries(
    st.builds(Size, st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 23),
    min_size=1,
    max_size=5,
).filter(lambda counts: sum(counts.values()) > 0)


def ids_of(counts: dict[Size, int]) -> dict[Size, list[str]]:
    return {size: [f"{size}-{i}" for i in range(n)] for size, n in counts.items()}


@given(buckets, st.integers(1, 9), st.integers(0, 5))
def test_every_epoch_uses_every_id_exactly_once(counts, batch, seed):
    ids = ids_of(counts)
    order = DataOrder(ids, batch, seed)
    everyone = sorted(one for some in ids.values() for one in some)
    for epoch in range(3):
        first = epoch * order.steps_per_epoch
        visits = [v for k in range(order.steps_per_epoch) for v in order.step(first + k)]
        assert sorted(v.sample_id for v in visits) == everyone
        assert {v.visit for v in visits} == {epoch}
    assert order.samples == len(everyone)


@given(buckets, st.integers(1, 9), st.integers(0, 5))
def test_a_bucket_gives_whole_batches_and_one_with_the_remainder(counts, batch, seed):
    order = DataOrder(ids_of(counts), batch, seed)
    assert order.steps_per_epoch == sum(math.ceil(n / batch) for n in counts.values())
    for epoch in range(2):
        lengths: dict[Size, list[int]] = {}
        for k in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            lengths.setdefault(order.bucket(k), []).append(len(order.step(k)))
        for size, n in counts.items():
            remainder = [n % batch] if n % batch else []
            assert sorted(lengths.get(size, [])) == sorted([batch] * (n // batch) + remainder)


@given(buckets, st.integers(1, 9), st.integers(0, 5), st.data())
def test_a_step_is_of_one_bucket_and_needs_no_history(counts, batch, seed, data):
    ids = ids_of(counts)
    order = DataOrder(ids, batch, seed)
    expected = [order.step(k) for k in range(3 * order.steps_per_epoch)]
    k = data.draw(st.integers(0, len(expected) - 1))
    shuffled = {size: ids[size][::-1] for size in reversed(ids)}
    resumed = DataOrder(shuffled, batch, seed)
    assert [resumed.step(n) for n in range(k, len(expected))] == expected[k:]
    assert order.step(k) == expected[k]  # going back, after the last epoch
    assert {visit.sample_id for visit in expected[k]} <= set(ids[resumed.bucket(k)])


@pytest.mark.parametrize("world", [1, 2, 4])
@given(counts=buckets, batch=st.integers(1, 9), data=st.data())
def test_processes_split_one_sequence_also_after_a_resume(world, counts, batch, data):
    alone = DataOrder(ids_of(counts), batch, 0)
    steps = range(2 * alone.steps_per_epoch)
    first = data.draw(st.sampled_from(steps))
    ranks = [DataOrder(ids_of(counts), batch, 0) for _ in range(world)]
    for k in steps[first:]:
        parts = [rank_slice(order.step(k), rank, world) for rank, order in enumerate(ranks)]
        assert sum(parts, ()) == alone.step(k)
        lengths = [len(part) for part in parts]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] <= 1
        assert lengths[0] > 0


def test_a_remainder_smaller_than_the_world_leaves_some_without():
    visits = (Visit("a", 0), Visit("b", 0))
    assert [rank_slice(visits, rank, 4) for rank in range(4)] == [
        (visits[0],),
        (visits[1],),
        (),
        (),
    ]
    for rank, world in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match=f"rank {rank}"):
            rank_slice(visits, rank, world)


def test_the_seed_and_the_epoch_change_the_order():
    ids = {Size(64, 64): [f"a{i}" for i in range(16)], Size(32, 64): [f"b{i}" for i in range(16)]}
    first, other = DataOrder(ids, 4, 0), DataOrder(ids, 4, 1)
    assert [first.step(k) for k in range(8)] != [other.step(k) for k in range(8)]
    epochs = [[[v.sample_id for v in first.step(8 * e + k)] for k in range(8)] for e in range(2)]
    assert epochs[0] != epochs[1]


def test_buckets_are_mixed_within_an_epoch():
    order = DataOrder(
        {Size(1, 1): [f"a{i}" for i in range(64)], Size(2, 2): [f"b{i}" for i in range(64)]}, 4, 0
    )
    changes = sum(order.bucket(k) != order.bucket(k + 1) for k in range(order.steps_per_epoch - 1))
    assert changes > 8  # sorted buckets would change once


def test_the_remainder_comes_anywhere_in_an_epoch():
    order = DataOrder({Size(1, 1): [f"a{i}" for i in range(33)]}, 8, 0)
    small = [k % 5 for k in range(5 * 60) if len(order.step(k)) == 1]
    assert len(small) == 60
    assert min(Counter(small).values()) >= 3  # each of the five places, 12 times on average


def test_every_pair_meets_in_a_batch_at_some_time():
    order = DataOrder({Size(1, 1): list("abcde")}, 2, 0)
    batches = {frozenset(v.sample_id for v in order.step(k)) for k in range(3 * 60)}
    assert len([pair for pair in batches if len(pair) == 2]) == 10


def test_fewer_images_than_a_batch_are_a_smaller_batch():
    order = DataOrder({Size(1, 1): ["a", "b", "c"]}, 8, 0)
    assert order.steps_per_epoch == 1
    assert sorted(order.step(5), key=lambda v: v.sample_id) == [Visit(i, 5) for i in "abc"]


def test_buckets_may_have_more_to_their_keys_than_a_size():
    keys = {(Size(8, 8), 1): ["a", "b"], (Size(8, 8), 3): ["c"], (Size(4, 8), 1): ["d"]}
    order = DataOrder(keys, 2, 0)
    found = {order.bucket(k): {v.sample_id for v in order.step(k)} for k in range(3)}
    assert found == {key: set(ids) for key, ids in keys.items()}


def test_a_far_step_is_found_without_walking_there():
    order = DataOrder({Size(1, 1): ["a"], Size(2, 2): ["b", "c"]}, 8, 0)
    visits = order.step(10**9)
    assert {visit.visit for visit in visits} == {5 * 10**8}
    assert order.step(10**9) == visits


@pytest.mark.parametrize(
    ("ids", "batch", "text"),
    [
        ({}, 4, "no samples"),
        ({Size(1, 1): []}, 4, "no samples"),
        ({Size(1, 1): ["a", "a"]}, 4, "a twice"),
        ({Size(1, 1): ["a"], Size(2, 2): ["a"]}, 4, "a twice"),
        ({Size(1, 1): ["a"]}, 0, "at least 1"),
    ],
)
def test_impossible_data_is_refused(ids, batch, text):
    with pytest.raises(InputError, match=text):
        DataOrder(ids, batch, 0)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step -1"):
        DataOrder({Size(1, 1): ["a"]}, 1, 0).step(-1)
