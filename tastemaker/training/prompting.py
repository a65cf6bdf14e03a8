"""The texts of a training run: those of a visit, and what all texts of a step are padded to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tastemaker.curation.aliases import NO_ALIASES, AliasTable
from tastemaker.curation.prompt_lengths import SCORE_TOKENS
from tastemaker.curation.prompts import (
    CaptionPrompt,
    MixedPrompt,
    Prompts,
    has_text,
    plain_text,
    prompt_text,
    tag_rules,
    tags_of,
)
from tastemaker.curation.tag_prompts import expected_tags
from tastemaker.errors import InputError
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Visit

CountTokens = Callable[[Sequence[str]], list[int]]
"""Tokens of each text, start and end not counted."""


def padded(
    visits: Sequence[Visit],
    text: Callable[[Visit], str],
    windows: Callable[[Sequence[str]], int],
) -> tuple[Visit, ...]:
    """The visits of a whole step, with the windows of the longest of their texts."""
    if not visits:
        return ()
    most = windows([text(visit) for visit in visits])
    return tuple(replace(visit, windows=most) for visit in visits)


class Prompter:
    """Texts of the pictures of a run; every one is a pure function of seed, picture and visit."""

    def __init__(
        self,
        records: Mapping[str, ImageRecord],
        rules: Prompts,
        seed: int,
        aliases: AliasTable = NO_ALIASES,
        count_tokens: CountTokens | None = None,
    ) -> None:
        """Args: count_tokens: needed where the rules match tags with captions in length."""
        self.records, self.rules, self.seed, self.aliases = records, rules, seed, aliases
        self._count_tokens = count_tokens
        self._matches = not isinstance(rules, CaptionPrompt) and bool(
            tag_rules(rules).tokens_per_tag
        )

    @property
    def few_texts(self) -> bool:
        """Whether the same texts come again and again, so that their states are worth keeping."""
        return isinstance(self.rules, CaptionPrompt) and self.rules.scores is None

    def text(self, visit: Visit) -> str:
        """The text of one visit."""
        record = self.records[visit.sample_id]
        draw = Draw(self.seed, "prompt", visit.sample_id, visit.visit)
        tokens = None
        if self._matches and self._count_tokens is not None and record.captions:
            tokens = self._count_tokens([record.captions[0]])[0]
        return prompt_text(record, self.rules, draw, self.aliases, tokens)

    def plain(self, sample_id: str) -> str:
        """The text of a picture in every validation."""
        draw = Draw(self.seed, "validation prompt", sample_id)
        return plain_text(self.records[sample_id], self.rules, draw, self.aliases)

    def longest(self) -> list[str]:
        """Texts that no text of the run is longer than."""
        texts: list[str] = []
        for record in self.records.values():
            texts += record.captions
            if not isinstance(self.rules, CaptionPrompt):
                texts.append(", ".join(tags_of(record, tag_rules(self.rules))))
        return texts

    def expected_tokens(self, ids: Sequence[str], count_tokens: CountTokens) -> dict[str, float]:
        """Length of each picture's texts on average, score tags included.

        A caption counts as long as the longest that is drawn. Tags count by their mean length
        (separators included) times the mean number of them.
        """
        rules = self.rules
        extra = 0 if rules.scores is None else SCORE_TOKENS
        by_caption = [] if rules.kind == "tags" else [i for i in ids if self.records[i].captions]
        drawn = [self.records[i].captions[: len(_weights(rules))] for i in by_caption]
        counts = iter(count_tokens([text for texts in drawn for text in texts]))
        found = {
            sample_id: extra + float(max(next(counts) for _ in texts))
            for sample_id, texts in zip(by_caption, drawn, strict=True)
        }
        own = tag_rules(rules)
        rest = [i for i in ids if i not in found]
        tags = [tags_of(self.records[i], own) for i in rest]
        for sample_id, have, tokens in zip(
            rest, tags, count_tokens([", ".join(some) for some in tags]), strict=True
        ):
            share = expected_tags(len(have), own) / max(1, len(have))
            found[sample_id] = extra + tokens * share
        return {sample_id: found[sample_id] for sample_id in ids}


def refuse_textless(prompter: Prompter, ids: Sequence[str], selection: str) -> None:
    """Stop before a model is trained on pictures that nobody has described.

    Raises:
        InputError: a picture has no caption, no tags, or neither, as the rules ask.
    """
    bare = [i for i in ids if not has_text(prompter.records[i], prompter.rules)]
    if not bare:
        return
    lacking, rule = {
        "captions": ("a caption", "captioned"),
        "tags": ("tags", "tagged"),
        "mixed": ("captions or tags", "captioned"),
    }[prompter.rules.kind]
    todo = f"Add {lacking.removeprefix('a ')}s" if rule == "captioned" else "Add tags"
    raise InputError(
        selection,
        f"{len(bare)} pictures without {lacking}, first {bare[0][:12]}",
        f"{lacking} for every picture that is trained on",
        todo + " beside the pictures, or a rule to the curate step that drops those without.",
    )


def _weights(rules: Prompts) -> tuple[float, ...]:
    return rules.weights if isinstance(rules, CaptionPrompt | MixedPrompt) else ()
