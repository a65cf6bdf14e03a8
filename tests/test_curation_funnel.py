"""Rules one after the other: against a plain loop over pictures, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.curation.borders import borders
from tastemaker.curation.facts import Facts, objects
from tastemaker.curation.funnel import followed, run_funnel
from tastemaker.curation.judgement import Copies
from tastemaker.curation.what_if import Sweep, parse_sweep, resolve_column, survivors_along
from tastemaker.errors import InputError
from tastemaker.records.image import Drop, Keep
from tests.curation_rules import NAN, rule


def collection(count: int = 400, seed: int = 0) -> Facts:
    """Pictures like those of the slow-learner recipe, some with unknown numbers."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(6, 1, count).round(1)
    scores[generator.random(count) < 0.05] = np.nan
    values = {
        "megapixels": generator.choice([0.5, 1.0, 2.0], count),
        "ocr.share": generator.random(count).astype(np.float32),
        "siglip.score": generator.random(count),
        "aesthetic.score": scores,
        "attribute.style": objects(generator.choice(["a", "b", "c"], count).tolist()),
        "tags": objects([("watermark",) if x < 0.1 else ("cat",) for x in generator.random(count)]),
        "twin": generator.integers(0, count // 2, count),
    }
    return Facts([f"p{i}" for i in range(count)], values)


def twins(facts: Facts):
    """Pictures of one number are duplicates; an honest answer for those that are asked about."""

    def find(rule, alive):
        first, of = {}, np.full(facts.count, -1)
        for index in rule.best_first(facts, alive).tolist():
            number = int(facts.values["twin"][index])
            of[index] = first.get(number, -1)
            first.setdefault(number, index)
        return Copies(of, lambda _: "0 bits")

    return find


FUNNEL = (
    rule(rule="range", column="ocr.share", most=0.5),
    rule(rule="contains", none=["watermark"]),
    rule(rule="range", column="siglip.score", least=0.2),
    rule(rule="duplicates"),
    rule(rule="range", column="aesthetic.score", least=5.5),
    rule(rule="top", column="aesthetic.score", fraction=0.5, per="attribute.style"),
    rule(rule="top", column="aesthetic.score", count=20),
)


def test_the_funnel_against_a_loop():
    """Counts, means and the rule that drops each picture, by hand."""
    facts = collection()
    v = {name: column.tolist() for name, column in facts.values.items()}
    ties = facts.tie_order.tolist()
    fell: dict[int, int] = {}
    alive = list(range(facts.count))

    def best_first(i):
        return (-v["aesthetic.score"][i], ties[i])

    def top(group, count):
        known = sorted(
            (i for i in group if not math.isnan(v["aesthetic.score"][i])), key=best_first
        )
        return set(known[: count(len(known))])

    def half_of_each(alive):
        groups = [[i for i in alive if v["attribute.style"][i] == style] for style in "abc"]
        return set().union(*(top(group, lambda n: -(-n // 2)) for group in groups))

    def no_twins(alive):
        ordered = sorted(alive, key=lambda i: (-v["megapixels"][i], ties[i]))
        return {i for n, i in enumerate(ordered) if v["twin"][i] not in
                {v["twin"][j] for j in ordered[:n]}}  # fmt: skip

    steps = (
        lambda alive: {i for i in alive if v["ocr.share"][i] <= 0.5},
        lambda alive: {i for i in alive if "watermark" not in v["tags"][i]},
        lambda alive: {i for i in alive if v["siglip.score"][i] >= 0.2},
        no_twins,
        lambda alive: {i for i in alive if v["aesthetic.score"][i] >= 5.5},
        half_of_each,
        lambda alive: top(alive, lambda n: min(n, 20)),
    )
    funnel = run_funnel(facts, FUNNEL, twins(facts))
    assert funnel.count == 400
    for number, (step, stage) in enumerate(zip(steps, funnel.stages, strict=True)):
        left = sorted(step(alive))
        fell |= dict.fromkeys(set(alive) - set(left), number)
        assert (stage.before, stage.after) == (len(alive), len(left)), stage.label
        alive = left
        for name in ("ocr.share", "siglip.score", "aesthetic.score"):
            known = [v[name][i] for i in alive if not math.isnan(v[name][i])]
            assert stage.means[name] == pytest.approx(math.fsum(known) / len(known), rel=1e-12)
    assert np.flatnonzero(funnel.kept).tolist() == alive
    assert len(alive) == 20
    assert {int(i): int(funnel.dropped_by[i]) for i in np.flatnonzero(~funnel.kept)} == fell
    # Choosing by a score must raise it, and the last rule keeps its best.
    course = [funnel.means["aesthetic.score"], *(s.means["aesthetic.score"] for s in funnel.stages)]
    assert course[-1] > course[-2] > course[0]


def test_every_dropped_picture_has_a_verdict():
    facts = collection()
    funnel = run_funnel(facts, FUNNEL, twins(facts))
    drops = funnel.drops()
    for index in range(facts.count):
        verdict = funnel.verdict(index)
        assert (verdict == Keep()) == bool(funnel.kept[index])
        assert drops.get(index, Keep()) == verdict
        if isinstance(verdict, Drop):
            stage = funnel.stages[funnel.dropped_by[index]]
            assert stage.reasons[verdict.reason] > 0
            assert str(verdict.got)
            assert str(verdict.limit)
    for number, stage in enumerate(funnel.stages):
        assert sum(stage.reasons.values()) == stage.dropped == (funnel.dropped_by == number).sum()
    assert sum(stage.dropped for stage in funnel.stages) + funnel.kept.sum() == facts.count


@given(st.permutations(range(len(FUNNEL))))
def test_who_would_fail_alone_does_not_depend_on_the_order(order):
    facts = collection(60)
    usual = run_funnel(facts, FUNNEL, twins(facts))
    mixed = run_funnel(facts, [FUNNEL[i] for i in order], twins(facts))
    for place, number in enumerate(order):
        left, right = mixed.failed[place], usual.failed[number]
        assert (left is None) == (right is None) == FUNNEL[number].AMONG
        if left is not None and right is not None:
            np.testing.assert_array_equal(left, right)
    for place in range(1, len(order)):
        assert mixed.stages[place].before == mixed.stages[place - 1].after


@given(
    st.lists(st.floats(-10, 10) | st.just(NAN), min_size=1, max_size=40),
    st.floats(-10, 10), st.floats(0, 5), st.sampled_from(["least", "most"]),
)  # fmt: skip
def test_a_looser_limit_never_keeps_fewer(values, limit, looser, side):
    facts = Facts([str(i) for i in range(len(values))], {"a.b": np.array(values)})
    other = limit - looser if side == "least" else limit + looser
    tight, loose = (
        run_funnel(facts, [rule(rule="range", column="a.b", **{side: x})]).kept
        for x in (limit, other)
    )
    assert not (tight & ~loose).any()


def test_pictures_that_are_left_out_from_the_start_are_nobodys():
    facts = collection(50)
    start = np.arange(50) % 2 == 0
    funnel = run_funnel(facts, FUNNEL, twins(facts), start=start)
    assert funnel.count == funnel.stages[0].before == 25
    assert (funnel.dropped_by[~start] == -2).all()
    assert (funnel.dropped_by[start] >= -1).all()
    assert not funnel.reached(0)[1]
    assert 1 not in funnel.drops()
    with pytest.raises(IndexError, match="was not judged"):
        funnel.verdict(1)


def test_no_rules_and_no_pictures():
    facts = collection(5)
    everything = run_funnel(facts, [])
    assert everything.kept.all()
    assert everything.stages == ()
    nothing = run_funnel(facts, FUNNEL, twins(facts), start=np.zeros(5, bool))
    assert [stage.after for stage in nothing.stages] == [0] * len(FUNNEL)
    assert set(nothing.stages[-1].means.values()) == {None}
    empty = Facts([], {name: column[:0] for name, column in facts.values.items()})
    rules = [one for one in FUNNEL if one.rule != "contains"]
    assert run_funnel(empty, rules, twins(empty)).count == 0


def test_means_are_of_the_numbers_that_rules_name_and_of_scores():
    facts = collection(5)
    assert followed(facts, FUNNEL[:2]) == ("ocr.share", "aesthetic.score", "siglip.score")
    funnel = run_funnel(facts, FUNNEL[:1], means_of=["megapixels"])
    assert list(funnel.stages[0].means) == ["megapixels"]


# --- borders -------------------------------------------------------------------------------------


def test_borders_hold_the_nearest_pictures_of_those_that_got_there():
    facts = collection()
    funnel = run_funnel(facts, FUNNEL, twins(facts))
    found = borders(facts, funnel, count=5)
    assert [border.rule for border in found] == list(range(len(FUNNEL)))
    scores = facts.values["siglip.score"]
    reached = np.flatnonzero((funnel.dropped_by == -1) | (funnel.dropped_by >= 2)).tolist()
    below = sorted((i for i in reached if scores[i] < 0.2), key=lambda i: -scores[i])
    above = sorted((i for i in reached if scores[i] >= 0.2), key=lambda i: scores[i])
    assert (found[2].kept, found[2].dropped) == (tuple(above[:5]), tuple(below[:5]))
    # The top 20 end where the first of the rest begins.
    aesthetic = facts.values["aesthetic.score"]
    last, first = aesthetic[found[6].kept[0]], aesthetic[found[6].dropped[0]]
    assert last == aesthetic[funnel.kept].min()
    assert first == aesthetic[funnel.dropped_by == 6].max()
    # A picture without the number is no example of a low one.
    assert not np.isnan(aesthetic[list(found[4].dropped)]).any()
    for border in found:
        assert (funnel.dropped_by[list(border.dropped)] == border.rule).all()
        assert len(border.dropped) == 5
    again = borders(facts, funnel, count=5)
    assert again == found


# --- what if -------------------------------------------------------------------------------------


def test_what_if_applies_all_rules_again():
    """Every point equals a whole funnel with the moved limit, top and duplicates included."""
    facts = collection()
    sweep = Sweep("siglip.score", 0.0, 0.8, 5)
    found = survivors_along(facts, FUNNEL, sweep, twins(facts))
    now = run_funnel(facts, FUNNEL, twins(facts)).kept
    assert (found.side, found.rule, found.added, found.today) == ("least", 2, False, 0.2)
    assert (found.count, found.now) == (400, now.sum())
    assert [point.threshold for point in found.points] == [0.0, 0.2, 0.4, 0.6, 0.8]
    for point in found.points:
        moved = rule(rule="range", column="siglip.score", least=point.threshold)
        kept = run_funnel(facts, [*FUNNEL[:2], moved, *FUNNEL[3:]], twins(facts)).kept
        assert point.kept == kept.sum()
        assert (point.gained, point.lost) == ((kept & ~now).sum(), (now & ~kept).sum())
        assert point.changed == point.kept - found.now
        assert point.share == point.kept / 400
    today = found.points[1]
    assert (today.kept, today.gained, today.lost) == (found.now, 0, 0)
    # The last rule fills its 20 places from others, which a count alone would not show.
    assert any(point.kept == found.now and point.lost for point in found.points)


def test_what_if_moves_the_upper_limit_where_there_is_only_that():
    facts = collection()
    found = survivors_along(facts, FUNNEL, Sweep("ocr.share", 0.0, 1.0, 3), twins(facts))
    assert (found.side, found.rule, found.today) == ("most", 0, 0.5)
    assert found.points[1].kept == found.now
    both = [rule(rule="range", column="ocr.share", least=0.2, most=0.4)]
    along = survivors_along(facts, both, Sweep("ocr.share", 0.0, 0.9, 4))
    share = facts.values["ocr.share"]
    for point in along.points:
        assert point.kept == ((share >= np.float32(point.threshold)) & (share <= 0.4)).sum()
    assert along.points[-1].kept == 0


def test_what_if_of_a_column_without_a_rule_comes_before_the_best_are_chosen():
    facts = collection()
    sweep = Sweep("megapixels", 0.0, 3.0, 4)
    found = survivors_along(facts, FUNNEL, sweep, twins(facts))
    assert (found.rule, found.added, found.today) == (5, True, None)
    assert [(p.kept, p.gained, p.lost) for p in (found.points[0], found.points[-1])] == [
        (found.now, 0, 0), (0, 0, found.now),
    ]  # fmt: skip
    moved = rule(rule="range", column="megapixels", least=2.0)
    kept = run_funnel(facts, [*FUNNEL[:5], moved, *FUNNEL[5:]], twins(facts)).kept
    assert found.points[2].kept == kept.sum()
    last = survivors_along(facts, FUNNEL[:3], sweep)
    assert (last.rule, last.added) == (3, True)
    start = np.arange(400) < 100
    assert survivors_along(facts, [], sweep, start=start).points[0].share == 1.0
    with pytest.raises(InputError, match="numbers"):
        survivors_along(facts, [], Sweep("tags", 0.0, 1.0))


KNOWN = ("pixels.sharpness", "aesthetic.score", "siglip.score", "h", "a.b_1")


@pytest.mark.parametrize(
    ("text", "sweep"),
    [
        ("sharpness=0.2:0.6", Sweep("pixels.sharpness", 0.2, 0.6, 11)),
        ("pixels.sharpness=0:100:5", Sweep("pixels.sharpness", 0.0, 100.0, 5)),
        (" aesthetic.score = -1 : 1e1 : 2 ", Sweep("aesthetic.score", -1.0, 10.0, 2)),
        ("h=-2:-1", Sweep("h", -2.0, -1.0)),
    ],
)
def test_sweeps_are_read(text, sweep):
    assert parse_sweep(text, KNOWN) == sweep


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sharpness", "COLUMN=LOW:HIGH"),
        ("sharpness=0.2", "COLUMN=LOW:HIGH"),
        ("sharpness=0.6:0.2", "got 0.6 to 0.2; expected a first threshold below the last"),
        ("sharpness=1:1", "below the last"),
        ("sharpness=a:2", "a number instead of 'a'"),
        ("sharpness=0:inf", "a number instead of 'inf'"),
        ("sharpness=0:nan", "a number instead of 'nan'"),
        ("sharpness=0:1:1", "points from 2 to 1001"),
        ("sharpness=0:1:2.5", "points from 2 to 1001"),
        ("sharpness=0:1:9999999", "points from 2 to 1001"),
        ("sharpnes=0:1", "Did you mean 'pixels.sharpness'"),
        ("pixel.sharpness=0:1", "Did you mean 'pixels.sharpness'"),
        ("score=0:1", "one of aesthetic.score, siglip.score"),
    ],
)
def test_wrong_sweeps_say_what_to_write(text, said):
    with pytest.raises(InputError) as caught:
        parse_sweep(text, KNOWN)
    assert said in str(caught.value)


def test_columns_resolve_by_their_field():
    assert resolve_column("h", KNOWN) == "h"
    assert resolve_column("b_1", KNOWN) == "a.b_1"


def test_thresholds_are_round_where_the_user_would_write_them_round():
    assert Sweep("a", 0.1, 0.7, 7).thresholds() == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert Sweep("a", -3e6, 3e6, 3).thresholds() == (-3e6, 0.0, 3e6)
    tiny = Sweep("a", 1e-9, 3e-9, 3).thresholds()
    assert tiny == (1e-9, 2e-9, 3e-9)
