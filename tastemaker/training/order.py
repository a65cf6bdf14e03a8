"""Which samples each step trains on: a pure function of its number, so a resume needs no state."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np

from tastemaker.errors import InputError
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit
from tastemaker.records.size import Size


class DataOrder:
    """Batches of one bucket each; every sample is used equally often and none is dropped.

    Each bucket is an endless stream: a permutation of its ids (pass 0), then another (pass 1), and
    so on. Batch j of a bucket is positions [j*batch, (j+1)*batch) of its stream. So a batch that
    reaches the end of a pass is topped up with the first ids of the next pass, and the bucket's
    next batch *goes on after them*: they are used early, not once more. A bucket with fewer ids
    than `batch` fills a batch from several passes. The n-th use of an id is always in pass n,
    hence `Visit.visit` is the pass.

    By the end of epoch e (from 0) bucket b has given ceil((e+1) * len(b) / batch) batches: every
    id of the run was used at least e+1 times, and the ids used once more number fewer than `batch`
    per bucket. A bucket that has worked ahead gives fewer batches later, so small buckets weigh no
    more than large ones. Within an epoch the buckets' batches are shuffled.

    The order depends on the ids, the batch and the seed, not on the order in which ids were given.
    It does not depend on micro-batches or processes: those split the batch that a step returns.
    """

    def __init__(self, ids_by_bucket: Mapping[Size, Sequence[str]], batch: int, seed: int) -> None:
        """Take the ids of every bucket; empty buckets are allowed as long as one is not.

        Raises:
            InputError: no ids, an id given twice, or a batch below 1.
        """
        if batch < 1:
            raise InputError("batch", batch, "at least 1", "Give a positive batch size.")
        self.batch, self.seed = batch, seed
        buckets = sorted((size, sorted(ids)) for size, ids in ids_by_bucket.items() if ids)
        self.sizes = tuple(size for size, _ in buckets)
        self.ids = tuple(tuple(ids) for _, ids in buckets)
        self.samples = sum(map(len, self.ids))
        _check_ids(self.ids)
        self._lengths = np.array([len(ids) for ids in self.ids], dtype=np.int64)
        # Memories of pure functions: forgetting them would change no answer.
        self._pass = lru_cache(maxsize=3 * len(buckets))(self._draw_pass)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._last_epoch = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch; a later one has as many or, after batches topped up, fewer."""
        return self.steps_until(1)

    def steps_until(self, epochs: int) -> int:
        """Steps after which every id was used at least `epochs` times."""
        return int(self._batches_until(epochs).sum())

    def step(self, k: int) -> tuple[Visit, ...]:
        """The `batch` samples of step `k` (from 0), all of one bucket.

        Raises:
            ValueError: `k` is negative.
        """
        bucket, number = self._locate(k)
        visits: list[Visit] = []
        place, end = number * self.batch, (number + 1) * self.batch
        while place < end:
            visit, row = divmod(place, len(self.ids[bucket]))
            some = self._pass(bucket, visit)[row : row + end - place]
            visits += [Visit(sample_id, visit) for sample_id in some]
            place += len(some)
        return tuple(visits)

    def bucket(self, k: int) -> Size:
        """The size that all samples of step `k` have."""
        return self.sizes[self._locate(k)[0]]

    def _locate(self, k: int) -> tuple[int, int]:
        """Bucket of step `k`, and how many batches that bucket has given before it."""
        if k < 0:
            raise ValueError(f"step {k}: expected 0 or more")
        epoch = self._epoch(self._last_epoch)
        if not epoch.first <= k < epoch.first + len(epoch.turns):
            self._last_epoch = self._epoch_of(k)
            epoch = self._epoch(self._last_epoch)
        return epoch.turns[k - epoch.first]

    def _epoch_of(self, k: int) -> int:
        """The epoch e with steps_until(e) <= k < steps_until(e + 1), by bisection."""
        low = k // self.steps_per_epoch  # no epoch is longer than the first
        high = low + 1
        while self.steps_until(high) <= k:
            high = 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.steps_until(middle) <= k else (low, middle)
        return low

    def _batches_until(self, epochs: int) -> np.ndarray:
        """Batches that each bucket has given after so many epochs."""
        return -(-epochs * self._lengths // self.batch)

    def _draw_epoch(self, epoch: int) -> "_Epoch":
        given = self._batches_until(epoch)
        counts = self._batches_until(epoch + 1) - given
        turns = np.repeat(np.arange(len(counts)), counts)
        generator = Draw(self.seed, "bucket order", "all", epoch).generator()
        numbers = [count(int(n)) for n in given]
        shuffled = [int(bucket) for bucket in generator.permutation(turns)]
        return _Epoch(int(given.sum()), [(bucket, next(numbers[bucket])) for bucket in shuffled])

    def _draw_pass(self, bucket: int, number: int) -> list[str]:
        """One permutation of a bucket's ids."""
        ids = self.ids[bucket]
        generator = Draw(self.seed, "data order", str(self.sizes[bucket]), number).generator()
        return [ids[row] for row in generator.permutation(len(ids))]


class _Epoch(NamedTuple):
    """The steps of one epoch: the number of the first, and each one's bucket and batch in it."""

    first: int
    turns: list[tuple[int, int]]


def _check_ids(ids: tuple[tuple[str, ...], ...]) -> None:
    if not ids:
        raise InputError(
            "training data", "no samples", "at least one", "Check the selection and the cache step."
        )
    seen: set[str] = set()
    for sample_id in (one for bucket in ids for one in bucket):
        if sample_id in seen:
            raise InputError(
                "training data",
                f"{sample_id} twice",
                "every id once, in one bucket",
                "Remove the repeated id from the selection.",
            )
        seen.add(sample_id)
