"""One shard on its way, without any process: every row ends, and only for its own faults."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.engine.trial import Attempt, Outcome, RowQuarantined, Trial
from tastemaker.errors import PictureError, StorageError

FAULTS = ("ok", "raises", "picture", "poison", "hangs", "raises once", "kills once")


def play(faults: Sequence[str]) -> tuple[list[Outcome[int]], list[tuple[int, int]]]:
    """Outcomes, and the calls that were made (first row, last row)."""
    trial: Trial[tuple[int, str], int] = Trial(7, list(enumerate(faults)))
    todo, calls, met = trial.pieces(), [], Counter()
    while todo:
        assert trial.done() is None
        piece = todo.pop(0)
        places = [place for place, _ in piece.rows]
        calls.append((places[0], places[-1]))
        todo = _step(trial, piece, met) + todo
    done = trial.done()
    assert done is not None
    assert (done.index, done.rows) == (7, list(enumerate(faults)))
    return done.outcomes, calls


def _step(trial: Trial, piece, met: Counter) -> list:
    """What a worker would do: the first row with a fault decides."""
    for place, fault in piece.rows:
        met[place] += 1
        if fault == "poison" or (fault == "kills once" and met[place] == 1):
            return trial.died(piece, "a signal")
        if fault == "hangs":
            return trial.died(piece, "too long", overdue=True)
        if fault == "raises" or (fault == "raises once" and met[place] == 1):
            return trial.settle(piece, Attempt(error=ValueError(str(place))))
        if fault == "picture":
            error = PictureError(place, "truncated", "a whole file", "Copy it again.")
            return trial.settle(piece, Attempt(error=error))
    return trial.settle(piece, Attempt([place**2 for place, _ in piece.rows]))


@given(st.lists(st.sampled_from(FAULTS), max_size=12))
def test_every_row_ends_for_its_own_faults(faults: list[str]) -> None:
    outcomes, calls = play(faults)
    expected = {
        "raises": ValueError, "picture": PictureError, "poison": RowQuarantined,
        "hangs": RowQuarantined,
    }  # fmt: skip
    for place, (fault, outcome) in enumerate(zip(faults, outcomes, strict=True)):
        if fault in expected:
            assert type(outcome.error) is expected[fault]
            assert outcome.value is None
        else:
            assert outcome.error is None
            assert outcome.value == place**2
        within = [call for call in calls if call[0] <= place <= call[1]]
        assert outcome.tries == len(within)
        # Two calls of the whole at most, then two of the row, and one more after an error.
        assert outcome.tries <= 5
        assert outcome.deaths <= outcome.tries
    assert len(calls) <= 2 + 3 * len(faults)


def test_how_often_each_fault_is_tried() -> None:
    assert play([])[1] == []
    assert play(["ok"] * 3)[1] == [(0, 2)]
    assert play(["ok", "picture"])[1] == [(0, 1), (0, 0), (1, 1)]
    assert play(["ok", "raises"])[1] == [(0, 1), (0, 0), (1, 1), (1, 1)]
    assert play(["poison", "ok"])[1] == [(0, 1), (0, 1), (0, 0), (0, 0), (1, 1)]
    # With its neighbours it has waited long enough once.
    assert play(["hangs", "ok"])[1] == [(0, 1), (0, 0), (0, 0), (1, 1)]
    # A shard of one row is that row alone.
    assert play(["picture"])[1] == [(0, 0)]
    assert play(["raises"])[1] == play(["poison"])[1] == play(["hangs"])[1] == [(0, 0), (0, 0)]


def test_an_error_after_a_death_still_gets_its_second_try() -> None:
    trial: Trial[int, int] = Trial(0, [5])
    (piece,) = trial.pieces()
    assert trial.died(piece, "a signal") == [piece]
    assert trial.settle(piece, Attempt(error=OSError("a hiccup"))) == [piece]
    assert trial.settle(piece, Attempt([25])) == []
    done = trial.done()
    assert done is not None
    assert done.outcomes == [Outcome(25, None, tries=3, deaths=1)]


def test_a_full_disk_is_no_outcome() -> None:
    trial: Trial[int, int] = Trial(0, [1, 2])
    with pytest.raises(StorageError):
        trial.settle(trial.pieces()[0], Attempt(error=StorageError("the disk is full")))
