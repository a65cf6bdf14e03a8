"""What the votes of a study say: rates with intervals, raters, agreement, sides, disagreements."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from tastemaker.engine.study_making import planned
from tastemaker.errors import InputError
from tastemaker.records.ballot import Study
from tastemaker.records.vote import Vote
from tastemaker.stats.agreement import choices_table, krippendorff_alpha
from tastemaker.stats.bradley_terry import Comparison, bradley_terry
from tastemaker.stats.raters import dawid_skene
from tastemaker.stats.repeats import gold_accuracy, repeat_agreement
from tastemaker.stats.sides import side_bias
from tastemaker.stats.votes import ballots, verdict
from tastemaker.stats.winrate import wilson
from tastemaker.store.people import StoredVote
from tastemaker.store.people_tables import pair_of

Scores = Mapping[tuple[str, str], float]
"""(model, prompt id) -> a scorer's value, larger is better."""

FAST_SECONDS = 0.4
"""A rater with a smaller median hardly looks (field's rule of thumb; only flagged)."""
LEAST_GOLD = 0.6
"""A rater with a smaller share of right gold answers is flagged (ours)."""

_SHOWN_DISAGREEMENTS = 24


def results(
    study: Study,
    stored: Sequence[StoredVote],
    scores: Mapping[str, Scores] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything that the report shows, as plain values.

    Rates rest on the first votes of each rater on pairs of the plan; repeats and gold pairs tell of
    the raters only.

    Args:
        study: the plan.
        stored: its votes, superseded ones included.
        scores: scorer -> values, to compare people with.
        level: of all intervals.

    Raises:
        InputError: hardly any votes: no question and pair has two prompts with a vote.
    """
    votes = [one.vote for one in stored if one.superseded_by is None]
    counted = [v for v in votes if v.reason in ("random", "active")]
    raters = _raters(votes)
    flagged = {name for name, line in raters.items() if line["flags"]}
    lines = []
    for question in study.questions:
        own = [v for v in counted if v.question == question.name]
        for a, b in combinations([c.name for c in study.contenders], 2):
            line = _pair(study, own, a, b, level)
            if line is not None:
                sound = [v for v in own if v.rater not in flagged]
                line["without_flagged"] = (
                    _pair(study, sound, a, b, level, parts=False) if flagged else None
                )
                lines.append({"question": question.name, **line})
    if not lines:
        raise InputError(
            f"study {study.name}",
            f"{len(counted)} votes",
            "votes for at least two prompts of a pair of models",
            "Let people vote: tastemaker study serve.",
        )
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
        "results": lines,
        "ranking": _ranking(study, counted, level),
        "agreement": _agreement(study, counted),
        "sides": _sides(counted, level),
        "raters": raters,
        "scorers": {
            name: _against(study, counted, values, level) for name, values in (scores or {}).items()
        },
    }


def _pair(
    study: Study, votes: Sequence[Vote], a: str, b: str, level: float, *, parts: bool = True
) -> dict[str, Any] | None:
    found = ballots(votes, a, b)
    if len(found) < 2:
        return None
    whole = verdict(found, level=level)
    line: dict[str, Any] = {
        "a": a,
        "b": b,
        "prompts": len(found),
        "complete": sum(len(choices) >= study.votes for choices in found.values()),
        "votes": whole.votes,
        "wins": whole.majority.wins,
        "losses": whole.majority.losses,
        "ties": whole.majority.ties,
        "both_bad": whole.both_bad,
        "majority": asdict(whole.majority.rate),
        "exact": None if whole.exact is None else asdict(whole.exact),
        "share": asdict(whole.share),
        "share_bootstrap": asdict(whole.share_bootstrap),
        "sign_p": whole.sign_p,
    }
    if parts:
        line["categories"] = _categories(study, whole.outcomes, level)
    return line


def _categories(study: Study, outcomes: Mapping[str, str], level: float) -> list[dict[str, Any]]:
    """Majority win rates of the prompts that share an attribute."""
    groups: dict[tuple[str, str], list[str]] = {}
    for prompt in study.prompts:
        for name, value in prompt.attributes:
            if prompt.id in outcomes:
                groups.setdefault((name, value), []).append(outcomes[prompt.id])
    names = Counter(name for name, _ in groups)
    sizes = Counter(dict.fromkeys(names, 0))
    for (name, _), won in groups.items():
        sizes[name] += len(won)
    lines = []
    for (name, value), won in sorted(groups.items()):
        # An attribute that tells every prompt apart is no category.
        if 2 <= names[name] <= min(30, sizes[name] // 3):
            counts = Counter(won)
            wins = counts["a"] + (counts["tie"] + counts["both_bad"]) / 2
            rate = asdict(wilson(wins, len(won), level))
            lines.append({"attribute": name, "value": value, "prompts": len(won), "rate": rate})
    return lines


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


def _agreement(study: Study, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    lines = []
    for question in study.questions:
        own = [v for v in votes if v.question == question.name and v.choice != "skip"]
        rows = [(_unit(v), v.rater, _choice(v)) for v in own]
        line: dict[str, Any] = {"question": question.name, "raters": len({v.rater for v in own})}
        try:
            table = choices_table(rows)
            line["nominal"] = krippendorff_alpha(table, "nominal")
            line["interval"] = krippendorff_alpha(table, "interval")
        except ValueError:
            line |= {"nominal": None, "interval": None}
        lines.append(line)
    return lines


def _sides(votes: Sequence[Vote], level: float) -> dict[str, Any] | None:
    try:
        return asdict(side_bias(votes, level))
    except ValueError:
        return None


def _raters(votes: Sequence[Vote]) -> dict[str, dict[str, Any]]:
    answered = [v for v in votes if v.choice != "skip" and v.reason in ("random", "active")]
    trusted = {}
    if answered:
        rows = [((v.question, _unit(v)), v.rater, _choice(v)) for v in answered]
        trusted = dawid_skene(rows).accuracy()
    repeats, gold = repeat_agreement(votes), gold_accuracy(votes)
    found: dict[str, dict[str, Any]] = {}
    for rater in sorted({v.rater for v in votes}):
        own = [v for v in votes if v.rater == rater]
        seconds = [v.seconds for v in own if v.seconds is not None]
        decided = [v for v in own if v.choice in ("a", "b")]
        line: dict[str, Any] = {
            "votes": sum(v.choice != "skip" for v in own),
            "skipped": sum(v.choice == "skip" for v in own),
            "seconds": median(seconds) if seconds else None,
            "ties": sum(v.choice in ("tie", "both_bad") for v in own),
            "left": sum(v.choice == v.left for v in decided) / len(decided) if decided else None,
            "repeats": repeats.get(rater),
            "gold": gold.get(rater),
            "accuracy": trusted.get(rater),
        }
        line["flags"] = _flags(line)
        found[rater] = line
    return found


def _flags(line: Mapping[str, Any]) -> list[str]:
    flags = []
    if line["seconds"] is not None and line["seconds"] < FAST_SECONDS:
        flags.append(f"median below {FAST_SECONDS:g} s")
    if line["gold"] and line["gold"][0] / line["gold"][1] < LEAST_GOLD:
        flags.append(f"gold {line['gold'][0]} of {line['gold'][1]}")
    return flags


def _against(
    study: Study, votes: Sequence[Vote], values: Scores, level: float
) -> dict[str, Any] | None:
    """How often a scorer prefers what people prefer, and where the two differ most."""
    lines, agreed, total = [], 0, 0
    question = study.questions[0].name
    own = [v for v in votes if v.question == question]
    for a, b in combinations([c.name for c in study.contenders], 2):
        margins = {
            p.id: values[a, p.id] - values[b, p.id]
            for p in study.prompts
            if (a, p.id) in values and (b, p.id) in values
        }
        spread = float(np.std(list(margins.values()))) if margins else 0.0
        for prompt, choices in ballots(own, a, b).items():
            if prompt not in margins or spread == 0:
                continue
            share = sum({"a": 1.0, "b": 0.0}.get(c, 0.5) for c in choices) / len(choices)
            margin = margins[prompt] / spread
            if share != 0.5 and margin != 0:
                total += 1
                agreed += (share > 0.5) == (margin > 0)
            gap = (share - 0.5) * 2 * -np.tanh(margin)
            line = {"prompt": prompt, "a": a, "b": b, "share": share, "votes": len(choices)}
            lines.append({**line, "margin": margin, "gap": float(gap)})
    if not total:
        return None
    lines.sort(key=lambda line: -line["gap"])
    worst = [line for line in lines if line["gap"] > 0][:_SHOWN_DISAGREEMENTS]
    rate = asdict(wilson(agreed, total, level))
    return {"question": question, "agreement": rate, "prompts": total, "disagreements": worst}


def _unit(vote: Vote) -> str:
    return f"{vote.prompt}|{pair_of(vote.a, vote.b)}"


def _choice(vote: Vote) -> str:
    """The choice as if sides were stored in the order of their names."""
    if vote.a <= vote.b or vote.choice not in ("a", "b"):
        return "tie" if vote.choice == "both_bad" else vote.choice
    return "b" if vote.choice == "a" else "a"
