"""Comparisons from votes: the majority of the answers to one question about two pictures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tastemaker.curation.pair_choice import TIE
from tastemaker.records.pair import Comparison
from tastemaker.records.vote import Choice, Vote

BothBad = Literal["drop", "tie"]
Outcome = Literal["a", "b", "tie", "both_bad"]
_TURNED: Mapping[Choice, Choice] = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Shown:
    """What a side of a vote stands for.

    Attributes:
        id: of the picture; empty where it is not found.
        model: what made it; empty where that is unknown.
        prompt: its own text, where the vote's prompt has none.
        problem: why it is not found.
    """

    id: str
    model: str = ""
    prompt: str = ""
    problem: str = ""


def voted_comparisons(
    votes: Iterable[tuple[str, Vote | str]],
    picture_of: Callable[[str, str], Shown],
    texts: Mapping[str, str],
    outcome_of: Callable[[Sequence[Choice]], Outcome],
    *,
    question: str,
    both_bad: BothBad,
    least_votes: int,
    source: str,
) -> Iterator[Comparison]:
    """One comparison for each prompt and two sides, a problem for each vote that does not count.

    Not counted: a vote sent twice, one that was skipped, one on another question, on a gold pair
    (its answer was known), on a pair shown again, and the second one of the same rater about the
    same two.

    Args:
        votes: (name, vote), or (name, why the row is none).
        picture_of: prompt id, side -> its picture.
        texts: prompt id -> text; where an id has none, both pictures must have the same.
        outcome_of: the result of the answers about one pair, as a study counts them.
        question: the one that counts.
        both_bad: what a majority for `both_bad` means: no preference to learn from, or a tie.
        least_votes: fewer give no comparison.
        source: goes into the comparisons.
    """
    groups: dict[tuple[str, str, str], list[Choice]] = {}
    seen: set[str] = set()
    asked: set[tuple[str, str, str, str]] = set()
    for key, vote in votes:
        if isinstance(vote, str):
            yield Comparison(key, "", "", "", None, source, problem=vote)
            continue
        sides = min(vote.a, vote.b), max(vote.a, vote.b)
        problem = _not_counted(vote, question, seen, asked)
        if problem:
            yield Comparison(key, texts.get(vote.prompt, ""), "", "", None, source, problem=problem)
            continue
        choice = vote.choice if vote.a == sides[0] else _TURNED.get(vote.choice, vote.choice)
        groups.setdefault((vote.prompt, *sides), []).append(choice)
    for (prompt, a, b), choices in groups.items():
        key = f"{prompt}: {a} | {b}"
        first, second = picture_of(prompt, a), picture_of(prompt, b)
        text = texts.get(prompt) or (first.prompt if first.prompt == second.prompt else "")
        problem = first.problem or second.problem
        if not problem and not text:
            problem = f"no text of the prompt: {prompt}"
        if not problem and len(choices) < least_votes:
            problem = f"fewer votes than asked for: {len(choices)}"
        outcome = outcome_of(choices)
        if not problem and outcome == "both_bad" and both_bad == "drop":
            problem = f"neither is acceptable: {len(choices)} votes"
        share = _share(choices)
        label = {"a": 1.0, "b": 0.0}.get(outcome, TIE)
        yield Comparison(
            key=key,
            prompt=text,
            first=first.id,
            second=second.id,
            label=label,
            source=source,
            margin=0.0 if label == TIE else abs(2 * share - 1),
            models=(first.model, second.model),
            facts=(("votes", str(len(choices))),),
            problem=problem,
        )


def _share(choices: Sequence[Choice]) -> float:
    """Share of the votes of the first side, all but clear ones half."""
    return sum({"a": 1.0, "b": 0.0}.get(choice, TIE) for choice in choices) / len(choices)


def _not_counted(
    vote: Vote, question: str, seen: set[str], asked: set[tuple[str, str, str, str]]
) -> str:
    if vote.id in seen:
        return "a vote sent twice"
    seen.add(vote.id)
    if vote.question != question:
        return f"another question: {vote.question}"
    if vote.choice == "skip":
        return "skipped"
    if vote.reason == "gold":
        return "a gold pair"
    if vote.reason == "repeat":
        return "a pair shown again"
    about = (vote.rater, vote.prompt, min(vote.a, vote.b), max(vote.a, vote.b))
    if about in asked:
        return "the same rater again"
    asked.add(about)
    return ""
