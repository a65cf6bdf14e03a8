"""Which comparisons become pairs: ties, margins, models, repeats, and the split by prompt.

Every comparison becomes a pair, a part of one, or a verdict that says why not.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from tastemaker.records.config import Config, as_tuple
from tastemaker.records.pair import Comparison, DroppedComparison, Pair, Split

TIE = 0.5
_LABELS = (0.0, TIE, 1.0)
_QUANTILES = {
    "min": 0.0,
    "p05": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "max": 1.0,
}


class PairRules(Config):
    """What a comparison must be to become a pair."""

    ties: Literal["drop", "half"] = "drop"
    """`drop` leaves ties out, as Diffusion-DPO does with Pick-a-Pic (Wallace et al. 2023, section
    5); `half` keeps them with the label 0.5."""
    least_margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Smallest margin of a preference, in the source's unit. Above 0, a preference without a known
    margin is dropped too; ties are for `ties` to decide."""
    same_model: bool = False
    """Only pairs whose pictures were made by one model."""
    model_contains: str = ""
    """Only pairs whose two models have this in their names: `dream` is Diffusion-DPO's
    `dreamlike_pairs_only`."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Fact of the source -> wanted values, such as `split: [train]`."""
    repeats: Literal["merge", "keep"] = "merge"
    """Comparisons of the same two pictures for the same prompt: `merge` makes one of them, by the
    mean of their labels (equal shares are a tie); `keep` leaves each a pair."""
    most_per_prompt: int | None = Field(default=None, gt=0)
    """At most so many pairs of a prompt, chosen by hash."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many pairs, chosen by hash."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of the prompts whose pairs are never trained on, chosen by the hash of the prompt
    alone, so that a prompt is on the same side in every pair set; of a few prompts at least one
    (ours)."""
    keep_facts: tuple[str, ...] = ("split", "user_id", "votes", "equally_best", "equally_worst")
    """Facts of a comparison that its pair keeps, beside the models."""

    @field_validator("where", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: as_tuple(wanted) for name, wanted in value.items()}
        return value

    @field_validator("keep_facts", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return as_tuple(value)


@dataclass(frozen=True)
class Choice:
    """What became of all comparisons.

    Attributes:
        pairs: sorted by id.
        dropped: a verdict for every comparison that is no pair, in their order.
        compared: how many comparisons there were.
        contradicted: pairs of pictures that were preferred both ways, among merged ones.
        margins: `all` and `kept`: quantiles of the known margins of preferences; only what there
            is.
    """

    pairs: tuple[Pair, ...]
    dropped: tuple[DroppedComparison, ...]
    compared: int
    contradicted: int
    margins: dict[str, dict[str, int | float]]


def choose_pairs(
    comparisons: Iterable[Comparison], rules: PairRules, evaluated: Collection[str] = ()
) -> Choice:
    """Judge comparisons. The result does not depend on the order in which they come.

    Args:
        comparisons: what the source says.
        rules: what to keep.
        evaluated: prompts that models are evaluated on; no pair may have one of them.
    """
    never = {plain_prompt(prompt) for prompt in evaluated}
    dropped: list[DroppedComparison] = []
    usable: list[Comparison] = []
    every: list[float] = []
    compared = 0
    for one in comparisons:
        compared += 1
        verdict = _verdict(one, rules, never)
        if verdict is None:
            usable.append(_canonical(one))
            if one.margin is not None and one.label != TIE:
                every.append(one.margin)
        else:
            dropped.append(verdict)
    contradicted = 0
    usable.sort(key=_order)
    if rules.repeats == "merge":
        usable, merged, contradicted = _merged(usable)
        dropped += merged
    kept = []
    for one in usable:
        verdict = _too_little(one, rules)
        if verdict is None:
            kept.append(one)
        else:
            dropped.append(verdict)
    numbers = _numbered(kept)
    kept, numbers, more = _capped(kept, numbers, rules)
    splits = split_prompts({one.prompt for one in kept}, rules.held_out)
    pairs = [
        _pair(one, number, splits[one.prompt], rules)
        for one, number in zip(kept, numbers, strict=True)
    ]
    left = [p.margin for p in pairs if p.margin is not None and p.label != TIE]
    margins = {"all": every, "kept": left}
    return Choice(
        tuple(sorted(pairs, key=lambda pair: pair.id)),
        tuple(dropped + more),
        compared,
        contradicted,
        {name: margin_quantiles(values) for name, values in margins.items() if values},
    )


def plain_prompt(prompt: str) -> str:
    """The prompt as it counts for the split: neither case nor blanks make it another one."""
    return " ".join(prompt.split()).casefold()


def split_prompts(prompts: Iterable[str], held_out: float) -> dict[str, Split]:
    """Prompt -> side, by its own hash; where none would be held out of several, the lowest is."""
    shares = {prompt: _share(plain_prompt(prompt)) for prompt in prompts}
    sides: dict[str, Split] = {
        prompt: "heldout" if share < held_out else "train" for prompt, share in shares.items()
    }
    different = sorted({(share, plain_prompt(prompt)) for prompt, share in shares.items()})
    if held_out and len(different) > 1 and "heldout" not in sides.values():
        lowest = different[0][1]
        sides |= {prompt: "heldout" for prompt in sides if plain_prompt(prompt) == lowest}
    if len(different) > 1 and "train" not in sides.values():
        highest = different[-1][1]
        sides |= {prompt: "train" for prompt in sides if plain_prompt(prompt) == highest}
    return sides


def margin_quantiles(margins: Sequence[float]) -> dict[str, int | float]:
    """Quantiles of some margins, by name, and how many there are."""
    values = np.quantile(np.asarray(margins, np.float64), list(_QUANTILES.values()))
    return {"count": len(margins), **dict(zip(_QUANTILES, values.tolist(), strict=True))}


def _verdict(one: Comparison, rules: PairRules, never: Collection[str]) -> DroppedComparison | None:
    """Why this comparison by itself is no pair."""
    facts = dict(one.facts)
    if one.problem:
        reason, _, got = one.problem.partition(": ")
        return _drop(one, reason, got)
    for name, wanted in rules.where.items():
        if facts.get(name) not in wanted:
            return _drop(one, f"not where {name}", facts.get(name, "nothing"), ", ".join(wanted))
    if not one.first or not one.second:
        return _drop(one, "a picture that is not usable")
    if one.first == one.second:
        return _drop(one, "a picture with itself", one.first[:12])
    if not one.prompt.strip():
        return _drop(one, "no prompt")
    if never and plain_prompt(one.prompt) in never:
        return _drop(one, "prompt of the evaluation", one.prompt[:80])
    return _refused_models(one, rules) or _unlabelled(one)


def _unlabelled(one: Comparison) -> DroppedComparison | None:
    if one.label is None:
        return _drop(one, "no answer", dict(one.facts).get("label_problem", ""))
    if one.label not in _LABELS:
        return _drop(one, "a label that is none", f"{one.label:g}", "1, 0 or 0.5")
    if one.margin is not None and not (math.isfinite(one.margin) and one.margin >= 0):
        return _drop(one, "a margin that is none", f"{one.margin}", "a number from 0 on")
    return None


def _refused_models(one: Comparison, rules: PairRules) -> DroppedComparison | None:
    if not (rules.same_model or rules.model_contains):
        return None
    got = " and ".join(model or "unknown" for model in one.models)
    if not all(one.models):
        return _drop(one, "model unknown", got)
    if rules.same_model and one.models[0] != one.models[1]:
        return _drop(one, "two models", got, "one model")
    if not all(rules.model_contains in model for model in one.models):
        return _drop(one, "other models", got, rules.model_contains)
    return None


def _too_little(one: Comparison, rules: PairRules) -> DroppedComparison | None:
    if one.label == TIE:
        return None if rules.ties == "half" else _drop(one, "tie", limit="ties: half keeps them")
    if rules.least_margin and one.margin is None:
        return _drop(one, "margin unknown", limit=f"{rules.least_margin:g}")
    if one.margin is not None and one.margin < rules.least_margin:
        return _drop(one, "margin too small", f"{one.margin:.6g}", f"{rules.least_margin:g}")
    return None


def _canonical(one: Comparison) -> Comparison:
    """The same comparison with its pictures in the order of their ids, which says nothing."""
    if one.first <= one.second or one.label is None:
        return one
    first, second = one.models
    return replace(
        one, first=one.second, second=one.first, label=1 - one.label, models=(second, first)
    )


def _order(one: Comparison) -> tuple[str, str, str, str, str, float]:
    return one.prompt, one.first, one.second, one.source, one.key, one.label or 0.0


def _merged(
    ordered: Sequence[Comparison],
) -> tuple[list[Comparison], list[DroppedComparison], int]:
    """One for each prompt and two pictures, verdicts for the others, and how many contradict."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in ordered:
        groups.setdefault((one.prompt, one.first, one.second), []).append(one)
    kept, dropped, contradicted = [], [], 0
    for group in groups.values():
        first, *others = group
        labels = [one.label for one in group if one.label is not None]
        if others:
            contradicted += 0.0 in labels and 1.0 in labels
            share = sum(labels) / len(labels)
            label = TIE if share == TIE else float(share > TIE)
            signed = [
                one.margin * (2 * one.label - 1)
                for one in group
                if one.margin is not None and one.label is not None
            ]
            # Margins that speak against the majority leave it none.
            ahead = max(0.0, sum(signed) * (2 * label - 1))
            margin = ahead / len(signed) if len(signed) == len(group) else None
            first = replace(first, label=label, margin=0.0 if label == TIE else margin)
        kept.append(first)
        dropped += [
            _drop(one, "merged with the same comparison", f"{one.label:g}", first.key)
            for one in others
        ]
    return kept, dropped, contradicted


def _numbered(ordered: Sequence[Comparison]) -> list[int]:
    """0 for the first comparison of two pictures and a prompt, 1 for the next one that was kept."""
    seen: dict[tuple[str, str, str], int] = {}
    numbers = []
    for one in ordered:
        place = (one.prompt, one.first, one.second)
        numbers.append(seen.get(place, 0))
        seen[place] = numbers[-1] + 1
    return numbers


def _capped(
    kept: list[Comparison], numbers: list[int], rules: PairRules
) -> tuple[list[Comparison], list[int], list[DroppedComparison]]:
    if rules.most_per_prompt is None and rules.limit is None:
        return kept, numbers, []
    ids = [_id(one, number) for one, number in zip(kept, numbers, strict=True)]
    dropped: dict[int, DroppedComparison] = {}
    of_prompt: dict[str, int] = {}
    total = 0
    for place in sorted(range(len(kept)), key=ids.__getitem__):
        one = kept[place]
        many = of_prompt.get(one.prompt, 0)
        if rules.most_per_prompt is not None and many >= rules.most_per_prompt:
            dropped[place] = _drop(one, "enough of its prompt", limit=f"{rules.most_per_prompt}")
        elif rules.limit is not None and total >= rules.limit:
            dropped[place] = _drop(one, "enough pairs", limit=f"{rules.limit}")
        else:
            of_prompt[one.prompt], total = many + 1, total + 1
    left = [place for place in range(len(kept)) if place not in dropped]
    verdicts = [dropped[place] for place in sorted(dropped)]
    return [kept[i] for i in left], [numbers[i] for i in left], verdicts


def _id(one: Comparison, number: int) -> str:
    return _digest("pair", one.prompt, one.first, one.second, str(number))[:32]


def _pair(one: Comparison, number: int, split: Split, rules: PairRules) -> Pair:
    turned = one.label == 0.0
    winner, loser = (one.second, one.first) if turned else (one.first, one.second)
    models = tuple(reversed(one.models)) if turned else one.models
    named = zip(("winner_model", "loser_model"), models, strict=True)
    facts = [*((name, model) for name, model in named if model)]
    facts += [(name, value) for name, value in one.facts if name in rules.keep_facts and value]
    label = TIE if one.label == TIE else 1.0
    return Pair(
        _id(one, number), one.prompt, winner, loser, label, one.margin, one.source, tuple(facts),
        split,
    )  # fmt: skip


def _drop(one: Comparison, reason: str, got: str = "", limit: str = "") -> DroppedComparison:
    return DroppedComparison(one.key, one.source, reason, got, limit, one.first, one.second)


def _share(text: str) -> float:
    """A number in [0, 1) that only the text determines."""
    return int(_digest("split", text)[:13], 16) / 16**13


def _digest(*fields: str) -> str:
    # Lengths before the fields, so that no two lists of them become one by joining.
    text = "".join(f"{len(field)}:{field}" for field in fields)
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32).hexdigest()
