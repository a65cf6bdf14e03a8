"""Comparisons from scores, votes and self-play; the common bucket of a pair."""

import random
from collections import Counter

import numpy as np
import pytest

from tastemaker.curation.buckets import SDXL_BUCKETS, assign, kept_area
from tastemaker.curation.pair_buckets import assign_pairs
from tastemaker.curation.played_pairs import OwnPicture, RealPicture, played_comparisons
from tastemaker.curation.scored_pairs import ScoredPicture, scored_comparisons
from tastemaker.curation.voted_pairs import Shown, voted_comparisons
from tastemaker.records.size import Size
from tastemaker.records.vote import Vote
from tastemaker.stats.votes import majority


def scored(name: str, value, prompt="cat", model="m", problem="") -> ScoredPicture:
    return ScoredPicture(name * 64, prompt, value, model, name, problem)


def compared(pictures, select="best_worst", within_model=False, higher=True):
    made = scored_comparisons(
        pictures,
        select=select,
        within_model=within_model,
        higher_is_better=higher,
        source="s",
    )
    return list(made)


def winner(one) -> str:
    return (one.first if one.label == 1 else one.second)[0]


def test_best_against_worst_and_all_against_all() -> None:
    three = [scored("a", 1.0), scored("b", 3.0), scored("c", 2.5)]
    (best,) = compared(three)
    assert (winner(best), {best.first[0], best.second[0]}, best.margin) == ("b", {"a", "b"}, 2.0)
    (low,) = compared(three, higher=False)
    assert (winner(low), low.margin) == ("a", 2.0)
    found = compared(three, "all")
    assert sorted((winner(one), one.margin) for one in found) == [
        ("b", 0.5), ("b", 2.0), ("c", 1.5),
    ]  # fmt: skip


def test_the_order_of_pictures_breaks_no_tie() -> None:
    equal = [scored(name, 2.0) for name in "abcd"]
    (tie,) = compared(equal)
    assert (tie.label, tie.margin) == (0.5, 0.0)
    assert tie.first != tie.second
    assert {one.label for one in compared(equal, "all")} == {0.5}
    # Several equally good ones: the choice is that of any other order, and no place is favoured.
    chosen = Counter()
    for number in range(200):
        prompt = f"prompt {number}"
        group = [scored(n, v, prompt) for n, v in (("a", 2.0), ("b", 2.0), ("c", 2.0), ("d", 1.0))]
        (one,) = compared(group)
        shuffled = random.Random(number).sample(group, len(group))
        (again,) = compared(shuffled)
        assert winner(one) == winner(again)
        assert dict(one.facts) == {"equally_best": "3"}
        chosen[winner(one)] += 1
    assert set(chosen) == {"a", "b", "c"}
    assert min(chosen.values()) > 40


def test_models_are_compared_among_themselves_when_asked() -> None:
    four = [
        scored("a", 1.0, model="x"), scored("b", 2.0, model="x"),
        scored("c", 5.0, model="y"), scored("d", 7.0, model="y"),
    ]  # fmt: skip
    assert [winner(one) for one in compared(four)] == ["d"]
    assert {winner(one) for one in compared(four, within_model=True)} == {"b", "d"}


@pytest.mark.parametrize(
    ("pictures", "problem"),
    [
        ([scored("a", None), scored("b", 1.0)], "no score"),
        ([scored("a", float("nan")), scored("b", 1.0)], "a score that is no number: nan"),
        ([scored("a", float("-inf")), scored("b", 1.0)], "a score that is no number: -inf"),
        ([scored("a", 1.0, problem="zero bytes"), scored("b", 1.0)], "zero bytes"),
    ],
)
def test_pictures_without_a_number_take_no_part(pictures, problem) -> None:
    found = {one.key: one.problem for one in compared(pictures)}
    assert found == {"a": problem, "b": "alone with its prompt"}


def test_the_same_picture_twice_is_one() -> None:
    twice = [scored("a", 1.0), ScoredPicture("a" * 64, "cat", 9.0, "m", "z"), scored("b", 2.0)]
    found = compared(twice)
    assert [one.problem for one in found] == ["the same picture twice: as a", ""]
    assert winner(found[1]) == "b"


def vote(choice="a", a="x", b="y", number=[0], **more) -> tuple[str, Vote]:  # noqa: B006
    number[0] += 1
    fields = {"id": f"v{number[0]}", "prompt": "p", "left": "a", "rater": f"r{number[0]}"}
    return f"line {number[0]}", Vote(**{**fields, "a": a, "b": b, "choice": choice, **more})


def asked(votes, texts=None, shown=lambda p, s: Shown(s * 64, "m", "own text"), **more):
    rules = {"question": "general", "both_bad": "drop", "least_votes": 1, "source": "s", **more}
    return list(voted_comparisons(votes, shown, {} if texts is None else texts, majority, **rules))


def test_the_majority_wins_whichever_way_round_it_was_asked() -> None:
    (one,) = asked([vote("a"), vote("b", "y", "x"), vote("b")], {"p": "a cat"})
    assert (one.first[0], one.label, one.prompt) == ("x", 1.0, "a cat")
    assert one.margin == pytest.approx(1 / 3)
    assert dict(one.facts) == {"votes": "3"}
    (tie,) = asked([vote("a"), vote("b")])
    assert (tie.label, tie.margin, tie.prompt) == (0.5, 0.0, "own text")


def test_votes_that_do_not_count_are_told() -> None:
    _, first = vote("a", rater="anna")
    votes = [
        ("1", first),
        ("2", first),
        vote("b", rater="anna"),
        vote("skip"),
        vote("b", reason="gold"),
        vote("b", question="looks"),
        ("7", "not JSON: x"),
    ]
    found = asked(votes)
    assert [one.problem for one in found] == [
        "a vote sent twice",
        "the same rater again",
        "skipped",
        "a gold pair",
        "another question: looks",
        "not JSON: x",
        "",
    ]
    assert found[-1].label == 1.0
    (few,) = asked([vote("a")], least_votes=2)
    assert few.problem == "fewer votes than asked for: 1"
    bad = [vote("both_bad"), vote("both_bad"), vote("a")]
    assert asked(bad)[0].problem == "neither is acceptable: 3 votes"
    assert (asked(bad, both_bad="tie")[0].problem, asked(bad, both_bad="tie")[0].label) == ("", 0.5)
    (textless,) = asked([vote("a")], shown=lambda p, s: Shown(s, "m", s))
    assert textless.problem == "no text of the prompt: p"
    (lost,) = asked([vote("a")], shown=lambda p, s: Shown("", problem="unknown id: x"))
    assert lost.problem == "unknown id: x"


def test_self_play() -> None:
    real = [RealPicture(n * 64, "a cat", n) for n in "ab"]
    real += [RealPicture("c" * 64, "", "c"), RealPicture("d" * 64, "a dog", "d")]
    own = [OwnPicture(str(n) * 64, "a cat", n, "theta0") for n in (1, 0)]
    own.append(OwnPicture("9" * 64, "a bird", 0, "theta0"))
    found = list(played_comparisons(real, own, losers="one", source="self_play"))
    pairs = [(one.first[0], one.second[0], one.label) for one in found if not one.problem]
    # Two pictures of one caption do not win against the same sample: they take turns.
    assert pairs == [("a", "0", 1.0), ("b", "1", 1.0)]
    assert Counter(one.problem for one in found if one.problem) == {
        "no caption": 1,
        "no sample of its caption": 1,
        "a sample of no real picture": 1,
    }
    every = list(played_comparisons(real, own, losers="all", source="self_play"))
    assert sum(not one.problem for one in every) == 4
    assert {one.models for one in every if not one.problem} == {("", "theta0")}


def test_a_pair_gets_the_bucket_that_loses_least_of_both() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(1024, 3000, (2, 200, 2))
    chosen = assign_pairs(first, second, SDXL_BUCKETS)
    for n, (a, b) in enumerate(zip(first, second, strict=True)):
        fitting = [
            (min(_kept(a, bucket), _kept(b, bucket)), i)
            for i, bucket in enumerate(SDXL_BUCKETS)
            if all(bucket[s] <= min(a[s], b[s]) for s in (0, 1))
        ]
        if not fitting:
            assert chosen[n] == -1
            continue
        best = max(share for share, _ in fitting)
        assert min(_kept(a, SDXL_BUCKETS[chosen[n]]), _kept(b, SDXL_BUCKETS[chosen[n]])) == (
            pytest.approx(best, abs=1e-12)
        )
    # Sides may be exchanged, and a pair of two equal sizes has the picture's own bucket.
    assert np.array_equal(chosen, assign_pairs(second, first, SDXL_BUCKETS))
    same, alone = assign_pairs(first, first, SDXL_BUCKETS), assign(first, SDXL_BUCKETS)
    shares = [
        kept_area(first, np.array([SDXL_BUCKETS[i] for i in found])) for found in (same, alone)
    ]
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-12)


def test_unknown_and_small_sizes_have_no_bucket() -> None:
    buckets = [Size(64, 64), Size(32, 64)]
    first, second = np.array([[0, 0], [40, 70], [64, 64]]), np.array([[64, 64], [80, 64], [31, 64]])
    assert assign_pairs(first, second, buckets).tolist() == [-1, 1, -1]
    assert assign_pairs(first, second, buckets, "nearest").tolist()[0] == -1
    assert -1 not in assign_pairs(first[1:], second[1:], buckets, "nearest")
    assert assign_pairs(first[:0], second[:0], buckets).tolist() == []
    with pytest.raises(ValueError, match="no buckets"):
        assign_pairs(first, second, [])


def _kept(size, bucket) -> float:
    ratio = (size[0] / size[1]) / (bucket[0] / bucket[1])
    return min(ratio, 1 / ratio)
