"""From a picture's tags to a prompt as people write them: another one at every visit.

Source: bigASP, an SDXL fine-tuned on 1.44 million tagged pictures; its first version ("v1") and its
second ("v2") differ in a few figures, which are named where they are set.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import erf, sqrt

import numpy as np
from pydantic import Field, field_validator

from tastemaker.curation.aliases import NO_ALIASES, AliasTable, plain_tag
from tastemaker.records.config import Config
from tastemaker.records.draws import Draw

HIGHEST_SCORE = 99
"""A higher score is none of these: it counts votes, say, and would give a tag for each (ours)."""


class ScoreTags(Config):
    """Tags such as `score_7_up` in front of the text, so that quality can be asked for.

    A picture of score s has the pool `score_1_up` ... `score_s_up` and `score_s`; some of them,
    never always the same, are drawn without repetition. With a pool smaller than three the counts
    that it allows are drawn in their proportion, which is v1; v2 takes the whole pool instead.
    """

    attribute: str = "score"
    """Attribute of the pictures that holds the score; its whole part is used. A picture without
    one, or with one outside 0 to 99, gets no score tag."""
    counts: tuple[float, ...] = Field(default=(1.0, 1.0, 1.0), min_length=1)
    """Relative frequency of one, two, three tags; v1's are equal, v2's are 3, 2, 1."""
    dropped: float = Field(default=0.0, ge=0, le=1)
    """Share of visits without any; v1 none, v2 0.1."""
    blank_share: float = Field(default=0.2, ge=0, le=1)
    """Before a caption: share written with blanks for underscores (v2). Before tags, they are
    written as the tags are (v1)."""

    @field_validator("counts")
    @classmethod
    def _sound(cls, counts: tuple[float, ...]) -> tuple[float, ...]:
        return check_weights(counts)


class TagRules(Config):
    """How many of a picture's tags a prompt has, which, in what order, and how they are written."""

    mean_tags: float = Field(default=32.0, ge=0)
    """Mean of the normal distribution of the number of tags: measured by bigASP on users' prompts.
    Truncated and never below `least_tags`, the mean is 32.3 where a picture has enough tags."""
    sd_tags: float = Field(default=19.8, ge=0)
    """Its standard deviation, likewise."""
    least_tags: int = Field(default=5, ge=1)
    """Fewest tags, where a picture has so many (v1, v2)."""
    tokens_per_tag: float | None = Field(default=None, gt=0)
    """When given, a picture's number of tags is the tokens of its caption over this, so that both
    have one length (v2: 2.5); pictures without a caption keep the normal distribution."""
    priority: tuple[str, ...] = ("watermark",)
    """Tags that are kept at every visit (v1, v2). One that is the name of an attribute of the
    picture, and not a false one, is among its tags even where these lack it."""
    priority_within: int = Field(default=24, ge=1)
    """A priority tag is among the first so many, so that it stays where a prompt is too long for
    the text encoders (ours; bigASP puts it anywhere)."""
    alias_share: float = Field(default=0.2, ge=0, le=1)
    """Probability that a tag with aliases is written as one of them (v1, v2)."""
    spellings: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Relative frequency of prompts with underscores, with blanks, and mixed; equal in v1, v2."""
    blank_share: float = Field(default=0.8, ge=0, le=1)
    """In mixed prompts, the share of tags with blanks (v1, v2)."""
    comma_prompts: float = Field(default=0.8, ge=0, le=1)
    """Share of prompts whose tags are all separated by commas (v1; v2 has 1)."""
    comma_share: float = Field(default=0.8, ge=0, le=1)
    """In the others, the share of commas; else a blank separates (v1)."""
    space_share: float = Field(default=0.8, ge=0, le=1)
    """Share of commas with a blank after them (v1, v2)."""

    @field_validator("spellings")
    @classmethod
    def _sound(cls, spellings: tuple[float, float, float]) -> tuple[float, ...]:
        return check_weights(spellings)


def build_tag_prompt(
    tags: Sequence[str],
    rules: TagRules,
    draw: Draw,
    scores: Sequence[str] = (),
    aliases: AliasTable = NO_ALIASES,
    *,
    count: int | None = None,
) -> str:
    """One prompt.

    Args:
        tags: all tags of the picture, in any order; repeated ones count once.
        rules: how the prompt is made.
        draw: names the visit; nothing else is random.
        scores: score tags that come first, as `draw_scores` gives them.
        aliases: other names of tags.
        count: number of tags, when it is not to be drawn; `least_tags` and the number of priority
            tags still bound it.
    """
    return write_tags(tags, rules, draw.generator(), scores, aliases, count=count)


def write_tags(
    tags: Sequence[str],
    rules: TagRules,
    random: np.random.Generator,
    scores: Sequence[str] = (),
    aliases: AliasTable = NO_ALIASES,
    *,
    count: int | None = None,
) -> str:
    """`build_tag_prompt` with numbers from a generator that the visit has already."""
    wanted = int(rules.mean_tags + rules.sd_tags * random.standard_normal())
    chosen = _choose(tags, rules, wanted if count is None else count, random)
    if rules.alias_share > 0 and aliases.of:
        chosen = _mutate(chosen, rules.alias_share, aliases, random)
    return _write([*scores, *chosen], rules, random)


def draw_scores(
    score: int | None, rules: ScoreTags | None, random: np.random.Generator
) -> tuple[str, ...]:
    """The score tags of one visit; none without a score or rules."""
    if rules is None or score is None:
        return ()
    if random.random() < rules.dropped:
        return ()
    pool = [*(f"score_{s}_up" for s in range(1, score + 1)), f"score_{score}"]
    weights, point = rules.counts[: len(pool)], random.random()
    count = 1 + weighted_index(weights, point) if sum(weights) > 0 else len(pool)
    return tuple(pool[i] for i in random.permutation(len(pool))[:count].tolist())


def before_caption(
    scores: Sequence[str], caption: str, rules: ScoreTags, random: np.random.Generator
) -> str:
    """A caption behind its score tags, as v2 writes them: comma, blank or both in between."""
    if not scores:
        return caption
    points = random.random(2 * len(scores)).tolist()
    parts = []
    for tag, spelling, separator in zip(
        scores, points[: len(scores)], points[len(scores) :], strict=True
    ):
        parts.append(tag.replace("_", " ") if spelling < rules.blank_share else tag)
        parts.append((", ", " ", ",")[int(3 * separator)])
    return ("".join(parts) + caption).strip()


def score_of(text: str | None) -> int | None:
    """The score in an attribute's text: its whole part, when that is 0 to 99."""
    try:
        score = float(text) if text else -1.0
    except ValueError:
        return None
    return int(score) if 0 <= score < HIGHEST_SCORE + 1 else None


def expected_tags(available: int, rules: TagRules) -> float:
    """Mean number of tags in the prompts of a picture that has `available`.

    E[min(T, X)] is the sum over k = 1 ... T of P(X >= k), and X >= k exactly if the normal number
    before truncation is at least k, or k is at most `least_tags`.
    """
    return sum(
        1.0 if k <= rules.least_tags else _at_least(k, rules) for k in range(1, available + 1)
    )


def check_weights(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Relative frequencies, when they are some.

    Raises:
        ValueError: one is negative, or all are zero.
    """
    if min(weights, default=-1) < 0 or sum(weights) <= 0:
        raise ValueError(f"frequencies must be >= 0, and one of them > 0: {weights}")
    return weights


def weighted_index(weights: Sequence[float], uniform: float) -> int:
    """The index whose share of the summed weights holds the point `uniform` in [0, 1)."""
    point = uniform * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)


def _at_least(k: int, rules: TagRules) -> float:
    if rules.sd_tags == 0:
        return float(rules.mean_tags >= k)
    return 0.5 * (1 - erf((k - rules.mean_tags) / (rules.sd_tags * sqrt(2))))


def _choose(
    tags: Sequence[str], rules: TagRules, wanted: int, random: np.random.Generator
) -> list[str]:
    """The tags of the prompt, in its order."""
    all_tags = list(dict.fromkeys(filter(None, map(str.strip, tags))))
    sure, rest = [], all_tags
    first = _spellings(rules.priority)
    if not first.isdisjoint(map(str.lower, all_tags)):
        sure = [tag for tag in all_tags if tag.lower() in first]
        rest = [tag for tag in all_tags if tag.lower() not in first]
    count = max(rules.least_tags, wanted, len(sure)) - len(sure)
    chosen = [rest[i] for i in random.permutation(len(rest))[:count].tolist()]
    for tag in sure:
        # Put in one after the other at a random place: every order is equally likely.
        places = min(len(chosen) + 1, max(1, rules.priority_within - len(sure) + 1))
        chosen.insert(int(random.integers(places)), tag)
    return chosen


def _mutate(
    tags: list[str], share: float, aliases: AliasTable, random: np.random.Generator
) -> list[str]:
    mutated, of = [], aliases.of
    for tag, point in zip(tags, random.random(len(tags)).tolist(), strict=True):
        if point < share and (others := of.get(tag) or of.get(plain_tag(tag))):
            # The point is uniform below the share, so it also says which alias.
            mutated.append(others[int(point / share * len(others))])
        else:
            mutated.append(tag)
    return mutated


def _write(tags: list[str], rules: TagRules, random: np.random.Generator) -> str:
    """The tags as one text."""
    count = len(tags)
    spelling, comma, *points = random.random(2 + 3 * count).tolist()
    blanks = (0.0, 1.0, rules.blank_share)[weighted_index(rules.spellings, spelling)]
    commas = 1.0 if comma < rules.comma_prompts else rules.comma_share
    spaced = rules.space_share
    parts: list[str] = []
    for tag, spell, separate, space in zip(
        tags, points[:count], points[count : 2 * count], points[2 * count :], strict=True
    ):
        parts.append((", " if space < spaced else ",") if separate < commas else " ")
        parts.append(tag.replace("_", " ") if spell < blanks else tag.replace(" ", "_"))
    return "".join(parts[1:])


@lru_cache(maxsize=16)
def _spellings(tags: tuple[str, ...]) -> frozenset[str]:
    """Small letters, with underscores and with blanks."""
    plain = [plain_tag(tag) for tag in tags]
    return frozenset((*plain, *(tag.replace("_", " ") for tag in plain)))
