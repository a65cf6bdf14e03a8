"""Raters: how much they answered, how fast, and how far they can be believed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tastemaker.records.vote import Vote
from tastemaker.stats.raters import dawid_skene
from tastemaker.stats.repeats import gold_accuracy, repeat_agreement

FAST_SECONDS = 0.4
"""A rater with a smaller median hardly looks (a rule of thumb; only flagged)."""
LEAST_GOLD = 0.6
"""A rater with a smaller share of right gold answers is flagged (ours)."""


@dataclass(frozen=True)
class RaterLine:
    """One rater, over all questions and sides.

    Attributes:
        rater: who.
        votes: answers that are no skip, repeats and gold pairs among them.
        skipped: answers that are.
        ties: answers that chose neither side.
        left: share of the left picture among answers that chose one; None where none did.
        agrees: share of the answers that chose a side which the majority of the *other* raters
            chose too; None where no pair has such a majority.
        reliability: Dawid and Skene's estimated share of right answers; None with fewer than two
            raters.
        seconds: median time of an answer; None when unknown.
        repeats: (same answers, pairs shown again); None where none was.
        gold: (right answers, gold pairs); None where none was shown.
        flags: why the answers may be worth little; nobody is left out for it.
    """

    rater: str
    votes: int
    skipped: int
    ties: int
    left: float | None
    agrees: float | None
    reliability: float | None
    seconds: float | None
    repeats: tuple[int, int] | None
    gold: tuple[int, int] | None
    flags: tuple[str, ...]


def rater_lines(votes: Sequence[Vote]) -> tuple[RaterLine, ...]:
    """All raters, by number of votes.

    What raters are compared by rests on pairs drawn at random; repeats and gold pairs have columns
    of their own.

    Args:
        votes: that count, of all questions and sides, in the order in which they came.
    """
    fair = [v for v in votes if v.reason == "random" and v.choice != "skip"]
    answers = [(_unit(v), v.rater, _choice(v)) for v in fair]
    trust: Mapping[Any, float] = {}
    if len({rater for _, rater, _ in answers}) > 1:
        trust = dawid_skene(answers).accuracy()
    said: dict[tuple[str, str, str, str], Counter[str]] = {}
    for unit, _, choice in answers:
        said.setdefault(unit, Counter())[choice] += 1
    repeats, gold = repeat_agreement(votes), gold_accuracy(votes)
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    lines = []
    for rater, own in by_rater.items():
        counted = [v for v in own if v.choice != "skip"]
        decided = [v for v in counted if v.choice in ("a", "b")]
        seconds = [v.seconds for v in counted if v.seconds is not None]
        usual = float(median(seconds)) if seconds else None
        lines.append(
            RaterLine(
                rater=rater,
                votes=len(counted),
                skipped=len(own) - len(counted),
                ties=len(counted) - len(decided),
                left=sum(v.choice == v.left for v in decided) / len(decided) if decided else None,
                agrees=_agrees([v for v in decided if v.reason == "random"], said),
                reliability=trust.get(rater),
                seconds=usual,
                repeats=repeats.get(rater),
                gold=gold.get(rater),
                flags=_flags(usual, gold.get(rater)),
            )
        )
    return tuple(sorted(lines, key=lambda line: (-line.votes, line.rater)))


def _agrees(
    decided: Sequence[Vote], said: Mapping[tuple[str, str, str, str], Counter[str]]
) -> float | None:
    same = []
    for vote in decided:
        own = _choice(vote)
        others = said[_unit(vote)] - Counter([own])
        if others["a"] != others["b"]:
            same.append(own == ("a" if others["a"] > others["b"] else "b"))
    return sum(same) / len(same) if same else None


def _flags(seconds: float | None, gold: tuple[int, int] | None) -> tuple[str, ...]:
    flags = []
    if seconds is not None and seconds < FAST_SECONDS:
        flags.append(f"median below {FAST_SECONDS:g} s")
    if gold and gold[0] / gold[1] < LEAST_GOLD:
        flags.append(f"gold {gold[0]} of {gold[1]}")
    return tuple(flags)


def _unit(vote: Vote) -> tuple[str, str, str, str]:
    """Question, prompt and both sides: what all raters were asked alike."""
    return vote.question, vote.prompt, min(vote.a, vote.b), max(vote.a, vote.b)


def _choice(vote: Vote) -> str:
    """The choice as seen from the side that comes first by name; both-bad is a tie."""
    if vote.choice not in ("a", "b"):
        return "tie" if vote.choice == "both_bad" else vote.choice
    return {"a": "b", "b": "a"}[vote.choice] if vote.a > vote.b else vote.choice
