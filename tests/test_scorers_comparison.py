"""Several sides against one: lines, categories, and the choice of the best."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt
from tastemaker.scorers.by_group import group_table, groups_of
from tastemaker.scorers.choice import Choice, choose, deciding_prompts, problem_of
from tastemaker.scorers.figures import Figure, Measured, figure_line
from tastemaker.scorers.protocol import Origin

PROMPTS = [f"p{n:03d}" for n in range(60)]


def _measured(name: str, *, higher: bool = True, **sides: list[float]) -> Measured:
    found = {
        side: {p: [v] for p, v in zip(PROMPTS, values, strict=False)}
        for side, values in sides.items()
    }
    origin = Origin(name, "1", "b", "p", "points", higher)
    return Measured(Figure(name, "points", higher, "other"), origin, found)


def _noisy(seed: int, shift: float = 0.0, count: int = 60) -> list[float]:
    return list(np.random.default_rng(seed).normal(shift, 1.0, count))


BASE = _noisy(0)
SOME = [value + extra for value, extra in zip(BASE, _noisy(1, 0.3), strict=True)]
MORE = [value + extra for value, extra in zip(BASE, _noisy(2, 0.9), strict=True)]


def test_every_side_is_compared_with_the_reference_as_if_alone() -> None:
    together = figure_line(_measured("s", base=BASE, some=SOME, more=MORE), "base", resamples=300)
    assert list(together["models"]) == ["base", "some", "more"]
    assert list(together["against"]) == ["some", "more"]
    alone = figure_line(_measured("s", base=BASE, more=MORE), "base", resamples=300)
    assert together["against"]["more"] == alone["against"]["more"]
    back = figure_line(_measured("s", base=BASE, more=MORE), "more", resamples=300)
    there, here = alone["against"]["more"], back["against"]["base"]
    assert here["difference"]["estimate"] == pytest.approx(-there["difference"]["estimate"])
    assert here["win_rate"]["estimate"] == pytest.approx(1 - there["win_rate"]["estimate"])
    assert there["difference"]["estimate"] == pytest.approx(np.mean(MORE) - np.mean(BASE))


def test_the_win_rate_is_of_the_better_side_where_less_is_better() -> None:
    line = figure_line(_measured("d", higher=False, base=BASE, more=MORE), "base", resamples=200)
    found = line["against"]["more"]
    lower = sum(m < b for m, b in zip(MORE, BASE, strict=True))
    assert (found["better"], found["worse"]) == (lower, 60 - lower)
    assert found["win_rate"]["estimate"] == pytest.approx(lower / 60)


def test_intervals_of_categories_hold_together() -> None:
    """Student's at the level that Bonferroni asks for, transcribed."""
    groups = {"x": PROMPTS[:20], "y": PROMPTS[20:50], "few": PROMPTS[50:55], "one": PROMPTS[59:]}
    one = _measured("s", base=BASE, some=SOME, more=MORE)
    table = group_table(one, "category", groups, "base", level=0.9)
    assert table is not None
    assert [row["value"] for row in table["rows"]] == ["x", "y", "few"]
    assert table["comparisons"] == 4  # two categories with enough prompts, two sides
    assert table["level_each"] == pytest.approx(1 - 0.1 / 4)
    d = np.array(MORE[20:50]) - np.array(BASE[20:50])
    half = stats.t.ppf(1 - 0.1 / 8, 29) * d.std(ddof=1) / sqrt(30)
    found = table["rows"][1]["against"]["more"]
    assert (found["low"], found["high"]) == pytest.approx((d.mean() - half, d.mean() + half))
    assert found["verdict"] == ("better" if d.mean() - half > 0 else "unclear")
    few = table["rows"][2]["against"]["more"]
    assert (few["low"], few["verdict"]) == (None, "few prompts")
    assert few["better"] + few["worse"] + few["same"] == 5


def test_where_less_is_better_a_category_that_falls_is_better() -> None:
    falls = [value - 5 + extra for value, extra in zip(BASE, _noisy(3), strict=True)]
    one = _measured("d", higher=False, base=BASE, after=falls)
    table = group_table(one, "c", {"x": PROMPTS[:30], "y": PROMPTS[30:]}, "base")
    assert table is not None
    for row in table["rows"]:
        found = row["against"]["after"]
        assert (found["verdict"], found["estimate"] < 0, found["high"] < 0) == (
            "better",
            True,
            True,
        )


def test_one_category_is_no_table_and_a_side_alone_has_means() -> None:
    one = _measured("s", after=BASE)
    assert group_table(one, "c", {"x": PROMPTS}, None) is None
    table = group_table(one, "c", {"x": PROMPTS[:30], "y": PROMPTS[30:]}, None)
    assert table is not None
    assert [row["against"] for row in table["rows"]] == [{}, {}]
    assert table["rows"][0]["models"]["after"] == pytest.approx(np.mean(BASE[:30]))


def test_groups_are_of_prompts_that_have_the_attribute() -> None:
    prompts = [Prompt("a", "", (("category", "x"),)), Prompt("b", ""), Prompt("c", "", ())]
    assert groups_of(prompts, "category") == {"x": ["a"]}


def test_false_alarms_among_categories_are_as_rare_as_stated() -> None:
    """Without any difference, a table of 10 categories cries wolf in at most 5 % of studies."""
    rng, alarms, studies = np.random.default_rng(5), 0, 150
    groups = {str(g): PROMPTS[g * 6 : g * 6 + 6] for g in range(10)}
    wide = {g: [f"{p}{n}" for p in ids for n in range(3)] for g, ids in groups.items()}
    every = [p for ids in wide.values() for p in ids]
    for _ in range(studies):
        first, second = rng.normal(size=(2, len(every)))
        sides = {
            "base": {p: [v] for p, v in zip(every, first, strict=True)},
            "after": {p: [v] for p, v in zip(every, second, strict=True)},
        }
        one = Measured(_measured("s", a=[]).figure, _measured("s", a=[]).scorer, sides)
        table = group_table(one, "c", wide, "base")
        assert table is not None
        alarms += any(r["against"]["after"]["verdict"] != "unclear" for r in table["rows"])
    assert alarms <= stats.binom.ppf(0.999, studies, 0.05)
    assert alarms > 0


def test_the_best_is_the_highest_that_is_not_clearly_worse_in_text() -> None:
    score = _measured("looks", base=BASE, some=SOME, more=MORE)
    worse = [value - 2 for value in BASE]
    text = _measured("text", base=BASE, some=BASE, more=worse)
    rule = Choice(score="looks", share=1.0)
    assert choose(rule, [score, text], PROMPTS, "base", resamples=200)["best"] == "more"
    guarded = Choice(score="looks", not_worse=("text",), share=1.0)
    found = choose(guarded, [score, text], PROMPTS, "base", resamples=200)
    assert found["best"] == "some"
    assert {p["side"]: p["fails"] for p in found["curve"]} == {
        "base": [],
        "some": [],
        "more": ["text"],
    }
    only = Choice(score="looks", not_worse=("text",), among=("more",), share=1.0)
    found = choose(only, [score, text], PROMPTS, "base", resamples=200)
    assert (found["best"], found["confirmed"]) == (None, None)


def test_by_win_rate_and_equal_sides_go_to_the_one_that_saw_less() -> None:
    many_small = [value + 0.01 for value in BASE]
    one_large = [BASE[0] + 900, *(value - 0.01 for value in BASE[1:])]
    score = _measured("s", base=BASE, small=many_small, large=one_large)
    by = {
        by: choose(Choice(score="s", by=by), [score], PROMPTS, "base")["best"]
        for by in ("win_rate",)
    }
    assert by == {"win_rate": "small"}
    mean = choose(Choice(score="s", share=1.0), [score], PROMPTS, "base", resamples=200)
    assert mean["best"] == "large"
    twins = _measured("s", base=BASE, late=SOME, early=SOME)
    rule = Choice(score="s", images_seen={"late": 900, "early": 300})
    assert choose(rule, [twins], PROMPTS, "base", resamples=200)["best"] == "early"


def test_where_less_is_better_the_lowest_mean_is_the_best() -> None:
    score = _measured("d", higher=False, base=BASE, some=SOME, more=MORE)
    assert choose(Choice(score="d"), [score], PROMPTS, "base", resamples=200)["best"] == "some"


def test_what_decides_does_not_confirm() -> None:
    decide, confirm = deciding_prompts(PROMPTS, 0.5)
    assert len(decide) == len(confirm) == 30
    assert not set(decide) & set(confirm)
    assert deciding_prompts(list(reversed(PROMPTS)), 0.5) == (decide, confirm)
    assert deciding_prompts(PROMPTS, 1.0)[1] == []
    assert deciding_prompts(PROMPTS[:3], 0.5) == (PROMPTS[:3], [])
    score = _measured("s", base=BASE, some=SOME, more=MORE)
    found = choose(Choice(score="s"), [score], PROMPTS, "base", resamples=200)
    wanted = np.mean([MORE[PROMPTS.index(p)] - BASE[PROMPTS.index(p)] for p in confirm])
    assert found["confirmed"]["difference"]["estimate"] == pytest.approx(wanted)
    assert found["confirmed"]["difference"]["units"] == found["confirmed_on"] == 30


def test_the_best_of_equals_looks_better_where_it_was_chosen_only() -> None:
    """The reason for two halves: eight equal checkpoints, and the luck of the chosen one."""
    rng, chosen, rest = np.random.default_rng(9), [], []
    for _ in range(10):
        sides = {f"c{n}": list(rng.normal(size=60)) for n in range(8)}
        score = _measured("s", base=[0.0] * 60, **sides)
        found = choose(Choice(score="s"), [score], PROMPTS, "base", resamples=100)
        point = next(p for p in found["curve"] if p["side"] == found["best"])
        chosen.append(point["mean"]["estimate"])
        rest.append(found["confirmed"]["difference"]["estimate"])
    assert np.mean(chosen) > 0.2
    assert abs(np.mean(rest)) < 0.15


def test_rules_that_name_what_is_not_there() -> None:
    score = _measured("s", base=BASE, some=SOME)
    with pytest.raises(InputError, match="the score 'text'; expected one that was measured: s"):
        choose(Choice(score="s", not_worse=("text",)), [score], PROMPTS, "base")
    sides = ["a", "b"]
    assert problem_of(Choice(score="s"), ["a"], None, ["s"]) is not None
    told = problem_of(Choice(score="s", images_seen={"c": 1}), sides, "a", ["s"])
    assert told == "choose.images_seen names c; the sides are a, b"
    told = problem_of(Choice(score="s", not_worse=("t",)), sides, "a", ["s"])
    assert told is not None
    assert told.startswith("choose.not_worse names t; the scores are style_share, concept_top1")
    assert problem_of(Choice(score="s", among=("b",)), sides, "a", ["s"]) is None
