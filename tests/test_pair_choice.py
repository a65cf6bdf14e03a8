"""Which pairs are shown: connected first, then those that teach, in the shares asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tastemaker.engine.ballot import next_pairs, progress
from tastemaker.engine.rating_ballot import Rating
from tastemaker.stats.bradley_terry import Comparison, bradley_terry
from tastemaker.stats.pairing import Pair, active_pairs, first_pass, random_pairs, utilities
from tastemaker.store.people import People


@pytest.mark.parametrize("items", [2, 3, 10, 101])
def test_the_first_pass_shows_every_picture_once_and_then_connects_all(items: int) -> None:
    pairs = first_pass(items, np.random.default_rng(0))
    seen = Counter(item for pair in pairs[: items // 2] for item in pair)
    assert set(seen.values()) == {1}
    assert len(seen) == items - items % 2
    fitted = bradley_terry([Comparison(a, b, 1.0) for a, b in pairs])
    assert len(fitted.items) == items
    assert fitted.group.max() == 0
    assert len({frozenset(pair) for pair in pairs}) == items - 1


def test_active_pairs_are_new_neighbours() -> None:
    utility, error = np.arange(40.0), np.full(40, 0.1)
    compared = [(n, n + 1) for n in range(39)]
    pairs = active_pairs(utility, error, compared, np.random.default_rng(1))
    assert len(pairs) == 20
    assert len({item for pair in pairs for item in pair}) == 40
    assert all(2 <= abs(a - b) <= 6 for a, b in pairs)
    # What is not known is compared far and wide.
    wide = active_pairs(utility, np.full(40, 30.0), compared, np.random.default_rng(1))
    assert np.mean([abs(a - b) for a, b in wide]) > 6


def test_pairs_cross_groups_when_asked() -> None:
    clusters = np.repeat([0, 1], 20)
    # One group is better as a whole: neighbours are of one group but at the border.
    utility = np.concatenate([np.linspace(0, 1, 20), np.linspace(1.05, 2.05, 20)])

    def crossing(across: float) -> float:
        found = []
        for seed in range(20):
            random = np.random.default_rng(seed)
            pairs = active_pairs(utility, np.full(40, 0.15), [], random, clusters, across)
            found += [clusters[a] != clusters[b] for a, b in pairs]
        return float(np.mean(found))

    assert crossing(0.0) < 0.15
    assert crossing(0.8) > 0.25


def test_random_pairs_are_new_and_end() -> None:
    random = np.random.default_rng(0)
    assert random_pairs(3, [(0, 1), (2, 1)], 5, random) == [(0, 2)] or random_pairs(
        3, [(0, 1), (2, 1)], 5, random
    ) == [(2, 0)]
    assert random_pairs(1, [], 5, random) == []
    drawn = random_pairs(50, [], 400, random)
    assert len({frozenset(p) for p in drawn}) == 400
    assert set(Counter(i for p in drawn for i in p)) == set(range(50))


def test_unrated_items_have_the_priors_error() -> None:
    utility, error = utilities([Comparison("a", "b", 1.0), Comparison("a", "c", 0.5)], "abcd")
    assert utility[0] > 0 > utility[1]
    assert utility[2:].tolist() == [0, 0]
    assert error[2:] == pytest.approx(0.3**-0.5)
    assert (error[:2] < error[2]).all()


def simulated(
    tmp_path: Path, votes: int, seed: int, pictures: int = 60, **options
) -> tuple[Rating, People, float]:
    """Rate pictures of known utility through the whole door; Spearman of what is found."""
    utility = np.random.default_rng(seed).normal(0, 1.5, pictures)
    truth = {f"p{n:03d}": u for n, u in enumerate(utility)}
    ballot = Rating({id_: Path(id_) for id_ in truth}, seed=seed, **options)
    people = People(tmp_path / f"{seed}.sqlite")
    random = np.random.default_rng([seed, 1])
    known: list[str] = []
    for number in range(votes):
        (shown,) = next_pairs(people, ballot, "r", 1, now=float(number), known=known)
        chance = 1 / (1 + np.exp(truth[shown.b] - truth[shown.a]))
        choice = "a" if random.random() < chance else "b"
        people.answer(shown.vote_id, "r", choice, now=float(number))
    rows = [
        Comparison(v.vote.a, v.vote.b, float(v.vote.choice == "a"))
        for v in people.votes()
        if v.vote.reason != "gold"
    ]
    fitted = bradley_terry(rows)
    found = spearmanr(fitted.utility, [truth[str(i)] for i in fitted.items])
    return ballot, people, float(found.statistic)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not what is tested here."""
    import sqlite3

    from tastemaker.store import people_tables

    real = people_tables._set_up

    def set_up(db: sqlite3.Connection, path: Path) -> None:
        real(db, path)
        db.execute("PRAGMA synchronous = OFF")

    monkeypatch.setattr(people_tables, "_set_up", set_up)


def order_found(seed: int, active: bool, items: int = 150, each: int = 20) -> float:
    """Spearman of what is found of a known order after `each` comparisons of every item."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 1.5, items)
    rows: list[Comparison] = []
    compared: list[Pair] = []
    queue: list[Pair] = []
    while len(rows) < items * each // 2:
        if not rows:
            queue = first_pass(items, random)
        elif active:
            queue = active_pairs(*utilities(rows, range(items)), compared, random)
        else:
            queue = random_pairs(items, compared, items // 2, random)
        for a, b in queue:
            chance = 0.025 + 0.95 / (1 + np.exp(truth[b] - truth[a]))
            rows.append(Comparison(a, b, float(random.random() < chance)))
            compared.append((a, b))
    utility, _ = utilities(rows, range(items))
    return float(spearmanr(utility, truth).statistic)


def test_active_choice_orders_pictures_better_than_chance() -> None:
    """Each seed is its own control: both see the same truth and the same first pass."""
    active, blind = ([order_found(seed, how) for seed in range(2)] for how in (True, False))
    assert np.mean(active) > 0.9
    assert np.mean(active) > np.mean(blind)


def test_a_rating_by_the_whole_door_finds_the_order(tmp_path: Path, quick: None) -> None:
    _, people, found = simulated(tmp_path, 480, 0)
    people.close()
    assert found > 0.85


def test_reasons_have_their_shares_and_sides_are_balanced(tmp_path: Path, quick: None) -> None:
    gold = [(f"p{n:03d}", f"p{n + 1:03d}") for n in range(0, 100, 2)]
    _, people, _ = simulated(tmp_path, 700, 0, 120, gold=gold)
    votes = [stored.vote for stored in people.votes()]
    reasons = Counter(vote.reason for vote in votes)
    assert 0.02 < reasons["repeat"] / 700 < 0.08
    assert 0.02 < reasons["gold"] / 700 < 0.08
    # The first pass is blind as well.
    later = [vote.reason for vote in votes[140:] if vote.reason in ("random", "active")]
    assert 0.07 < later.count("random") / len(later) < 0.2
    fair = [vote.left for vote in votes if vote.reason in ("random", "active")]
    assert abs(fair.count("a") - fair.count("b")) <= 1
    shown = {one.vote_id: one for one in people.shown("rating")}
    for again in (one for one in shown.values() if one.reason == "repeat"):
        first = shown[str(again.repeat_of)]
        assert {again.a, again.b} == {first.a, first.b}
        assert again.sides == first.sides[::-1]
    pairs = Counter(frozenset((v.a, v.b)) for v in votes if v.reason in ("random", "active"))
    assert set(pairs.values()) == {1}
    people.close()


def test_a_page_that_is_closed_goes_on_and_two_tabs_see_the_same(
    tmp_path: Path, quick: None
) -> None:
    ballot = Rating({f"p{n}": Path(f"p{n}") for n in range(8)}, repeat_share=0.0)
    with People(tmp_path / "people.sqlite") as people:
        first = next_pairs(people, ballot, "r", 3, now=1.0)
        again = Rating({f"p{n}": Path(f"p{n}") for n in range(8)}, repeat_share=0.0)
        assert next_pairs(people, again, "r", 3, now=2.0) == first
        more = next_pairs(people, again, "r", 2, now=2.0, known=[s.vote_id for s in first])
        assert not {s.vote_id for s in more} & {s.vote_id for s in first}
        others = next_pairs(people, ballot, "other", 3, now=3.0)
        sides = [frozenset((s.a, s.b)) for s in (*first, *more, *others)]
        assert len(set(sides)) == len(sides)
        told = progress(people, ballot, "r", now=4.0)
        assert (told.done, told.target) == (0, 32)
        # All 28 pairs are given out, and then there is no more.
        rest = []
        while found := next_pairs(people, ballot, "r", 5, now=5.0, known=rest):
            for shown in found:
                people.answer(shown.vote_id, "r", "a", now=5.0)
                rest.append(shown.vote_id)
        assert len(rest) == 28 - len(others)
