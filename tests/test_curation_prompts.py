"""Which text a visit trains with: the stated shares, and the same one every time."""

import re
from collections import Counter

import pytest
from pydantic import ValidationError

from tastemaker.curation.aliases import NO_ALIASES
from tastemaker.curation.prompts import (
    CaptionPrompt,
    MixedPrompt,
    TagPrompt,
    has_text,
    plain_text,
    prompt_text,
    tags_of,
)
from tastemaker.curation.tag_prompts import ScoreTags, TagRules
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tests.many_draws import SOME, VISITS, unchecked, within_three_sigma


def record(*captions: str, tags: tuple[str, ...] = (), **attributes: str) -> ImageRecord:
    return ImageRecord(
        id="i", path="p", source="s", key="k", size=None, captions=captions, tags=tags,
        attributes=tuple(attributes.items()),
    )  # fmt: skip


def draw(visit: int, seed: int = 0) -> Draw:
    return Draw(seed, "prompt", "i", visit)


def test_captions_come_in_the_stated_shares():
    rules = CaptionPrompt(weights=(4.0, 0.0, 1.0, 5.0), empty=0.1)
    asked = record("best", "never", "third", "fourth", "past the list")
    with unchecked():
        found = Counter(prompt_text(asked, rules, draw(visit)) for visit in range(VISITS))
    expected = {"": 0.1, "best": 0.9 * 0.4, "third": 0.9 * 0.1, "fourth": 0.9 * 0.5}
    assert found.keys() == expected.keys()
    for text, p in expected.items():
        assert within_three_sigma(found[text], p), text


@pytest.mark.parametrize(
    "rules",
    [
        CaptionPrompt(weights=(1.0, 1.0, 1.0), empty=0.3),
        TagPrompt(scores=ScoreTags()),
        MixedPrompt(tag_share=0.5, scores=ScoreTags()),
    ],
)
def test_a_visit_always_has_the_same_text(rules):
    asked = record("a", "b", "c", tags=tuple("defghijkl"), score="7")
    texts = [prompt_text(asked, rules, draw(visit)) for visit in range(200)]
    assert [prompt_text(asked, rules, draw(v)) for v in reversed(range(200))] == texts[::-1]
    assert [prompt_text(asked, rules, draw(v, seed=1)) for v in range(200)] != texts


def test_weights_past_a_pictures_captions_are_shared_by_those_it_has():
    rules = CaptionPrompt(weights=(1.0, 1.0, 98.0), empty=0)
    found = Counter(prompt_text(record("a", "b"), rules, draw(v)) for v in range(2000))
    assert found.keys() == {"a", "b"}
    assert within_three_sigma(found["a"], 0.5, 2000)


def test_nothing_is_empty_unless_asked_and_no_caption_always_is():
    rules = CaptionPrompt(empty=0)
    assert {prompt_text(record("a"), rules, draw(v)) for v in range(500)} == {"a"}
    assert prompt_text(record(), rules, draw(0)) == ""


@pytest.mark.parametrize(
    ("weights", "empty"), [((), 0.0), ((0.0, 1.0), 0.0), ((1.0, -1.0), 0.0), ((1.0,), 1.0)]
)
def test_impossible_choices_are_refused(weights, empty):
    with pytest.raises(ValidationError, match="must be|less than 1"):
        CaptionPrompt(weights=weights, empty=empty)


def test_captions_and_tags_are_mixed_in_the_stated_share():
    asked = record("a caption", tags=("one", "two"))
    with unchecked():
        texts = Counter(prompt_text(asked, MixedPrompt(), draw(visit)) for visit in range(VISITS))
    assert within_three_sigma(texts[""], 0.1)
    assert within_three_sigma(texts["a caption"], 0.9 * 0.9)
    assert all(
        {"one", "two"} == set(re.findall(r"\w+", t)) for t in texts if t not in ("", "a caption")
    )
    rules = MixedPrompt(empty=0)
    only_tags, only_caption = record(tags=("one",)), record("a caption")
    assert {prompt_text(only_tags, rules, draw(v)) for v in range(200)} == {"one"}
    assert {prompt_text(only_caption, rules, draw(v)) for v in range(200)} == {"a caption"}


def test_V5_empty_text_and_caption_are_drawn_at_every_visit():
    """V5: a tool drew both once, at caching; the same pictures then never saw their captions."""
    rules = CaptionPrompt(weights=(1.0, 1.0), empty=0.1)
    pictures = [
        ImageRecord(id=f"{n}", path="p", source="s", key="k", size=None, captions=("a", "b"))
        for n in range(100)
    ]
    never = 0
    for picture in pictures:
        texts = {prompt_text(picture, rules, Draw(0, "prompt", picture.id, v)) for v in range(60)}
        assert {"a", "b"} <= texts
        never += "" not in texts
    assert never <= 1  # 0.9 ** 60 of 100 pictures: 0.2 are expected


def test_score_tags_stand_before_captions_and_tags_alike():
    asked = record("a caption", tags=("one",), score="2")
    rules = MixedPrompt(tag_share=0.5, scores=ScoreTags(dropped=0.1), empty=0)
    with unchecked():
        texts = [prompt_text(asked, rules, draw(visit)) for visit in range(SOME)]
    bare = sum(text in ("a caption", "one") for text in texts)
    assert within_three_sigma(bare, 0.1, SOME)
    assert all(text.endswith(("a caption", "one")) for text in texts)
    scored = [text for text in texts if text not in ("a caption", "one")]
    assert all(text.startswith(("score_", "score ")) for text in scored)
    # Every tag has its own spelling: of prompts with one tag, a fifth has blanks.
    single = [text for text in scored if text.replace(" ", "_").count("score_") == 1]
    blanks = sum(text.startswith("score ") for text in single)
    assert within_three_sigma(blanks, 0.2, len(single))
    between = Counter(
        text.removesuffix("a caption").lstrip("score_ 12up")
        for text in single
        if text.endswith("a caption")
    )
    assert between.keys() <= {", ", " ", ",", ""}


@pytest.mark.parametrize("score", [None, "", "many", "-1", "153", "nan"])
def test_what_is_no_score_gives_no_score_tag(score):
    attributes = {} if score is None else {"score": score}
    asked = record("a caption", **attributes)
    rules = CaptionPrompt(scores=ScoreTags(), empty=0)
    assert {prompt_text(asked, rules, draw(v)) for v in range(50)} == {"a caption"}


def test_an_attribute_tells_of_a_watermark():
    rules = TagRules()
    assert tags_of(record(tags=("cat",), watermark="true"), rules) == ("cat", "watermark")
    assert tags_of(record(tags=("cat",), watermark="[[0, 0, 1, 1]]"), rules)[1:] == ("watermark",)
    assert tags_of(record(tags=("Watermark",), watermark="1"), rules) == ("Watermark",)
    for no in ("", "0", "False", "no", "[]"):
        assert tags_of(record(tags=("cat",), watermark=no), rules) == ("cat",)
    assert tags_of(record(tags=("cat",), style="x"), rules) == ("cat",)


def test_tags_can_be_as_long_as_the_caption():
    asked = record("a caption", tags=tuple(f"t{n}" for n in range(60)))
    rules = MixedPrompt(tag_share=1, empty=0, tags=TagRules(tokens_per_tag=2.5, comma_prompts=1))
    counts = {
        prompt_text(asked, rules, draw(v), caption_tokens=50).count(",") + 1 for v in range(50)
    }
    assert counts == {20}
    counts = {prompt_text(asked, rules, draw(v)).count(",") + 1 for v in range(50)}
    assert len(counts) > 5


def test_validation_has_one_text_that_is_never_empty():
    tagged, captioned = record(tags=("one", "two")), record("a", "b", tags=("one",))
    for rules in (CaptionPrompt(empty=0.9), MixedPrompt(empty=0.9, tag_share=1)):
        assert plain_text(captioned, rules, draw(0), NO_ALIASES) == "a"
    texts = {plain_text(tagged, TagPrompt(empty=0.9), draw(v), NO_ALIASES) for v in range(50)}
    assert all("one" in text for text in texts)
    assert plain_text(tagged, CaptionPrompt(), draw(0), NO_ALIASES) == ""


def test_what_a_picture_needs_depends_on_the_rules():
    captioned, tagged = record("a"), record(tags=("one",))
    assert has_text(captioned, CaptionPrompt())
    assert not has_text(captioned, TagPrompt())
    assert has_text(tagged, TagPrompt())
    assert not has_text(tagged, CaptionPrompt())
    assert has_text(tagged, MixedPrompt())
    assert has_text(captioned, MixedPrompt())
    assert not has_text(record(), MixedPrompt())
