"""What a run's first steps will read: real prompts, their tokens, and the mix of batch lengths."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.curation.prompt_lengths import length_mix, window_classes
from tastemaker.models.prompt_tokens import PromptTokens
from tastemaker.models.text import TokenReport, TokenSummary, summarise
from tastemaker.training.order import DataOrder
from tastemaker.training.prompting import Prompter

LOOKED_AT = 4096
"""About so many texts of the first steps are made (ours): a second's work."""

SHOWN = 8
"""Texts that are printed (ours)."""


@dataclass(frozen=True)
class PromptPreview:
    """The texts of a run's first steps.

    Attributes:
        steps: for every step its texts with what becomes of them.
        mix: tokens that a batch is padded to -> share of the steps.
        texts: counts over all texts.
    """

    steps: tuple[tuple[tuple[str, TokenReport], ...], ...]
    mix: Mapping[int, float]
    texts: TokenSummary


def balanced(
    ids_by_bucket: Mapping[Any, Sequence[str]], prompter: Prompter, tokens: PromptTokens
) -> dict[Hashable, list[str]]:
    """The same ids, in groups of one bucket and one expected number of text windows."""
    every = [sample_id for ids in ids_by_bucket.values() for sample_id in ids]
    expected = prompter.expected_tokens(every, tokens.counts)
    classes = window_classes(expected, tokens.inside, tokens.most)
    groups: dict[Hashable, list[str]] = {}
    for bucket, ids in ids_by_bucket.items():
        for sample_id in ids:
            groups.setdefault((bucket, classes[sample_id]), []).append(sample_id)
    return groups


def look_ahead(
    prompter: Prompter,
    tokens: PromptTokens,
    ids_by_bucket: Mapping[Any, Sequence[str]],
    batch: int,
    most_steps: int,
) -> PromptPreview:
    """The texts of the first steps, exactly as the run will draw them.

    Args:
        prompter: makes the texts; its seed is the run's.
        tokens: the model's tokenizers.
        ids_by_bucket: as the run groups them.
        batch: of the run.
        most_steps: steps of the whole run.
    """
    order = DataOrder(ids_by_bucket, batch, prompter.seed)
    steps = []
    looked_at = 0
    while len(steps) < most_steps and looked_at < LOOKED_AT:
        texts = [prompter.text(visit) for visit in order.step(len(steps))]
        steps.append(tuple(zip(texts, tokens.reports(texts), strict=True)))
        looked_at += len(texts)
    mix = length_mix(
        ([report.tokens for _, report in step] for step in steps), tokens.inside, tokens.most
    )
    reports = [report for step in steps for _, report in step]
    return PromptPreview(tuple(steps), mix, summarise(reports))


def preview_lines(preview: PromptPreview, tokens: PromptTokens, shown: int = SHOWN) -> list[str]:
    """The texts of the first step as the model reads them, and the counts, in lines.

    ` / ` separates windows; what is cut off stands in brackets. These are the tokens put together
    again, so small letters and single blanks are what the model sees.
    """
    first = preview.steps[0]
    lines = [f"texts of the first step, {min(shown, len(first))} of {len(first)}:"]
    for text, report in first[:shown]:
        seen = " / ".join(tokens.seen(text)) or '(the empty text "")'
        lost = f" [cut off: {report.lost}]" if report.cut else ""
        lines.append(f"{report.tokens:>4} tokens  {seen}{lost}")
    counts = preview.texts
    lines.append(f"first {len(preview.steps)} steps: {counts}")
    of = sum(counts.windows.values())
    lines.append(
        "texts: " + _shares({tokens.inside * w: n / of for w, n in counts.windows.items()})
    )
    lines.append(mix_line(preview))
    return lines


def mix_line(preview: PromptPreview) -> str:
    """What the steps are padded to: `batches: 9 % of 75 tokens, 66 % of 150, 25 % of 225`."""
    return "batches: " + _shares(preview.mix)


def _shares(mix: Mapping[int, float]) -> str:
    """`9 % of 75 tokens, 66 % of 150, 25 % of 225`."""
    parts = [f"{100 * share:.3g} % of {length}" for length, share in mix.items()]
    return ", ".join([parts[0] + " tokens", *parts[1:]])
