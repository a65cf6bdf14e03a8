"""What happens to one shard until each of its rows has an outcome; knows no process, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tastemaker.errors import InputError, StorageError, TastemakerError

Row = TypeVar("Row")
Value = TypeVar("Value")

_MOST_ERRORS = 2
_MOST_DEATHS = 2


class RowQuarantined(TastemakerError):
    """A row killed its worker each time that it was tried alone."""


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What became of one row: a value, or the error of its last try.

    Attributes:
        value: what the function gave; None when there is an error.
        error: why there is no value; None when there is one.
        tries: how often it was tried, in its shard and alone.
        deaths: how many workers died meanwhile, through it or through a neighbour in its shard.
    """

    value: Value | None
    error: Exception | None
    tries: int = 1
    deaths: int = 0

    def unwrap(self) -> Value:
        """The value.

        Raises:
            Exception: the row's error.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


@dataclass(frozen=True)
class RowsDone(Generic[Row, Value]):
    """A finished shard.

    Attributes:
        index: place of the shard among those given.
        rows: the shard, as it was given.
        outcomes: one a row, in their order.
    """

    index: int
    rows: Sequence[Row]
    outcomes: list[Outcome[Value]]


@dataclass(frozen=True)
class Attempt:
    """What one call of the function gave: a value a row, or the error that it raised."""

    values: Sequence[Any] = ()
    error: Exception | None = None


@dataclass
class Piece(Generic[Row, Value]):
    """Rows `start` to `stop` of a shard, which are tried in one call: all of them, or one."""

    trial: "Trial[Row, Value]"
    start: int
    stop: int
    errors: int = 0
    deaths: int = 0

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of the call."""
        return self.trial.rows[self.start : self.stop]


class Trial(Generic[Row, Value]):
    """One shard on its way.

    An error of several rows: each is tried alone. Of one row: it is tried once more, unless it is
    an `InputError` (the same input fails again), then the error is its outcome. A death on several
    rows: they are tried together once more, then each alone. On one row: once more, then it is
    quarantined.

    Args:
        index: place of the shard.
        rows: the shard.
    """

    def __init__(self, index: int, rows: Sequence[Row]) -> None:
        self.index, self.rows = index, rows
        self._outcomes: dict[int, Outcome[Value]] = {}
        self._tries = [0] * len(rows)
        self._deaths = [0] * len(rows)

    def pieces(self) -> list[Piece[Row, Value]]:
        """What to try first: the whole; nothing of an empty shard."""
        return [Piece(self, 0, len(self.rows))] if len(self.rows) else []

    def settle(self, piece: Piece[Row, Value], attempt: Attempt) -> list[Piece[Row, Value]]:
        """Take what a call gave; the answer is what to try next.

        Raises:
            StorageError: the function's own: every further shard would fail alike.
        """
        self._count(self._tries, piece)
        error = attempt.error
        if error is None:
            for place, value in zip(range(piece.start, piece.stop), attempt.values, strict=True):
                self._end(place, value, None)
            return []
        if isinstance(error, StorageError):
            raise error
        if piece.stop - piece.start > 1:
            return self._singles(piece)
        piece.errors += 1
        if piece.errors < _MOST_ERRORS and not isinstance(error, InputError):
            return [piece]
        self._end(piece.start, None, error)
        return []

    def died(
        self, piece: Piece[Row, Value], why: str, *, overdue: bool = False
    ) -> list[Piece[Row, Value]]:
        """Take that the worker died on the piece; the answer is what to try next.

        Args:
            piece: what it was at.
            why: what is known of the cause; it becomes a note of the error.
            overdue: it was killed for its slowness; several rows are not tried together again.
        """
        self._count(self._tries, piece)
        self._count(self._deaths, piece)
        piece.deaths += 1
        alone = piece.stop - piece.start == 1
        if piece.deaths < _MOST_DEATHS and (alone or not overdue):
            return [piece]
        if not alone:
            return self._singles(piece)
        # The text is the same in every run and for every runner; what differs stands in the note.
        error = RowQuarantined(
            f"{_MOST_DEATHS} worker processes in turn died on this row alone: out of memory, "
            "a crash in a native library, or the time limit"
        )
        error.add_note(why)
        self._end(piece.start, None, error)
        return []

    def done(self) -> RowsDone[Row, Value] | None:
        """The finished shard, or None while rows are without an outcome."""
        count = len(self.rows)
        if len(self._outcomes) < count:
            return None
        return RowsDone(self.index, self.rows, [self._outcomes[place] for place in range(count)])

    def _singles(self, piece: Piece[Row, Value]) -> list[Piece[Row, Value]]:
        return [Piece(self, place, place + 1) for place in range(piece.start, piece.stop)]

    def _count(self, counts: list[int], piece: Piece[Row, Value]) -> None:
        for place in range(piece.start, piece.stop):
            counts[place] += 1

    def _end(self, place: int, value: Value | None, error: Exception | None) -> None:
        self._outcomes[place] = Outcome(value, error, self._tries[place], self._deaths[place])
