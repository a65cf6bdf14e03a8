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
from tastemaker.stats.raters import dawid_skene
from tastemaker.stats.sides import SideBias, side_bias
from tastemaker.stats.votes import Verdict, ballots, verdict


@dataclass(frozen=True)
class RaterLine:
    """One rater.

    Attributes:
        rater: who.
        votes: answers that are no skip.
        skipped: answers that are.
        left: share of the left picture among answers that chose one; None where none did.
        agrees: share of the answers that chose a side which the majority of the *other* raters
            chose too; None where no prompt has such a majority.
        reliability: Dawid and Skene's estimated share of right answers; None with fewer than two
            raters.
        seconds: median time of an answer; None when unknown.
    """

    rater: str
    votes: int
    skipped: int
    left: float | None
    agrees: float | None
    reliability: float | None
    seconds: float | None


@dataclass(frozen=True)
class Study:
    """One question about two sides, answered.

    Attributes:
        question: which one.
        side: the side that the rates are of.
        reference: the other one.
        verdict: rates and intervals.
        bias: whether places swayed the voters; None where no vote chose a side.
        alpha: Krippendorff's alpha, nominal, of raters over prompts; None where no prompt has two
            raters.
        raters: by number of votes.
        groups: value of an attribute -> verdict over its prompts, at `level_each`.
    """

    question: str
    side: str
    reference: str
    verdict: Verdict
    bias: SideBias | None
    alpha: float | None
    raters: tuple[RaterLine, ...]
    groups: Mapping[str, Verdict]
    level_each: float


def study(
    votes: Sequence[Vote],
    side: str,
    reference: str,
    question: str,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Study | None:
    """All that the votes say of a side against the reference.

    Intervals of groups are widened so that all hold together (Bonferroni).

    Args:
        votes: of any question and sides.
        side: whose rates are wanted.
        reference: the other one.
        question: which question.
        groups: value -> ids of prompts; those with fewer than two voted prompts are left out.
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
    parts = {
        value: {p: by_prompt[p] for p in ids if p in by_prompt}
        for value, ids in (groups or {}).items()
    }
    parts = {value: some for value, some in parts.items() if len(some) >= 2}
    each = 1 - (1 - level) / max(1, len(parts))
    return Study(
        question=question,
        side=side,
        reference=reference,
        verdict=verdict(by_prompt, level=level, **options),
        bias=side_bias(own, level) if any(v.choice in ("a", "b") for v in own) else None,
        alpha=_alpha(own, side),
        raters=_raters(own, side),
        groups={v: verdict(some, level=each, **options) for v, some in parts.items()},
        level_each=each,
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
    by_prompt: Mapping[str, Sequence[str]], outcome: Verdict, gains: Mapping[str, float]
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


def _seen_from(vote: Vote, side: str) -> str:
    turned = {"a": "b", "b": "a"}
    return vote.choice if vote.a == side else turned.get(vote.choice, vote.choice)


def _alpha(votes: Sequence[Vote], side: str) -> float | None:
    rows = [(v.prompt, v.rater, _seen_from(v, side)) for v in votes]
    if not rows:
        return None
    try:
        return krippendorff_alpha(choices_table(rows), "nominal")
    except ValueError:
        return None


def _raters(votes: Sequence[Vote], side: str) -> tuple[RaterLine, ...]:
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    answers = [(v.prompt, v.rater, _seen_from(v, side)) for v in votes if v.choice != "skip"]
    trust: Mapping[Any, float] = {}
    if len({rater for _, rater, _ in answers}) > 1:
        trust = dawid_skene(answers).accuracy()
    lines = [_rater(rater, own, votes, side, trust.get(rater)) for rater, own in by_rater.items()]
    return tuple(sorted(lines, key=lambda line: (-line.votes, line.rater)))


def _rater(
    rater: str, own: Sequence[Vote], every: Sequence[Vote], side: str, trust: float | None
) -> RaterLine:
    counted = [v for v in own if v.choice != "skip"]
    decided = [v for v in counted if v.choice in ("a", "b")]
    others: dict[str, Counter[str]] = {}
    for vote in every:
        if vote.rater != rater and vote.choice in ("a", "b"):
            others.setdefault(vote.prompt, Counter())[_seen_from(vote, side)] += 1
    said = [
        (_seen_from(v, side), others[v.prompt])
        for v in decided
        if v.prompt in others and others[v.prompt]["a"] != others[v.prompt]["b"]
    ]
    same = [choice == ("a" if counts["a"] > counts["b"] else "b") for choice, counts in said]
    seconds = [v.seconds for v in counted if v.seconds is not None]
    return RaterLine(
        rater=rater,
        votes=len(counted),
        skipped=len(own) - len(counted),
        left=sum(v.choice == v.left for v in decided) / len(decided) if decided else None,
        agrees=sum(same) / len(same) if same else None,
        reliability=trust,
        seconds=float(np.median(seconds)) if seconds else None,
    )
