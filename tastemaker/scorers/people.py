"""What people said beside what scorers say, of the same pictures."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tastemaker.errors import InputError
from tastemaker.records.vote import Vote
from tastemaker.stats.rater_table import rater_lines
from tastemaker.stats.study import Study, disagreements, divided, scorer_agreement, study
from tastemaker.stats.votes import Ballots, ballots

MOST_DISAGREEMENTS = 12
"""So many prompts a scorer are listed (ours); their number is always told."""

Gains = Callable[[str, str], Mapping[str, float]]
"""(side, reference) -> prompt id -> by how much a scorer finds the side better."""


@dataclass(frozen=True)
class Counted:
    """The votes that estimate rates, and how many do not, by reason.

    Attributes:
        votes: those that count.
        of_raters: these, and the repeats and gold pairs that tell of the raters only.
        left_out: reason -> number.
    """

    votes: tuple[Vote, ...]
    of_raters: tuple[Vote, ...]
    left_out: Mapping[str, int]


def counted_votes(
    votes: Sequence[Vote],
    asked: Collection[str],
    sides: Sequence[str],
    reference: str,
    withdrawn: int = 0,
) -> Counted:
    """The votes that count: between the reference and another side, on pairs drawn at random.

    Pairs that were chosen for a reason, shown again or have a known answer estimate no rate.

    Args:
        votes: all votes that were not taken back.
        asked: ids of the prompts that are compared.
        sides: names of the sides.
        reference: the side that the others are compared with.
        withdrawn: so many others were undone, or came too late.

    Raises:
        InputError: none counts.
    """
    known, named = set(asked), set(sides)
    usable, of_raters, left_out = [], [], Counter[str]()
    if withdrawn:
        left_out["undone or too late"] = withdrawn
    for vote in votes:
        if vote.reason in ("gold", "repeat"):
            left_out[f"pairs not drawn at random ({vote.reason})"] += 1
            of_raters.append(vote)
        elif {vote.a, vote.b} - named or reference not in (vote.a, vote.b):
            left_out["between other sides"] += 1
        elif vote.prompt not in known:
            left_out["of other prompts"] += 1
        elif vote.reason != "random":
            left_out[f"pairs not drawn at random ({vote.reason})"] += 1
        elif vote.choice == "skip":
            left_out["skipped"] += 1
            of_raters.append(vote)
        else:
            usable.append(vote)
            of_raters.append(vote)
    if not usable:
        voted = ", ".join(sorted({side for vote in votes for side in (vote.a, vote.b)}))
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise InputError(
            "votes",
            f"none that counts ({why}); they are between {voted}",
            f"votes between {reference} and {', '.join(s for s in sides if s != reference)}",
            "Name the sides as the study does.",
        )
    return Counted(tuple(usable), tuple(of_raters), dict(left_out))


def votes_summary(
    counted: Counted,
    judges: Mapping[str, Gains],
    groups: Mapping[str, Mapping[str, Sequence[str]]],
    pairs: Iterable[tuple[str, str]],
    *,
    questions: Iterable[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every question of a study, ready for JSON.

    `votes`, `used`, `left_out` (reason -> number), `raters` (as in `stats.rater_table`) and
    `questions`: a study as in `stats.study` for each question and pair of sides, with `scorers`
    (how often each agrees with the majority, and where not), `divided` (where people disagree) and
    `without_flagged` (the verdict without raters that are flagged; None where none is).

    Args:
        counted: the votes.
        judges: name of a score -> what it measured.
        groups: attribute -> value -> ids of prompts.
        pairs: (side, reference), each compared for itself.
        questions: in the order that is wanted; by default in that of the votes.
        level: confidence.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two prompts have a vote.
    """
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    raters = rater_lines(counted.of_raters)
    flagged = {line.rater for line in raters if line.flags}
    sound = [vote for vote in counted.votes if vote.rater not in flagged]
    pairs, lines = list(pairs), []
    for question in questions or dict.fromkeys(vote.question for vote in counted.votes):
        own = [vote for vote in counted.votes if vote.question == question]
        for side, reference in pairs:
            found = study(own, side, reference, question, groups, **options)
            if found is None:
                continue
            by_prompt = ballots(own, side, reference)
            without = study(sound, side, reference, question, **options) if flagged else None
            lines.append(
                {
                    **asdict(found),
                    "scorers": [
                        _beside(name, gains(side, reference), found, by_prompt, options)
                        for name, gains in judges.items()
                    ],
                    "divided": [asdict(one) for one in divided(by_prompt)[:MOST_DISAGREEMENTS]],
                    "without_flagged": None if without is None else asdict(without.verdict),
                }
            )
    if not lines:
        raise InputError(
            "votes", "votes on one prompt", "on at least two", "Ask about more prompts."
        )
    return {
        "votes": len(counted.votes) + sum(counted.left_out.values()),
        "used": len(counted.votes),
        "left_out": dict(counted.left_out),
        "raters": [asdict(line) for line in raters],
        "questions": lines,
    }


def _beside(
    name: str,
    gains: Mapping[str, float],
    found: Study,
    by_prompt: Ballots,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    agreement = scorer_agreement(found.verdict, gains, **options)
    apart = disagreements(by_prompt, found.verdict, gains)
    return {
        "score": name,
        "agreement": None if agreement is None else asdict(agreement),
        "disagreements": len(apart),
        "clearest": [asdict(each) for each in apart[:MOST_DISAGREEMENTS]],
    }
