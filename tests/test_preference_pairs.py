"""Comparisons to pairs: ties, margins, repeats, models, the split; every drop has a reason."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tastemaker.curation.pair_choice import (
    PairRules,
    choose_pairs,
    margin_quantiles,
    plain_prompt,
    split_prompts,
)
from tastemaker.records.pair import Comparison

A, B, C = "a" * 64, "b" * 64, "c" * 64


def said(prompt="cat", first=A, second=B, label=1.0, key="k", **more) -> Comparison:
    return Comparison(key, prompt, first, second, label, "test", **more)


def reasons(choice) -> dict[str, int]:
    return dict(Counter(one.reason for one in choice.dropped))


def test_the_preferred_one_wins_whichever_side_it_was_on() -> None:
    for one in (said(), said(first=B, second=A, label=0.0)):
        (pair,) = choose_pairs([one], PairRules(held_out=0)).pairs
        assert (pair.winner, pair.loser, pair.label, pair.prompt) == (A, B, 1.0, "cat")


def test_turning_a_preference_round_exchanges_sides_and_keeps_the_id() -> None:
    (pair,) = choose_pairs([said(models=("x", "y"))], PairRules()).pairs
    (turned,) = choose_pairs([said(label=0.0, models=("x", "y"))], PairRules()).pairs
    assert turned.id == pair.id
    assert (turned.winner, turned.loser) == (pair.loser, pair.winner)
    assert (turned.fact("winner_model"), turned.fact("loser_model")) == ("y", "x")
    # Another prompt, or another picture, is another pair.
    others = [said(prompt="dog"), said(second=C)]
    assert len({pair.id, *(choose_pairs([o], PairRules()).pairs[0].id for o in others)}) == 3


def test_ties_are_dropped_or_halved_and_never_preferred() -> None:
    tie = said(label=0.5)
    dropped = choose_pairs([tie], PairRules())
    assert (dropped.pairs, reasons(dropped)) == ((), {"tie": 1})
    (pair,) = choose_pairs([tie], PairRules(ties="half", least_margin=3.0)).pairs
    assert pair.label == 0.5
    mirrored = said(first=B, second=A, label=0.5)
    assert choose_pairs([mirrored], PairRules(ties="half")).pairs[0] == replace(pair)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (said(second=A), "a picture with itself"),
        (said(second=""), "a picture that is not usable"),
        (said(prompt="  "), "no prompt"),
        (said(label=None), "no answer"),
        (said(label=0.7), "a label that is none"),
        (said(label=float("nan")), "a label that is none"),
        (said(margin=float("nan")), "a margin that is none"),
        (said(margin=float("inf")), "a margin that is none"),
        (said(margin=-1.0), "a margin that is none"),
        (said(problem="no such file: x.png"), "no such file"),
        (said(prompt="The  CAT of tests"), "prompt of the evaluation"),
    ],
)
def test_what_is_no_comparison_has_its_reason(one: Comparison, reason: str) -> None:
    choice = choose_pairs([one], PairRules(ties="half"), ["the cat of Tests"])
    assert choice.pairs == ()
    assert [(d.reason, d.key, d.source) for d in choice.dropped] == [(reason, "k", "test")]


def test_margins() -> None:
    every = [said(prompt=f"p{n}", margin=n / 10, key=str(n)) for n in range(11)]
    choice = choose_pairs([*every, said(prompt="q")], PairRules(least_margin=0.5))
    assert reasons(choice) == {"margin too small": 5, "margin unknown": 1}
    assert choice.margins["all"]["count"] == 11
    assert choice.margins["all"]["p50"] == pytest.approx(0.5)
    assert (choice.margins["kept"]["min"], choice.margins["kept"]["max"]) == (0.5, 1.0)
    assert {d.limit for d in choice.dropped} == {"0.5"}
    assert margin_quantiles([3.0])["p05"] == 3.0


def test_models() -> None:
    rules = {"same_model": True, "model_contains": "dream"}
    every = [
        said(prompt="1", models=("dreamlike", "dreamlike")),
        said(prompt="2", models=("dreamlike", "dreamy")),
        said(prompt="3", models=("sdxl", "sdxl")),
        said(prompt="4", models=("dreamlike", "")),
    ]
    both = choose_pairs(every, PairRules(**rules))
    assert [pair.prompt for pair in both.pairs] == ["1"]
    assert reasons(both) == {"two models": 1, "other models": 1, "model unknown": 1}
    either = choose_pairs(every, PairRules(model_contains="dream"))
    assert {pair.prompt for pair in either.pairs} == {"1", "2"}


def test_where_asks_for_facts_and_keeps_those_that_are_named() -> None:
    every = [said(prompt=s, facts=(("split", s), ("url", "u"))) for s in ("train", "test")]
    choice = choose_pairs([*every, said(prompt="none")], PairRules(where={"split": "train"}))
    assert [pair.facts for pair in choice.pairs] == [(("split", "train"),)]
    assert reasons(choice) == {"not where split": 2}


def test_margins_against_the_majority_are_no_margin_for_it() -> None:
    three = [
        said(label=label, margin=margin, key=str(n))
        for n, (label, margin) in enumerate(((1.0, 0.1), (1.0, 0.1), (0.0, 0.9)))
    ]
    (pair,) = choose_pairs(three, PairRules()).pairs
    assert (pair.winner, pair.label, pair.margin) == (A, 1.0, 0.0)


def test_repeats_are_merged_by_their_mean_or_kept() -> None:
    three = [said(key="1"), said(first=B, second=A, label=0.0, key="2"), said(label=0.0, key="3")]
    merged = choose_pairs(three, PairRules(held_out=0))
    assert [(p.winner, p.label) for p in merged.pairs] == [(A, 1.0)]
    assert reasons(merged) == {"merged with the same comparison": 2}
    assert merged.contradicted == 1
    kept = choose_pairs(three, PairRules(repeats="keep"))
    assert Counter(p.winner for p in kept.pairs) == {A: 2, B: 1}
    assert len({p.id for p in kept.pairs}) == 3
    # As many for one as for the other: nobody has won.
    even = [said(), said(label=0.0, key="2")]
    assert reasons(choose_pairs(even, PairRules()))["tie"] == 1
    (pair,) = choose_pairs(even, PairRules(ties="half")).pairs
    assert (pair.label, pair.margin) == (0.5, 0.0)
    # Margins count with their direction.
    with_margins = [said(margin=3.0), said(margin=2.0, key="2"), said(margin=2.0, label=0.0)]
    assert choose_pairs(with_margins, PairRules()).pairs[0].margin == pytest.approx(1.0)


def test_caps_are_by_hash_and_count_what_goes() -> None:
    every = [said(second=f"{n:064x}", prompt=p) for n in range(1, 7) for p in ("x", "y")]
    choice = choose_pairs(every, PairRules(most_per_prompt=2))
    assert Counter(pair.prompt for pair in choice.pairs) == {"x": 2, "y": 2}
    assert reasons(choice) == {"enough of its prompt": 8}
    limited = choose_pairs(every, PairRules(limit=5))
    assert len(limited.pairs) == 5
    assert reasons(limited) == {"enough pairs": 7}
    more = choose_pairs(every, PairRules(limit=6))
    assert {p.id for p in limited.pairs} < {p.id for p in more.pairs}


def test_the_split_is_by_prompt_and_by_nothing_else() -> None:
    prompts = [f"prompt {n}" for n in range(4000)]
    sides = split_prompts(prompts, 0.1)
    share = sum(side == "heldout" for side in sides.values()) / len(sides)
    # 4 standard errors of a share of 0.1 among 4000.
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert all(split_prompts([p, "x", "y"], 0.1)[p] == sides[p] for p in prompts[:2])
    larger = split_prompts(prompts, 0.2)
    assert {p for p in prompts if sides[p] == "heldout"} < {
        p for p in prompts if larger[p] == "heldout"
    }
    assert (
        split_prompts(["A  cat", "a cat "], 0.5)["A  cat"] == split_prompts(["a CAT"], 0.5)["a CAT"]
    )
    assert plain_prompt(" A  Cat\n") == "a cat"
    # Of a few prompts one is held out, one is not, and one prompt alone is trained on.
    assert sorted(split_prompts(["x", "y"], 0.01).values()) == ["heldout", "train"]
    assert sorted(split_prompts(["x", "y"], 0.99).values()) == ["heldout", "train"]
    assert set(split_prompts(prompts, 0.0).values()) == {"train"}
    every = [said(prompt=p, second=f"{n:064x}") for p in prompts[:50] for n in range(1, 4)]
    pairs = choose_pairs(every, PairRules(held_out=0.3)).pairs
    by_prompt: dict[str, set[str]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, set()).add(pair.split)
    assert {len(sides) for sides in by_prompt.values()} == {1}
    assert {side for sides in by_prompt.values() for side in sides} == {"train", "heldout"}


_SOME = st.builds(
    said,
    prompt=st.sampled_from(["cat", "dog", " "]),
    first=st.sampled_from([A, B, C, ""]),
    second=st.sampled_from([A, B, C]),
    label=st.sampled_from([0.0, 0.5, 1.0, None]),
    margin=st.sampled_from([None, 0.0, 1.0, 2.0]),
    key=st.sampled_from("xyz"),
    models=st.sampled_from([("m", "m"), ("m", "n"), ("", "m")]),
)
_RULES = st.builds(
    PairRules,
    ties=st.sampled_from(["drop", "half"]),
    least_margin=st.sampled_from([0.0, 1.5]),
    same_model=st.booleans(),
    repeats=st.sampled_from(["merge", "keep"]),
    limit=st.sampled_from([None, 1]),
)


@given(st.lists(_SOME, max_size=12), _RULES, st.integers(0, 99))
def test_no_order_matters_and_nothing_is_lost(every, rules, seed) -> None:
    choice = choose_pairs(every, rules)
    assert len(choice.pairs) + len(choice.dropped) == len(every) == choice.compared
    shuffled = random.Random(seed).sample(every, len(every))
    again = choose_pairs(shuffled, rules)
    assert again.pairs == choice.pairs
    assert reasons(again) == reasons(choice)
    assert len({pair.id for pair in choice.pairs}) == len(choice.pairs)


@pytest.mark.parametrize(
    "fields", [{"ties": "first"}, {"least_margin": -1}, {"held_out": 1.0}, {"most_per_prompt": 0}]
)
def test_rules_that_are_none(fields) -> None:
    with pytest.raises(ValidationError):
        PairRules(**fields)
