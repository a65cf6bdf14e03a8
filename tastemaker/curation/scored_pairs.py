"""Comparisons from scores: the best against the worst picture of a prompt, or all against all.

No order of pictures decides anything: equal scores are a tie, and which of several equally good
pictures stands for the best is chosen by the hash of its content.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Literal

from tastemaker.curation.pair_choice import TIE
from tastemaker.records.pair import Comparison

Selecting = Literal["best_worst", "all"]


@dataclass(frozen=True)
class ScoredPicture:
    """A generated picture with its score.

    Attributes:
        id: hash of the file; empty where it cannot be used.
        prompt: the text.
        value: the score; None where there is none.
        model: what made it.
        key: its name, for the list of what was dropped.
        problem: why it cannot be used; empty where it can.
    """

    id: str
    prompt: str
    value: float | None
    model: str
    key: str
    problem: str = ""


def scored_comparisons(
    pictures: Iterable[ScoredPicture],
    *,
    select: Selecting,
    within_model: bool,
    higher_is_better: bool,
    source: str,
) -> Iterator[Comparison]:
    """The comparisons of each prompt, and a problem for each picture that takes part in none.

    Args:
        pictures: of any prompts, in any order.
        select: `best_worst` gives one comparison a prompt, `all` one for any two pictures.
        within_model: compare only pictures of one model, instead of dropping others afterwards.
        higher_is_better: the direction of good.
        source: goes into the comparisons.
    """
    groups: dict[tuple[str, str], list[ScoredPicture]] = {}
    for one in pictures:
        problem = _problem(one)
        if problem:
            yield _unusable(one, problem, source)
        else:
            model = one.model if within_model else ""
            groups.setdefault((one.prompt, model), []).append(one)
    for group in groups.values():
        alike: dict[str, ScoredPicture] = {}
        for one in sorted(group, key=lambda each: (each.id, each.key)):
            if alike.setdefault(one.id, one) is not one:
                yield _unusable(one, f"the same picture twice: as {alike[one.id].key}", source)
        own = list(alike.values())
        if len(own) < 2:
            yield _unusable(own[0], "alone with its prompt", source)
        elif select == "all":
            for first, second in combinations(own, 2):
                yield _comparison(first, second, higher_is_better, source)
        else:
            yield _best_worst(own, higher_is_better, source)


def _best_worst(own: Sequence[ScoredPicture], higher_is_better: bool, source: str) -> Comparison:
    values = [one.value for one in own if one.value is not None]
    top, bottom = max(values), min(values)
    highest = sorted((one for one in own if one.value == top), key=_lot)
    lowest = sorted((one for one in own if one.value == bottom), key=_lot)
    best, worst = (highest, lowest) if higher_is_better else (lowest, highest)
    if top == bottom:
        best, worst = highest[:1], highest[1:]
    facts = {"equally_best": len(best), "equally_worst": len(worst)} if top != bottom else {}
    many = tuple((name, str(count)) for name, count in facts.items() if count > 1)
    return _comparison(best[0], worst[0], higher_is_better, source, many)


def _comparison(
    first: ScoredPicture,
    second: ScoredPicture,
    higher_is_better: bool,
    source: str,
    facts: tuple[tuple[str, str], ...] = (),
) -> Comparison:
    if first.value is None or second.value is None:
        raise ValueError("a comparison needs two scores")
    ahead = first.value - second.value if higher_is_better else second.value - first.value
    return Comparison(
        key=f"{first.key} | {second.key}",
        prompt=first.prompt,
        first=first.id,
        second=second.id,
        label=TIE if ahead == 0 else float(ahead > 0),
        source=source,
        margin=abs(ahead),
        models=(first.model, second.model),
        facts=facts,
    )


def _problem(one: ScoredPicture) -> str:
    if one.problem:
        return one.problem
    if one.value is None:
        return "no score"
    return "" if math.isfinite(one.value) else f"a score that is no number: {one.value}"


def _unusable(one: ScoredPicture, problem: str, source: str) -> Comparison:
    return Comparison(one.key, one.prompt, one.id, "", None, source, problem=problem)


def _lot(one: ScoredPicture) -> bytes:
    """As good as random, and the same whatever the order of the pictures."""
    return blake2b(f"{one.id} {one.prompt}".encode("utf-8", "surrogateescape")).digest()
