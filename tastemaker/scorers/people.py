"""What people said beside what scorers say, of the same pictures."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tastemaker.errors import InputError
from tastemaker.records.vote import Vote
from tastemaker.scorers.figures import Measured
from tastemaker.stats.study import Study, disagreements, scorer_agreement, study
from tastemaker.stats.votes import ballots

MOST_DISAGREEMENTS = 12
"""So many prompts a scorer are listed (ours); their number is always told."""


@dataclass(frozen=True)
class Counted:
    """The votes that estimate rates, and how many do not, by reason."""

    votes: tuple[Vote, ...]
    left_out: Mapping[str, int]


def counted_votes(
    votes: Sequence[Vote], asked: Collection[str], sides: Sequence[str], reference: str
) -> Counted:
    """The votes that count: between the reference and another side, on pairs drawn at random.

    Pairs that were chosen for a reason, shown again or have a known answer estimate no rate.

    Args:
        votes: all votes.
        asked: ids of the prompts that are compared.
        sides: names of the sides.
        reference: the side that the others are compared with.

    Raises:
        InputError: none counts.
    """
    known, named = set(asked), set(sides)
    usable, left_out = [], Counter()
    for vote in votes:
        if {vote.a, vote.b} - named or reference not in (vote.a, vote.b):
            left_out["between other sides"] += 1
        elif vote.prompt not in known:
            left_out["of other prompts"] += 1
        elif vote.reason != "random":
            left_out[f"pairs not drawn at random ({vote.reason})"] += 1
        else:
            usable.append(vote)
    if not usable:
        voted = ", ".join(sorted({side for vote in votes for side in (vote.a, vote.b)}))
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise InputError(
            "votes",
            f"none that counts ({why}); they are between {voted}",
            f"votes between {reference} and {', '.join(s for s in sides if s != reference)}",
            "Name the sides as the study does.",
        )
    return Counted(tuple(usable), dict(left_out))


def votes_summary(
    counted: Counted,
    figures: Sequence[Measured],
    prompts: Mapping[str, Mapping[str, Sequence[str]]],
    sides: Sequence[str],
    reference: str,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every question of a study, ready for JSON.

    `votes`, `used`, `left_out` (reason -> number) and `questions`: a study as in `stats.study` for
    each question and side, with `groups` by attribute and `scorers` (how often each agrees with the
    majority, and where not).

    Args:
        counted: the votes.
        figures: what scorers measured.
        prompts: attribute -> value -> ids of prompts.
        sides: names of the sides.
        reference: the side that the others are compared with.
        level: confidence.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two prompts have a vote.
    """
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    usable = counted.votes
    questions = []
    for question in dict.fromkeys(vote.question for vote in usable):
        for side in sides:
            found = side != reference and study(usable, side, reference, question, **options)
            if found:
                by_prompt = ballots(
                    [vote for vote in usable if vote.question == question], side, reference
                )
                questions.append(
                    {
                        **asdict(found),
                        "groups": _groups(usable, found, prompts, options),
                        "scorers": [_beside(one, found, by_prompt, options) for one in figures],
                    }
                )
    if not questions:
        raise InputError(
            "votes", "votes on one prompt", "on at least two", "Ask about more prompts."
        )
    return {
        "votes": len(usable) + sum(counted.left_out.values()),
        "used": len(usable),
        "left_out": dict(counted.left_out),
        "questions": questions,
    }


def _groups(
    votes: Sequence[Vote],
    found: Study,
    prompts: Mapping[str, Mapping[str, Sequence[str]]],
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    tables = []
    for attribute, groups in prompts.items():
        split = study(votes, found.side, found.reference, found.question, groups, **options)
        if split is None or len(split.groups) < 2:
            continue
        rows = [
            {
                "value": value,
                "prompts": len(one.outcomes),
                "majority": asdict(one.majority),
                "share": one.share.estimate,
            }
            for value, one in split.groups.items()
        ]
        tables.append({"attribute": attribute, "level_each": split.level_each, "rows": rows})
    return tables


def _beside(
    one: Measured, found: Study, by_prompt: Mapping[str, Sequence[str]], options: Mapping[str, Any]
) -> dict[str, Any]:
    gains = one.gains(found.side, found.reference)
    agreement = scorer_agreement(found.verdict, gains, **options)
    apart = disagreements(by_prompt, found.verdict, gains)
    return {
        "score": one.figure.name,
        "agreement": None if agreement is None else asdict(agreement),
        "disagreements": len(apart),
        "clearest": [asdict(each) for each in apart[:MOST_DISAGREEMENTS]],
    }
