"""Head-to-head rating of a collection: a connected first pass, then the pairs that teach most."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.engine.ballot import Ballot, Repeats, Sides, lot, show
from tastemaker.errors import InputError
from tastemaker.records.ballot import GENERAL, RATING, Shown, Side
from tastemaker.records.image import ImageRecord
from tastemaker.records.vote import Reason
from tastemaker.stats.bradley_terry import Comparison
from tastemaker.stats.pairing import Pair, active_pairs, first_pass, random_pairs, utilities
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.people import People, StoredVote
from tastemaker.store.vote_files import read_gold

_SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}

_GROUPS = 16


class Rating(Ballot):
    """The pictures of a pool, compared until one stops.

    Args:
        pictures: id -> path.
        groups: id -> group of content; for pairs across groups.
        gold: (better, worse) ids with a known answer.
        seed: of the pairs and sides.
        random_share: of pairs drawn blindly: the only ones that tell how good a model is.
        repeat_share: of pairs shown again to the same rater.
        gold_share: of pairs with a known answer.
        across: share of active pairs that cross groups of content.
        batch: pairs between two fits, at most half of the pictures (ours).
    """

    def __init__(
        self,
        pictures: dict[str, Path],
        groups: dict[str, int] | None = None,
        gold: Sequence[tuple[str, str]] = (),
        *,
        seed: int = 0,
        random_share: float = 0.125,
        repeat_share: float = 0.05,
        gold_share: float = 0.05,
        across: float = 0.3,
        batch: int = 256,
    ) -> None:
        super().__init__()
        self.study, self.questions, self.most = RATING, (GENERAL,), 1
        self.choices = ("a", "b", "tie", "both_bad", "skip")
        self.instructions = ""
        self._pictures = pictures
        self._ids = sorted(pictures)
        self._place = {id_: number for number, id_ in enumerate(self._ids)}
        self._gold = tuple(gold)
        self._groups = None if groups is None else np.array([groups[i] for i in self._ids])
        self._seed, self._across = seed, across
        self._random_share, self._repeat_share = random_share, repeat_share
        self._gold_share = gold_share
        self._batch = max(1, min(batch, len(pictures) // 2))
        self._first = first_pass(len(pictures), np.random.default_rng(seed))
        self._queue: deque[tuple[Pair, Reason]] = deque()

    @property
    def ids(self) -> tuple[str, ...]:
        """The pictures that are compared."""
        return tuple(self._ids)

    def text(self, prompt: str) -> str:
        """Nothing: a picture is judged by itself."""
        del prompt
        return ""

    def picture(self, shown: Shown, side: Side) -> Path:
        """Where a side's picture lies."""
        id_ = shown.a if side == "a" else shown.b
        if id_ not in self._pictures:
            raise InputError("rating", f"the picture {id_[:12]}", "one of the pool", "Reload.")
        return self._pictures[id_]

    def target(self, people: People, rater: str, now: float) -> int | None:
        """Eight comparisons a picture, by all raters together (ours)."""
        del people, rater, now
        return 4 * len(self._ids)

    def propose(self, people: People, rater: str, now: float) -> list[Shown]:
        """Eight pairs: mostly from the common queue, some repeated, some gold."""
        mine = people.shown(RATING, rater)
        votes = people.votes(RATING, rater)
        answered = {v.vote.id for v in votes if v.vote.choice != "skip"}
        repeats = Repeats(mine, answered)
        self.sides[rater] = Sides(mine, self._seed, rater, of_models=False)
        unseen = [g for g in self._gold if g not in {(s.a, s.b) for s in mine}]
        question = GENERAL.name
        found: list[Shown] = []
        for number in range(len(mine), len(mine) + 8):
            point = lot(self._seed, rater, "reason", number)
            again = None
            if point < self._repeat_share:
                again = repeats.draw(point / self._repeat_share)
            if again is not None:
                found.append(again)
                continue
            if unseen and self._repeat_share <= point < self._repeat_share + self._gold_share:
                pair = unseen.pop(int(lot(self._seed, rater, "gold", number) * len(unseen)))
                found.append(show(self, rater, question, pair, "gold", expected="a"))
                continue
            if not self._queue:
                self._queue.extend(self._plan(people.votes(RATING), people.held_pairs(RATING, now)))
            if not self._queue:
                break
            (one, other), reason = self._queue.popleft()
            pair = (self._ids[one], self._ids[other])
            found.append(show(self, rater, question, pair, reason))
        return found

    def _plan(
        self, votes: Sequence[StoredVote], held: Sequence[tuple[str, str]]
    ) -> list[tuple[Pair, Reason]]:
        """The next pairs for everybody, from all answers so far."""
        known = [v.vote for v in votes if v.vote.a in self._place and v.vote.b in self._place]
        sides = [(v.a, v.b) for v in known if v.reason != "gold"]
        sides += [(a, b) for a, b in held if a in self._place and b in self._place]
        compared = {_sorted((self._place[a], self._place[b])) for a, b in sides}
        left = [pair for pair in self._first if _sorted(pair) not in compared]
        if left:
            return [(pair, "random") for pair in left[: self._batch]]
        # The number of answers is in the seed: every batch draws anew, and a restart as before.
        random = np.random.default_rng([self._seed, len(known)])
        comparisons = [
            Comparison(v.a, v.b, _SCORE[v.choice])
            for v in known
            if v.choice in _SCORE and v.reason != "gold"
        ]
        utility, error = utilities(comparisons, self._ids)
        pairs = active_pairs(utility, error, compared, random, self._groups, self._across)
        pairs = pairs[: self._batch]
        blind = round(self._batch * self._random_share)
        drawn = random_pairs(len(self._ids), [*compared, *pairs], blind, random)
        mixed: list[tuple[Pair, Reason]] = [(pair, "active") for pair in pairs]
        mixed.extend((pair, "random") for pair in drawn)
        return [mixed[n] for n in random.permutation(len(mixed)).tolist()]


def _sorted(pair: Pair) -> Pair:
    return (min(pair), max(pair))


def open_rating(
    collection: Path | str,
    selection: Path | str | None = None,
    *,
    pool: int = 2000,
    seed: int = 0,
    column: str | None = None,
    gold: Path | str | None = None,
    **shares: Any,
) -> Rating:
    """The rating of a collection's readable pictures.

    Args:
        collection: its folder.
        selection: only these pictures.
        pool: at most so many, by lot (ours): a model tells of the others.
        seed: of pool, pairs and sides.
        column: embeddings that tell groups of content apart; by default `embedding`, where the
            collection has it.
        gold: a JSONL or CSV file of `better` and `worse` ids.
        shares: as of `Rating`.

    Raises:
        InputError: fewer than two pictures, or no such column.
    """
    from tastemaker.store.selections import read_selection

    catalogue = Catalogue(collection)
    wanted = None if selection is None else set(read_selection(Path(selection)).ids)
    records: dict[str, ImageRecord] = {
        record.id: record
        for record in catalogue.records()
        if record.status == "ok" and (wanted is None or record.id in wanted)
    }
    chosen = sorted(records, key=lambda id_: lot(seed, id_))[:pool]
    if len(chosen) < 2:
        raise InputError(
            collection, f"{len(chosen)} pictures", "at least 2 to compare", "Collect some more."
        )
    pairs = read_gold(gold) if gold is not None else []
    for id_ in (id_ for pair in pairs for id_ in pair):
        if id_ not in records:
            raise InputError(gold, f"the picture {id_}", "one of the collection", "Correct it.")
    chosen += [i for i in dict.fromkeys(i for pair in pairs for i in pair) if i not in chosen]
    pictures = {id_: catalogue.picture_path(records[id_]) for id_ in chosen}
    return Rating(pictures, _groups(catalogue, pictures, column), pairs, seed=seed, **shares)


def _groups(
    catalogue: Catalogue, pictures: dict[str, Path], column: str | None
) -> dict[str, int] | None:
    from tastemaker.curation.embedding_clusters import cluster_numbers
    from tastemaker.store.embeddings import find_embeddings

    found = find_embeddings(catalogue, column or "embedding", optional=column is None)
    if found is None:
        return None
    numbers = cluster_numbers(found.vectors, _GROUPS)
    groups = dict(zip(found.ids, numbers.tolist(), strict=True))
    # What has no embedding is a group of its own.
    return {id_: groups.get(id_, -1) for id_ in pictures}
