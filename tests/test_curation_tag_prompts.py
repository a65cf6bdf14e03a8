"""bigASP's prompts of tags: every stated figure on 100,000 draws, within three sigma."""

import re
from collections import Counter
from functools import cache
from math import erf, sqrt
from statistics import mean, pstdev

import numpy as np
import pytest
from pydantic import ValidationError

from tastemaker.curation.aliases import AliasTable
from tastemaker.curation.prompts import TagPrompt, prompt_text
from tastemaker.curation.tag_prompts import (
    ScoreTags,
    TagRules,
    build_tag_prompt,
    draw_scores,
    expected_tags,
    score_of,
)
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tests.many_draws import SOME, VISITS, unchecked, within_three_sigma

PLAIN = TagRules(comma_prompts=1, space_share=0, spellings=(1, 0, 0), alias_share=0)
"""Tags exactly as they are, separated by commas."""
MANY = tuple(f"t{n}" for n in range(120))
ALIASES = AliasTable({tag: (f"x{tag}", f"y{tag}") for tag in MANY[1:]})


def draw(visit: int, picture: str = "i") -> Draw:
    return Draw(0, "prompt", picture, visit)


def below(x: float) -> float:
    """Probability that N(32, 19.8) is below x."""
    return 0.5 * (1 + erf((x - 32) / 19.8 / sqrt(2)))


@cache
def texts() -> tuple[tuple[str, ...], ...]:
    """Prompts as training has them, empty ones too, of a picture with 120 tags and score 7."""
    rules = TagPrompt(**{**PLAIN.model_dump(), "alias_share": 0.2}, scores=ScoreTags())
    asked = ImageRecord(
        id="i", path="p", source="s", key="k", size=None, tags=MANY, attributes=(("score", "7"),)
    )
    with unchecked():
        made = [prompt_text(asked, rules, draw(visit), ALIASES) for visit in range(VISITS)]
    return tuple(tuple(text.split(",")) if text else () for text in made)


@cache
def prompts() -> tuple[tuple[str, ...], ...]:
    """The tags of those that are not empty, without score tags."""
    return tuple(tuple(tag for tag in tags if tag[:5] != "score") for tags in texts() if tags)


def test_a_tenth_of_the_texts_is_the_empty_text():
    assert within_three_sigma(texts().count(()), 0.1)


def test_the_number_of_tags_is_the_truncated_normal():
    counts = [len(tags) for tags in prompts()]
    total = len(counts)
    assert within_three_sigma(counts.count(5), below(6), total)
    assert below(6) == pytest.approx(0.0946, abs=1e-4)
    assert within_three_sigma(sum(n >= 64 for n in counts), 1 - below(64), total)
    assert 1 - below(64) == pytest.approx(0.053, abs=1e-3)
    p = [below(6)] + [below(n + 1) - below(n) for n in range(6, 120)]
    expected = sum(n * share for n, share in zip(range(5, 120), p, strict=True))
    sd = sqrt(sum((n - expected) ** 2 * share for n, share in zip(range(5, 120), p, strict=True)))
    assert expected == pytest.approx(32.3, abs=0.05)
    assert sd == pytest.approx(18.3, abs=0.05)
    assert abs(mean(counts) - expected) <= 3 * sd / sqrt(total)
    assert abs(pstdev(counts) - sd) <= 3 * sd / sqrt(2 * total)
    assert min(counts) == 5
    assert expected_tags(120, TagRules()) == pytest.approx(expected, rel=1e-4)


def test_tags_are_shuffled_before_they_are_cut():
    for place in (0, -1):
        found = Counter(tags[place].strip("xy") for tags in prompts())
        assert found.keys() == set(MANY)
        each = len(prompts()) / 120
        chi2 = sum((count - each) ** 2 / each for count in found.values())
        assert abs(chi2 - 119) <= 3 * sqrt(2 * 119)
    assert all(len(set(tags)) == len(tags) for tags in prompts()[:1000])


def test_a_fifth_of_the_tags_with_aliases_is_renamed_evenly():
    found = Counter(tag.strip("t0123456789") for tags in prompts() for tag in tags if tag != "t0")
    assert found.keys() == {"", "x", "y"}
    renamed = found["x"] + found["y"]
    assert within_three_sigma(renamed, 0.2, sum(found.values()))
    assert within_three_sigma(found["x"], 0.5, renamed)
    assert not any(tag in ("xt0", "yt0") for tags in prompts() for tag in tags)
    blanks = AliasTable({"long_hair": ("longhair",)})
    always = PLAIN.model_copy(update={"alias_share": 1.0})
    assert build_tag_prompt(("Long hair",), always, draw(0), aliases=blanks) == "longhair"


def test_few_tags_are_all_used_and_repeated_ones_once():
    rules = PLAIN.model_copy(update={"mean_tags": 100.0, "sd_tags": 0.0})
    text = build_tag_prompt(("a", "b", " a ", "", "c"), rules, draw(0))
    assert sorted(text.split(",")) == ["a", "b", "c"]
    assert build_tag_prompt((), rules, draw(0)) == ""


def test_priority_tags_are_always_there_and_near_the_front():
    rules = PLAIN.model_copy(update={"priority": ("watermark", "by someone")})
    tags = (*MANY[:90], "watermark", "by_someone")
    places = Counter()
    for visit in range(SOME):
        made = build_tag_prompt(tags, rules, draw(visit)).split(",")
        assert {"watermark", "by_someone"} <= set(made)
        assert max(made.index("watermark"), made.index("by_someone")) < rules.priority_within
        assert len(made) >= 5
        if len(made) == 5:
            places[made.index("watermark")] += 1
    # In a short prompt every place is equally likely.
    total = sum(places.values())
    assert all(within_three_sigma(places[place], 0.2, total) for place in range(5))


def test_priority_tags_are_counted_among_the_tags():
    rules = PLAIN.model_copy(update={"mean_tags": 12.0, "sd_tags": 0.0})
    made = build_tag_prompt((*MANY[:90], "watermark"), rules, draw(0)).split(",")
    assert len(made) == 12
    only = build_tag_prompt(MANY, rules, draw(0), ("score_1", "score_1_up")).split(",")
    assert only[:2] == ["score_1", "score_1_up"]
    assert len(only) == 14


def test_separators_and_spellings_vary_as_stated():
    tags = tuple(f"a_{n}" for n in range(10))
    rules = TagRules(mean_tags=10, sd_tags=0, alias_share=0)
    kinds, delimiters, spaces, mixed = Counter(), Counter(), Counter(), Counter()
    for visit in range(SOME):
        text = build_tag_prompt(tags, rules, draw(visit))
        blanks = len(re.findall(r"a \d", text))
        kinds["underscores" if blanks == 0 else "blanks" if blanks == 10 else "mixed"] += 1
        if 0 < blanks < 10:
            mixed["blanks"] += blanks
            mixed["prompts"] += 1
        between = re.findall(r"\d(, |,| )(?=a)", text)
        assert len(between) == 9
        delimiters["commas only" if " " not in between else "some blanks"] += 1
        delimiters["blanks"] += between.count(" ")
        spaces.update(one for one in between if one != " ")
    # A mixed prompt of ten tags has blanks alone with probability 0.8^10.
    lone = 0.8**10 / 3
    assert within_three_sigma(kinds["blanks"], 1 / 3 + lone, SOME)
    assert within_three_sigma(kinds["mixed"], 1 / 3 - lone - 0.2**10 / 3, SOME)
    assert within_three_sigma(delimiters["commas only"], 0.8 + 0.2 * 0.8**9, SOME)
    pairs = 9 * SOME
    # Blanks of one prompt come together: the variance is that of sums over prompts.
    sd = sqrt(SOME * (0.2 * (9 * 0.2 * 0.8 + 1.8**2) - (0.2 * 1.8) ** 2))
    assert abs(delimiters["blanks"] - pairs * 0.2 * 0.2) <= 3 * sd
    assert within_three_sigma(spaces[", "], 0.8, spaces[", "] + spaces[","])


@pytest.mark.parametrize(
    ("weights", "dropped"), [((1.0, 1.0, 1.0), 0.0), ((3.0, 2.0, 1.0), 0.1)], ids=["v1", "v2"]
)
def test_one_to_three_of_the_applicable_score_tags(weights, dropped):
    rules = ScoreTags(counts=weights, dropped=dropped)
    with unchecked():
        made = [draw_scores(7, rules, draw(visit).generator()) for visit in range(VISITS)]
    counts = Counter(map(len, made))
    for count, weight in enumerate(weights, start=1):
        assert within_three_sigma(counts[count], (1 - dropped) * weight / sum(weights))
    assert within_three_sigma(counts[0], dropped) if dropped else counts[0] == 0
    pool = {*(f"score_{s}_up" for s in range(1, 8)), "score_7"}
    assert set().union(*made) == pool
    assert all(len(set(tags)) == len(tags) for tags in made)
    firsts = Counter(tags[0] for tags in made if tags)
    some = sum(firsts.values())
    chi2 = sum((firsts[tag] - some / 8) ** 2 / (some / 8) for tag in pool)
    assert chi2 <= 7 + 3 * sqrt(14)


def test_score_tags_come_first():
    scored = [tags for tags in texts() if tags]
    counts = Counter(sum(tag[:5] == "score" for tag in tags) for tags in scored)
    assert counts.keys() == {1, 2, 3}
    assert all(within_three_sigma(n, 1 / 3, len(scored)) for n in counts.values())
    assert all(tag[:5] != "score" for tags in scored for tag in tags[3:])


def test_small_scores_have_small_pools():
    assert {draw_scores(0, ScoreTags(), draw(v).generator()) for v in range(100)} == {("score_0",)}
    two = Counter(len(draw_scores(1, ScoreTags(), draw(v).generator())) for v in range(10_000))
    assert two.keys() == {1, 2}
    assert within_three_sigma(two[1], 0.5, 10_000)
    exactly_three = ScoreTags(counts=(0, 0, 1))
    assert {len(draw_scores(0, exactly_three, draw(v).generator())) for v in range(20)} == {1}
    assert draw_scores(None, ScoreTags(), draw(0).generator()) == ()
    assert draw_scores(5, None, draw(0).generator()) == ()


def test_scores_are_read_by_their_whole_part():
    assert [score_of(text) for text in ("7", "7.9", " 0 ", "99.5")] == [7, 7, 0, 99]
    assert [score_of(text) for text in ("-0.1", "100", "inf", "x", None)] == [None] * 5


def test_a_prompt_depends_on_its_picture_and_visit_alone():
    wanted = [(f"picture {n % 7}", n // 7) for n in range(700)]
    texts = {at: build_tag_prompt(MANY, TagRules(), draw(at[1], at[0])) for at in wanted}
    assert len(set(texts.values())) == 700
    for picture, visit in sorted(wanted, reverse=True):
        again = build_tag_prompt(MANY, TagRules(), draw(visit, picture))
        assert again == texts[picture, visit]


def test_prompts_of_neighbouring_visits_are_independent():
    counts = np.array([len(tags) for tags in prompts()], float)
    correlation = np.corrcoef(counts[:-1], counts[1:])[0, 1]
    assert abs(correlation) <= 3 / sqrt(len(counts))


@pytest.mark.parametrize(
    "wrong", [{"spellings": (0, 0, 0)}, {"spellings": (1, -1, 1)}, {"least_tags": 0}]
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ValidationError, match="frequencies must be|greater than or equal to 1"):
        TagRules(**wrong)
    with pytest.raises(ValidationError, match="frequencies must be|at least 1"):
        ScoreTags(counts=())
