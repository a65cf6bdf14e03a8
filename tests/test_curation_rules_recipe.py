"""Rules that depend on the survivors, and rules as they stand in a recipe."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tastemaker.curation.facts import Facts, objects
from tastemaker.curation.judgement import Copies
from tastemaker.curation.rules import (
    AnyRule,
    check_rules,
    describe_rules,
    needed_columns,
    needed_measures,
)
from tastemaker.curation.rules_among import Duplicates, group_values
from tastemaker.errors import InputError, RecipeError
from tastemaker.recipe.values import build_config
from tastemaker.records.config import Config
from tastemaker.records.image import Drop
from tests.curation_rules import NAN, drops, facts, judged, kept, rule

# --- among the survivors -------------------------------------------------------------------------


def loop_top(ids, scores, groups, alive, tie_order, quota, highest):
    """The top of each group, by sorting tuples."""
    best = set()
    for group in {group for own in groups for group in own}:
        members = [
            i
            for i in range(len(ids))
            if alive[i] and math.isfinite(scores[i]) and group in groups[i]
        ]
        members.sort(key=lambda i: (-scores[i] if highest else scores[i], tie_order[i]))
        best |= set(members[: quota(len(members))])
    return sorted(best | {i for i in range(len(ids)) if not alive[i]})


@given(st.data())
def test_top_against_a_loop(data):
    n = data.draw(st.integers(1, 30))
    scores = data.draw(st.lists(st.sampled_from([1.0, 2.0, 2.5, 3.0, NAN]), min_size=n, max_size=n))
    alive = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    kind = data.draw(st.sampled_from(["none", "text", "number", "list"]))
    names = st.sampled_from(["a", "b", None])
    if kind == "text":
        column = data.draw(st.lists(names, min_size=n, max_size=n))
        groups = [(name,) for name in column]
        column = objects(column)
    elif kind == "number":
        column = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
        groups = [(int(g),) for g in column]
    else:
        own = st.lists(st.sampled_from("abc"), max_size=3).map(tuple)
        column = data.draw(st.lists(own, min_size=n, max_size=n))
        groups = [entry or (None,) for entry in column] if kind == "list" else [("all",)] * n
        column = objects([("z",), *column])[1:]
    known = Facts([f"p{i}" for i in range(n)], {"s.score": np.array(scores), "g.g": column})
    order = data.draw(st.sampled_from(["highest", "lowest"]))
    if data.draw(st.booleans()):
        limit = {"count": data.draw(st.integers(1, 8))}
        quota = lambda _: limit["count"]  # noqa: E731
    else:
        tenths = data.draw(st.integers(1, 10))
        limit = {"fraction": tenths / 10}
        quota = lambda size: -(-size * tenths // 10)  # noqa: E731
    per = None if kind == "none" else "g.g"
    chosen = rule(rule="top", column="s.score", order=order, per=per, **limit)
    expected = loop_top(
        known.ids, scores, groups, alive, known.tie_order.tolist(), quota, order == "highest"
    )
    assert kept(chosen, known, alive) == expected
    margin = judged(chosen, known, alive).margin
    for i in range(n):
        if alive[i] and math.isfinite(scores[i]):
            assert margin[i] >= 0 if i in expected else margin[i] <= 0
        else:
            assert math.isnan(margin[i])


@given(st.permutations(range(12)))
def test_top_does_not_depend_on_the_order_of_the_pictures(order):
    ids = [f"p{i}" for i in order]
    known = Facts(ids, {"s.score": np.zeros(12)})
    chosen = {ids[i] for i in kept(rule(rule="top", column="s.score", count=5), known)}
    usual = Facts(sorted(ids), {"s.score": np.zeros(12)})
    expected = kept(rule(rule="top", column="s.score", count=5), usual)
    assert chosen == {usual.ids[i] for i in expected}
    # Nor are these the first ones by name.
    assert chosen != {f"p{i}" for i in range(5)}


def test_top_verdicts():
    known = facts(aesthetic__score=[7.0, 5.0, NAN, 6.25], attribute__style=["a", "a", "a", "b"])
    whole = rule(rule="top", column="aesthetic.score", count=2)
    assert drops(whole, known) == {
        1: Drop("not among the best: aesthetic.score", "5", "at least 6.25, one of the 2 highest"),
        2: Drop("aesthetic.score unknown", "(unknown)", "the 2 highest"),
    }
    each = rule(rule="top", column="aesthetic.score", fraction=0.5, per="attribute.style")
    assert drops(each, known)[1].limit == "at least 7, one of the 50 % highest"
    assert kept(each, known) == [0, 3]
    lowest = rule(rule="top", column="aesthetic.score", count=1, order="lowest")
    assert drops(lowest, known)[0].limit == "at most 5, one of the 1 lowest"
    # A picture that an earlier rule dropped takes no place.
    assert kept(rule(rule="top", column="aesthetic.score", count=1), known, [0, 1, 1, 1]) == [0, 3]


def test_duplicates_are_asked_for():
    asked = []

    def find(rule, alive):
        asked.append((rule, alive.tolist()))
        return Copies(np.array([-1, 0, -1, 0]), lambda index: f"{index} bits from id0")

    known = facts(
        megapixels=[1.0, NAN, 3.0, 3.0], s__score=[1.0, 5.0, 2.0, 3.0],
        attribute__style=["a", None, "b", "a"],
    )  # fmt: skip
    chosen = rule(rule="duplicates", within="attribute.style")
    alive = [True, True, True, False]
    assert drops(chosen, known, alive=alive, find_copies=find) == {
        1: Drop("near duplicate", "1 bits from id0", "not within 6 bits and 4 levels")
    }
    assert asked == [(chosen, alive)]
    assert chosen.columns() == ("megapixels", "attribute.style")
    assert chosen.measured() == ("pixels",)
    order = chosen.best_first(known, np.array([True] * 4)).tolist()
    assert set(order[:2]) == {2, 3}
    assert order[2:] == [0, 1]
    best = Duplicates(by="embedding", column="clip", keep="best", score="s.score")
    assert best.best_first(known, np.array(alive)).tolist() == [1, 2, 0]
    assert best.measured() == ("clip", "s")
    assert group_values(known, "attribute.style") == ("a", "", "b", "a")
    assert group_values(known, None) == ("",) * 4
    with pytest.raises(InputError, match="nobody who compares"):
        judged(chosen, known)


# --- in a recipe ---------------------------------------------------------------------------------


class Stage(Config):
    rules: tuple[AnyRule, ...] = ()
    """The rules."""


FUNNEL = [
    {"rule": "readable"},
    {"rule": "captioned"},
    {"rule": "range", "column": "short_side", "least": 512},
    {"rule": "contains", "none": "watermark"},
    {"rule": "one_of", "column": "attribute.style", "values": "openmoji"},
    {"rule": "sql", "where": "ocr.share < 0.05"},
    {"rule": "duplicates", "mirrored": True},
    {"rule": "top", "column": "aesthetic.score", "fraction": 0.1, "per": "attribute.concept"},
    {"rule": "top", "column": "aesthetic.score", "count": 2000},
]


def test_rules_load_from_a_recipe_and_say_what_they_are():
    config, problems = build_config(Stage, {"rules": FUNNEL}, lambda path: ".".join(map(str, path)))
    assert problems == []
    assert config is not None
    again, problems = build_config(Stage, config.model_dump(mode="json"), str)
    assert (again, problems) == (config, [])
    assert needed_columns(config.rules) == (
        "error", "captions", "short_side", "tags", "attribute.style", "sql:ocr.share < 0.05",
        "megapixels", "aesthetic.score", "attribute.concept",
    )  # fmt: skip
    assert needed_measures(config.rules) == ("ocr", "pixels", "aesthetic")
    assert describe_rules(config.rules) == (
        "readable; no exact duplicates; has a caption; short_side at least 512; "
        "tags with no watermark; style is openmoji; (ocr.share < 0.05); "
        "nothing else within 6 bits and 4 levels, mirrored or not, the largest kept; "
        "the 10 % with the highest aesthetic.score of each concept; "
        "the 2000 with the highest aesthetic.score"
    )
    assert [one.label for one in config.rules] == [
        "readable", "captioned", "short_side >= 512", "tags with no watermark", "style: openmoji",
        "ocr.share < 0.05", "no duplicates", "top 10 % by aesthetic.score per concept",
        "top 2000 by aesthetic.score",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rule": "range", "column": "a.b"}, "`least`, `most` or both"),
        ({"rule": "range", "column": "a.b", "least": 2, "most": 1}, "`least` at most `most`"),
        ({"rule": "range", "column": "a.b", "least": "2"}, "number"),
        ({"rule": "top", "column": "a.b"}, "either `count` or `fraction`"),
        ({"rule": "top", "column": "a.b", "count": 1, "fraction": 0.1}, "either `count` or"),
        ({"rule": "top", "column": "a.b", "fraction": 1.5}, "less than or equal to 1"),
        ({"rule": "contains", "any": []}, "some words"),
        ({"rule": "contains", "any": ["cat", " "]}, "not empty"),
        ({"rule": "one_of", "column": "a.b", "values": []}, "at least 1 item"),
        ({"rule": "duplicates", "keep": "best"}, "`score` with"),
        ({"rule": "duplicates", "score": "a.b"}, "`score` with"),
        ({"rule": "duplicates", "by": "embedding"}, "a `column` of embeddings"),
        ({"rule": "sql", "where": ""}, "at least 1 character"),
        ({"rule": "rang", "column": "a.b", "least": 1}, "Did you mean 'range'"),
        ({"rule": "range", "column": "a.b", "lest": 1}, "Did you mean 'least'"),
    ],
)
def test_wrong_rules_are_refused_in_words(values, said):
    _, problems = build_config(Stage, {"rules": [values]}, lambda path: ".".join(map(str, path)))
    assert any(said in str(problem) for problem in problems), problems
    assert all(isinstance(problem, RecipeError) for problem in problems)
    with pytest.raises(ValidationError):
        TypeAdapter(AnyRule).validate_python({**values, "lest": 1})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rule": "range", "column": "sharpness", "least": 1}, "Did you mean 'pixels.sharpness'?"),
        ({"rule": "range", "column": "pixels.sharpnes", "least": 1}, "'pixels.sharpness'"),
        ({"rule": "top", "column": "sharpnes", "count": 1}, "'pixels.sharpness'"),
        ({"rule": "top", "column": "h", "count": 1, "per": "attribute.stile"}, "'attribute.style'"),
        ({"rule": "range", "column": "zzz", "least": 1}, "Known are attribute.style, h, "),
        ({"rule": "range", "column": "tags", "least": 1}, "got a column of lists of words"),
        ({"rule": "contains", "column": "h", "any": "x"}, "expected lists of words or texts"),
        ({"rule": "one_of", "column": "tags", "values": "x"}, "texts or numbers or yes or no"),
        ({"rule": "duplicates", "within": "tags"}, "lists of words"),
    ],
)
def test_columns_are_checked_before_the_work(values, said):
    known = {
        "h": "number", "megapixels": "number", "pixels.sharpness": "number", "tags": "list",
        "attribute.style": "text",
    }  # fmt: skip
    with pytest.raises(InputError, match=re.escape(said)):
        check_rules([rule(**values)], known)
