"""What the votes of a study say, question by question: who is preferred, and can it be believed.

Pure: votes and margins in, numbers out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tastemaker.records.vote import Vote
from tastemaker.stats.agreement import choices_table, krippendorff_alpha
from tastemaker.stats.interval import Interval
from tastemaker.stats.preference_accuracy import preference_accuracy
from tastemaker.stats.sides import SideBias, side_bias
from tastemaker.stats.votes import Ballots, Verdict, ballots, verdict


@dataclass(frozen=True)
class Group:
    """The prompts that share the value of an attribute.

    Attributes:
        value: of the attribute.
        verdict: over these prompts.
    """

    value: str
    verdict: Verdict


@dataclass(frozen=True)
class Grouped:
    """The prompts told apart by an attribute.

    Attributes:
        attribute: its name.
        level_each: of the intervals of each group, so that all hold together (Bonferroni).
        groups: two or more, each with two prompts or more that have a vote.
    """

    attribute: str
    level_each: float
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Study:
    """One question about two sides, answered.

    Attributes:
        question: which one.
        side: the side that the rates are of.
        reference: the other one.
        verdict: rates and intervals.
        bias: whether places swayed the voters; None where no vote chose a side.
        alpha: Krippendorff's alpha, nominal, of raters over prompts, both-bad a tie; None where no
            prompt has two raters.
        alpha_interval: the same with a tie halfway between the sides.
        grouped: by attribute.
    """

    question: str
    side: str
    reference: str
    verdict: Verdict
    bias: SideBias | None
    alpha: float | None
    alpha_interval: float | None
    grouped: tuple[Grouped, ...]


def study(
    votes: Sequence[Vote],
    side: str,
    reference: str,
    question: str,
    groups: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Study | None:
    """All that the votes say of a side against the reference.

    Args:
        votes: of any question and sides.
        side: whose rates are wanted.
        reference: the other one.
        question: which question.
        groups: attribute -> value -> ids of prompts.
        level: confidence.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Returns:
        The study; None where fewer than two prompts have a vote.
    """
    own = [v for v in votes if v.question == question and {v.a, v.b} == {side, reference}]
    by_prompt = ballots(own, side, reference)
    if len(by_prompt) < 2:
        return None
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    tables = [
        _grouped(attribute, values, by_prompt, level, options)
        for attribute, values in (groups or {}).items()
    ]
    nominal, interval = _alphas(own, side)
    return Study(
        question=question,
        side=side,
        reference=reference,
        verdict=verdict(by_prompt, level=level, **options),
        bias=side_bias(own, level) if any(v.choice in ("a", "b") for v in own) else None,
        alpha=nominal,
        alpha_interval=interval,
        grouped=tuple(table for table in tables if len(table.groups) > 1),
    )


def _grouped(
    attribute: str,
    values: Mapping[str, Sequence[str]],
    by_prompt: Ballots,
    level: float,
    options: Mapping[str, Any],
) -> Grouped:
    parts = {
        value: {p: by_prompt[p] for p in ids if p in by_prompt} for value, ids in values.items()
    }
    parts = {value: some for value, some in parts.items() if len(some) >= 2}
    each = 1 - (1 - level) / max(1, len(parts))
    found = [Group(value, verdict(some, level=each, **options)) for value, some in parts.items()]
    return Grouped(attribute, each, tuple(found))


@dataclass(frozen=True)
class Divided:
    """A prompt about which people disagree.

    Attributes:
        prompt: its id.
        side: votes for the side.
        reference: votes for the reference.
        neither: votes for neither.
    """

    prompt: str
    side: int
    reference: int
    neither: int


def divided(by_prompt: Ballots) -> list[Divided]:
    """Prompts with votes for both sides, the most evenly split first, of these those with most.

    Args:
        by_prompt: prompt -> choices, seen from the side.
    """
    found = []
    for prompt, choices in by_prompt.items():
        counts = Counter(choices)
        if counts["a"] and counts["b"]:
            neither = counts["tie"] + counts["both_bad"]
            found.append(Divided(prompt, counts["a"], counts["b"], neither))
    return sorted(
        found,
        key=lambda d: (
            abs(d.side - d.reference) / (d.side + d.reference + d.neither),
            -d.side - d.reference,
            d.prompt,
        ),
    )


@dataclass(frozen=True)
class Disagreement:
    """A prompt where people and a scorer chose different sides.

    Attributes:
        prompt: its id.
        people: share of its votes for the side, ties half.
        votes: how many.
        margin: by how much the scorer prefers the side, in standard deviations of its margins.
    """

    prompt: str
    people: float
    votes: int
    margin: float


def disagreements(
    by_prompt: Ballots, outcome: Verdict, gains: Mapping[str, float]
) -> list[Disagreement]:
    """Where the majority of people and the scorer chose different sides, clearest first.

    Clear is a large margin of the scorer against a large majority of people.

    Args:
        by_prompt: prompt -> choices, seen from the side.
        outcome: the verdict over them.
        gains: prompt -> by how much the scorer finds the side better; above 0 is better.
    """
    spread = float(np.std(list(gains.values()))) or 1.0
    wanted = {"a": 1.0, "b": -1.0}
    found = []
    for prompt, won in outcome.outcomes.items():
        gain = gains.get(prompt)
        if gain is None or won not in wanted or gain * wanted[won] >= 0:
            continue
        counts = Counter(by_prompt[prompt])
        total = sum(counts[c] for c in ("a", "b", "tie", "both_bad"))
        share = (counts["a"] + 0.5 * (counts["tie"] + counts["both_bad"])) / total
        found.append(Disagreement(prompt, share, total, gain / spread))
    return sorted(found, key=lambda d: (-abs(d.margin) * abs(d.people - 0.5), d.prompt))


def scorer_agreement(
    outcome: Verdict, gains: Mapping[str, float], *, level: float, resamples: int, seed: int
) -> Interval | None:
    """How often a scorer chooses the side that people chose, over prompts that have a winner.

    A scorer's tie counts half. None where fewer than two prompts have a winner and a margin.
    """
    label = {"a": 1.0, "b": 0.0}
    prompts = [p for p, won in outcome.outcomes.items() if won in label and p in gains]
    if len(prompts) < 2:
        return None
    return preference_accuracy(
        [gains[p] for p in prompts],
        [label[outcome.outcomes[p]] for p in prompts],
        groups=prompts,
        level=level,
        resamples=resamples,
        seed=seed,
    )


def _alphas(votes: Sequence[Vote], side: str) -> tuple[float | None, float | None]:
    turned = {"a": "b", "b": "a"}
    rows = [
        (v.prompt, v.rater, v.choice if v.a == side else turned.get(v.choice, v.choice))
        for v in votes
    ]
    try:
        table = choices_table(rows)
        return krippendorff_alpha(table, "nominal"), krippendorff_alpha(table, "interval")
    except ValueError:
        return None, None
