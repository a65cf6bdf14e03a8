"""Data order: nothing dropped or favoured, one bucket a step, a pure function of the step."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError
from tastemaker.records.size import Size
from tastemaker.training.order import DataOrder

buckets = st.dictionaries(
    st.builds(Size, st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 23),
    min_size=1,
    max_size=5,
).filter(lambda counts: sum(counts.values()) > 0)


def ids_of(counts: dict[Size, int]) -> dict[Size, list[str]]:
    return {size: [f"{size}-{i}" for i in range(n)] for size, n in counts.items()}


@given(buckets, st.integers(1, 9), st.integers(0, 5), st.integers(1, 4))
def test_every_epoch_uses_every_id_and_none_too_often(counts, batch, seed, epochs):
    ids = ids_of(counts)
    order = DataOrder(ids, batch, seed)
    steps = [order.step(k) for k in range(order.steps_until(epochs))]
    uses = Counter(visit.sample_id for step in steps for visit in step)
    assert uses.keys() == {one for some in ids.values() for one in some}
    assert min(uses.values()) >= epochs
    for some in ids.values():
        used = [uses[one] for one in some]
        assert sum(used) - epochs * len(some) < batch  # used early: less than one batch
        assert not used or max(used) - min(used) <= 1  # nobody is favoured


@given(buckets, st.integers(1, 9), st.integers(0, 5))
def test_visits_count_the_earlier_uses_without_a_gap(counts, batch, seed):
    order = DataOrder(ids_of(counts), batch, seed)
    seen: dict[str, list[int]] = {}
    for k in range(order.steps_until(3)):
        for visit in order.step(k):
            seen.setdefault(visit.sample_id, []).append(visit.visit)
    assert all(visits == list(range(len(visits))) for visits in seen.values())


@given(buckets, st.integers(1, 9), st.integers(0, 5), st.data())
def test_a_step_is_whole_of_one_bucket_and_needs_no_history(counts, batch, seed, data):
    ids = ids_of(counts)
    order = DataOrder(ids, batch, seed)
    expected = [order.step(k) for k in range(order.steps_until(3))]
    k = data.draw(st.integers(0, len(expected) - 1))
    shuffled = {size: ids[size][::-1] for size in reversed(ids)}
    fresh = DataOrder(shuffled, batch, seed)
    assert fresh.step(k) == expected[k]
    assert order.step(k) == expected[k]  # going back, after the last epoch
    assert len(expected[k]) == batch
    assert {visit.sample_id for visit in expected[k]} <= set(ids[fresh.bucket(k)])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_steps_of_epochs_follow_the_rule_in_the_docstring(lengths, batch):
    order = DataOrder(ids_of({Size(1, n): m for n, m in enumerate(lengths)}), batch, 0)
    for epochs in range(5):
        assert order.steps_until(epochs) == sum(math.ceil(epochs * n / batch) for n in lengths)
    assert order.steps_per_epoch == order.steps_until(1)


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


def test_fewer_images_than_a_batch_come_again_in_the_same_step():
    order = DataOrder({Size(1, 1): ["a", "b", "c"]}, 8, 0)
    uses = Counter(visit.sample_id for visit in order.step(0))
    assert sorted(uses.values()) == [2, 3, 3]
    assert len({(v.sample_id, v.visit) for v in order.step(0)}) == 8  # different draws


def test_a_far_step_is_found_without_walking_there():
    order = DataOrder({Size(1, 1): ["a"], Size(2, 2): ["b", "c"]}, 8, 0)
    visits = order.step(10**9)
    assert len(visits) == 8
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
