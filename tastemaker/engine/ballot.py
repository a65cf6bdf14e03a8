"""Which pairs a rater sees next: one door for the rating of a collection and for studies."""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from threading import RLock

from tastemaker.records.ballot import Progress, Question, Shown, Side
from tastemaker.records.vote import Choice, Reason
from tastemaker.store.people import People
from tastemaker.store.people_tables import new_vote_id

_TURNS = 8
"""How often pairs are proposed before a page is told that there are none (ours): others may take
them at the same moment."""


class Ballot(ABC):
    """What is voted on, and in which order; one object serves all raters of a process.

    Attributes:
        study: as in votes.
        questions: what is asked.
        choices: answers that there are; `skip` is always one.
        instructions: what a rater reads first.
        most: votes that are wanted of each pair and question.
    """

    study: str
    questions: tuple[Question, ...]
    choices: tuple[Choice, ...]
    instructions: str
    most: int

    def __init__(self) -> None:
        self.lock = RLock()
        self.waiting: dict[str, deque[Shown]] = {}
        self.sides: dict[str, Sides] = {}

    @abstractmethod
    def text(self, prompt: str) -> str:
        """What stands above the pictures; empty for nothing."""

    @abstractmethod
    def picture(self, shown: Shown, side: Side) -> Path:
        """The picture of one side, for `store.images`.

        Raises:
            InputError: it is gone.
        """

    @abstractmethod
    def propose(self, people: People, rater: str, now: float) -> list[Shown]:
        """Some pairs for a rater, best first, with new ids; nothing when there is no more to do.

        Sets `sides[rater]`, which says who stands on the left when a pair is given out.
        """

    @abstractmethod
    def target(self, people: People, rater: str, now: float) -> int | None:
        """How many answers are wanted of a rater in all, those that are there included."""


def next_pairs(
    people: People,
    ballot: Ballot,
    rater: str,
    count: int,
    *,
    now: float,
    known: Collection[str] = (),
) -> list[Shown]:
    """Up to `count` pairs for a page that holds some already; nothing when there are no more.

    First come those that were given to this rater and not answered: a page that was closed goes on
    where it was, and a second tab shows the same pairs.

    Args:
        people: the votes; each new pair is on file, and leased, before it is returned.
        ballot: what is voted on.
        rater: for whom.
        count: how many at most.
        now: seconds since 1970.
        known: ids of votes for pairs that the page holds or has answered.
    """
    with ballot.lock:
        found = [s for s in people.held(ballot.study, rater, now=now) if s.vote_id not in known]
        found = found[:count]
        waiting = ballot.waiting.setdefault(rater, deque())
        turns = 0
        while len(found) < count and turns < _TURNS:
            if not waiting:
                turns += 1
                waiting.extend(ballot.propose(people, rater, now))
            if not waiting:
                break
            # One by one: the side depends on which of those before were really given.
            sides = ballot.sides[rater]
            candidate = sides.placed(waiting.popleft())
            for shown in people.lease([candidate], 1, most=ballot.most, now=now):
                sides.note(shown)
                found.append(shown)
        return found


def progress(
    people: People, ballot: Ballot, rater: str, *, now: float, since: float = 0.0
) -> Progress:
    """How far a rater has come, with the target; `since` is where `today` begins."""
    found = people.progress(ballot.study, rater, since=since)
    return replace(found, target=ballot.target(people, rater, now))


def lot(*parts: object) -> float:
    """A number in 0..1 that depends on these words alone."""
    digest = blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class Sides:
    """Who stands on the left: each side as often as the other, for each rater and question.

    Args:
        shown: what the rater has seen.
        seed: of the first of each two.
        rater: whose.
        of_models: balanced for each pair of models by itself; else, where each pair is shown once,
            for all pairs together.
    """

    def __init__(
        self, shown: Sequence[Shown], seed: int, rater: str, *, of_models: bool = True
    ) -> None:
        self._seed, self._rater, self._of_models = seed, rater, of_models
        self._lead: Counter[tuple[str, str]] = Counter()
        self._count = 0
        for one in shown:
            self.note(one)

    def placed(self, shown: Shown) -> Shown:
        """The pair with the side on the left that was there less often, else by lot.

        Repeats stay as they are: their sides are those of the first time, swapped.
        """
        if shown.reason == "repeat":
            return shown
        lead = self._lead[self._key(shown)]
        coin: Side = "a" if lot(self._seed, self._rater, self._count) < 0.5 else "b"
        side: Side = coin if lead == 0 else "b" if lead > 0 else "a"
        return replace(shown, left=side)

    def note(self, shown: Shown) -> None:
        """Count a pair that was given out."""
        self._count += 1
        if shown.reason != "repeat":
            self._lead[self._key(shown)] += 1 if shown.left == "a" else -1

    def _key(self, shown: Shown) -> tuple[str, str]:
        # Gold pairs for themselves: all their right sides are a.
        if shown.reason == "gold":
            return "gold", ""
        return shown.question, f"{shown.a}|{shown.b}" if self._of_models else ""


def show(
    ballot: Ballot,
    rater: str,
    question: str,
    pair: tuple[str, str],
    reason: Reason,
    prompt: str = "",
    expected: Side | None = None,
) -> Shown:
    """A pair with a new id; `Sides.placed` says who stands on the left."""
    a, b = pair
    return Shown(new_vote_id(), ballot.study, rater, question, prompt, a, b, "a", reason, expected)


def repeated(earlier: Shown) -> Shown:
    """The same pair again, with sides swapped."""
    return replace(
        earlier,
        vote_id=new_vote_id(),
        left="b" if earlier.left == "a" else "a",
        reason="repeat",
        repeat_of=earlier.vote_id,
    )


class Repeats:
    """Pairs of a rater that may be shown again: answered, not yet repeated, not just seen.

    Only blind ones: how often a rater agrees with himself stands beside how often a model is right
    about blind pairs, and pairs that were chosen for being close are harder.

    Args:
        shown: what the rater has seen, oldest first.
        answered: ids of the votes that chose or tied.
        apart: answers that must lie between (ours).
    """

    def __init__(self, shown: Sequence[Shown], answered: Collection[str], apart: int = 8) -> None:
        again = {one.repeat_of for one in shown if one.repeat_of}
        old = shown[: max(0, len(shown) - apart)]
        self._free = [
            one
            for one in old
            if one.vote_id in answered and one.vote_id not in again and one.reason == "random"
        ]

    def draw(self, point: float) -> Shown | None:
        """One of them, by a number in 0..1; each once."""
        if not self._free:
            return None
        return repeated(self._free.pop(int(point * len(self._free))))
