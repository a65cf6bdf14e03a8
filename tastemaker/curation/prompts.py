"""From what is known of a picture to the text that training sees, drawn anew at every visit."""

from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, field_validator

from tastemaker.curation.aliases import NO_ALIASES, AliasTable, plain_tag
from tastemaker.curation.tag_prompts import (
    ScoreTags,
    TagRules,
    before_caption,
    build_tag_prompt,
    draw_scores,
    score_of,
    weighted_index,
    write_tags,
)
from tastemaker.records.config import Config
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord

FALSE = frozenset({"", "0", "false", "no", "none", "null", "[]"})
"""Texts of an attribute that say no."""


class CaptionPrompt(Config):
    """One of the picture's captions."""

    kind: Literal["captions"] = "captions"
    weights: tuple[float, ...] = (1.0,)
    """Relative frequency of the first, second, ... caption. Captions past the list are never drawn,
    and a picture with fewer captions draws among those that it has."""
    scores: ScoreTags | None = None
    """Score tags before the caption; none when not given."""
    empty: float = Field(default=0.1, ge=0, lt=1)
    """Share of visits with the empty text "", which generation passes as the negative prompt
    (Ho & Salimans 2022, arXiv:2207.12598). 0.1 is bigASP's stated figure."""

    @field_validator("weights")
    @classmethod
    def _sound(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        return _check_weights(weights)


class TagPrompt(TagRules):
    """Some of the picture's tags, as bigASP's first version writes them."""

    kind: Literal["tags"] = "tags"
    scores: ScoreTags | None = None
    """Score tags before the others; none when not given."""
    empty: float = Field(default=0.1, ge=0, lt=1)
    """Share of visits with the empty text "", as for captions."""


class MixedPrompt(Config):
    """Captions and tags in turn, as bigASP's second version has it."""

    kind: Literal["mixed"] = "mixed"
    tag_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the texts that are made of tags (v2: 0.1); a picture that has only captions or only
    tags uses what it has."""
    weights: tuple[float, ...] = (1.0,)
    """Relative frequency of the first, second, ... caption."""
    tags: TagRules = TagRules()
    """How prompts of tags are made."""
    scores: ScoreTags | None = None
    """Score tags before either; none when not given."""
    empty: float = Field(default=0.1, ge=0, lt=1)
    """Share of visits with the empty text "", as for captions."""

    @field_validator("weights")
    @classmethod
    def _sound(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        return _check_weights(weights)


Prompts: TypeAlias = CaptionPrompt | TagPrompt | MixedPrompt
AnyPrompts: TypeAlias = Annotated[Prompts, Field(discriminator="kind")]
"""How texts are made, by `kind`."""


def prompt_text(
    record: ImageRecord,
    rules: Prompts,
    draw: Draw,
    aliases: AliasTable = NO_ALIASES,
    caption_tokens: int | None = None,
) -> str:
    """The text of one visit: "" with probability `rules.empty`, else a caption or tags.

    Args:
        record: captions, tags and attributes of the picture.
        rules: how texts are made.
        draw: names the visit; nothing else is random.
        aliases: other names of tags.
        caption_tokens: length of the picture's caption, for `tokens_per_tag`.
    """
    random = draw.generator()
    empty, which = random.random(), random.random()
    if empty < rules.empty:
        return ""
    part = _part(record, rules, random)
    scores = ()
    if rules.scores is not None:
        score = score_of(record.attribute(rules.scores.attribute))
        scores = draw_scores(score, rules.scores, random)
    if part == "tags":
        own = tag_rules(rules)
        count = None
        if own.tokens_per_tag is not None and caption_tokens is not None and record.captions:
            count = int(caption_tokens / own.tokens_per_tag)
        tags = tags_of(record, own)
        if isinstance(rules, TagPrompt):
            return write_tags(tags, own, random, scores, aliases, count=count)
        text = write_tags(tags, own, random, (), aliases, count=count)
    else:
        text = _caption(record, rules, which)
    if rules.scores is None:
        return text
    return before_caption(scores, text, rules.scores, random)


def plain_text(record: ImageRecord, rules: Prompts, draw: Draw, aliases: AliasTable) -> str:
    """The text that validation uses at every time: the first caption, or tags; never empty."""
    if not isinstance(rules, TagPrompt) and record.captions:
        return record.captions[0]
    if isinstance(rules, CaptionPrompt):
        return ""
    own = tag_rules(rules)
    return build_tag_prompt(tags_of(record, own), own, draw, (), aliases)


def has_text(record: ImageRecord, rules: Prompts) -> bool:
    """Whether the picture has what its texts are made of."""
    by_captions = not isinstance(rules, TagPrompt) and bool(record.captions)
    return by_captions or (not isinstance(rules, CaptionPrompt) and bool(record.tags))


def tag_rules(rules: Prompts) -> TagRules:
    """The rules for tags, the default ones where only captions are used."""
    if isinstance(rules, TagPrompt):
        return rules
    return rules.tags if isinstance(rules, MixedPrompt) else TagRules()


def tags_of(record: ImageRecord, rules: TagRules) -> tuple[str, ...]:
    """Tags of a picture, and the priority tags that its attributes tell of."""
    if not record.attributes:
        return record.tags
    told = dict(record.attributes)
    more = [tag for tag in rules.priority if told.get(tag, "").strip().lower() not in FALSE]
    have = {plain_tag(tag) for tag in record.tags} if more else set()
    return (*record.tags, *(tag for tag in more if plain_tag(tag) not in have))


def _part(
    record: ImageRecord, rules: Prompts, random: np.random.Generator
) -> Literal["captions", "tags"]:
    """Which of both a visit uses."""
    if not isinstance(rules, MixedPrompt):
        return rules.kind
    if not record.captions or not record.tags:
        return "captions" if record.captions else "tags"
    return "tags" if random.random() < rules.tag_share else "captions"


def _caption(record: ImageRecord, rules: Prompts, uniform: float) -> str:
    assert not isinstance(rules, TagPrompt)
    if not record.captions:
        return ""
    return record.captions[weighted_index(rules.weights[: len(record.captions)], uniform)]


def _check_weights(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not weights or min(weights) < 0 or weights[0] <= 0:
        raise ValueError(f"caption weights must be >= 0 and start with one > 0: {weights}")
    return weights
