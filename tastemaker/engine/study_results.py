"""What the votes of a study say: rates with intervals, raters, agreement, sides, disagreements."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any

from tastemaker.engine.study_making import planned
from tastemaker.errors import InputError
from tastemaker.records.ballot import Study
from tastemaker.records.vote import Vote
from tastemaker.scorers.people import Counted, votes_summary
from tastemaker.stats.bradley_terry import Comparison, bradley_terry
from tastemaker.stats.sides import side_bias
from tastemaker.store.people_tables import StoredVote

Scores = Mapping[tuple[str, str], float]
"""(model, prompt id) -> a scorer's value, larger is better."""

_MOST_VALUES = 30
_LEAST_IN_GROUP = 3


def results(
    study: Study,
    stored: Sequence[StoredVote],
    scores: Mapping[str, Scores] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything that the report shows, as plain values.

    Rates rest on the first votes of each rater on pairs of the plan; repeats and gold pairs tell of
    the raters only. `results` has a line for each question and pair of models, as `questions` of
    `scorers.people.votes_summary`.

    Args:
        study: the plan.
        stored: its votes, superseded ones included.
        scores: scorer -> values, to compare people with.
        level: of all intervals.

    Raises:
        InputError: hardly any votes: no question and pair has two prompts with a vote.
    """
    votes = [one.vote for one in stored if one.counts]
    counted = [v for v in votes if v.reason == "random" and v.choice != "skip"]
    judges = {name: partial(_gains, values) for name, values in (scores or {}).items()}
    try:
        found = votes_summary(
            Counted(tuple(counted), tuple(votes), {}),
            judges,
            _groups(study),
            list(combinations([c.name for c in study.contenders], 2)),
            questions=[question.name for question in study.questions],
            level=level,
        )
    except InputError as error:
        raise InputError(
            f"study {study.name}",
            f"{len(counted)} votes",
            "votes for at least two prompts of a pair of models",
            "Let more people vote: tastemaker study serve STUDY.",
        ) from error
    slots = Counter((v.question, v.prompt, frozenset((v.a, v.b))) for v in counted)
    for line in found["questions"]:
        of = {line["side"], line["reference"]}
        line["complete"] = sum(
            count >= study.votes and question == line["question"] and sides == of
            for (question, _, sides), count in slots.items()
        )
    decided = any(v.choice in ("a", "b") for v in counted)
    return {
        "study": study.id,
        "name": study.name,
        "models": [{"name": c.name, "about": c.about} for c in study.contenders],
        "questions": [asdict(q) for q in study.questions],
        "simulated": any(one.viewport == "simulated" for one in stored),
        "level": level,
        "plan": planned(study),
        "votes": len(counted),
        "votes_by_reason": dict(Counter(v.reason for v in votes)),
        "skipped": sum(v.choice == "skip" for v in votes),
        "undone": sum(one.superseded_by not in (None, "late") for one in stored),
        "late": sum(one.superseded_by == "late" for one in stored),
        "results": found["questions"],
        "ranking": _ranking(study, counted, level),
        "sides": asdict(side_bias(counted, level)) if decided else None,
        "raters": found["raters"],
    }


def _gains(values: Scores, side: str, reference: str) -> dict[str, float]:
    return {
        prompt: value - values[reference, prompt]
        for (model, prompt), value in values.items()
        if model == side and (reference, prompt) in values
    }


def _groups(study: Study) -> dict[str, dict[str, list[str]]]:
    """Attribute -> value -> ids of its prompts."""
    groups: dict[str, dict[str, list[str]]] = {}
    for prompt in study.prompts:
        for name, value in prompt.attributes:
            groups.setdefault(name, {}).setdefault(value, []).append(prompt.id)
    # An attribute that tells every prompt apart is no category.
    return {
        name: dict(sorted(values.items()))
        for name, values in groups.items()
        if 2 <= len(values) <= min(_MOST_VALUES, sum(map(len, values.values())) // _LEAST_IN_GROUP)
    }


def _ranking(study: Study, votes: Sequence[Vote], level: float) -> list[dict[str, Any]]:
    """Bradley-Terry utilities of three models and more, each against the first one."""
    if len(study.contenders) < 3:
        return []
    value = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
    first = study.contenders[0].name
    lines = []
    for question in study.questions:
        rows = [
            Comparison(v.a, v.b, value[v.choice], v.prompt)
            for v in votes
            if v.question == question.name and v.choice in value
        ]
        fitted = bradley_terry(rows) if rows else None
        if fitted is None or len(fitted.items) < len(study.contenders) or fitted.group.any():
            continue
        for one in study.contenders:
            found = asdict(fitted.difference(one.name, first, level))
            lines.append({"question": question.name, "model": one.name, "difference": found})
    return lines
