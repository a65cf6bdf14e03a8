"""What people said of the pictures, and where scorers saw it otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.report import words
from tastemaker.report.cards import Card, Shown
from tastemaker.report.comparison import Comparison
from tastemaker.report.pictures import embedded

_CARDS, _CARD_PX = 6, 240


@dataclass(frozen=True)
class Rater:
    """One rater, as shown."""

    name: str
    votes: str
    skipped: int
    left: str
    agrees: str
    reliability: str
    seconds: str


@dataclass(frozen=True)
class Part:
    """One category of the prompts."""

    value: str
    prompts: int
    majority: str
    interval: str
    share: str


@dataclass(frozen=True)
class Beside:
    """How often a scorer chose what people chose."""

    title: str
    agreement: str
    disagreements: int


@dataclass(frozen=True)
class Question:
    """One question about two sides."""

    name: str
    side: str
    reference: str
    headline: tuple[str, str]
    wins: int
    ties: int
    losses: int
    figures: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    raters: tuple[Rater, ...]
    parts: tuple[tuple[str, str, tuple[Part, ...]], ...]
    scorers: tuple[Beside, ...]
    apart: tuple[tuple[str, tuple[Card, ...]], ...]


def questions(comparison: Comparison) -> list[Question]:
    """All questions of the votes of an evaluation."""
    votes = comparison.summary.get("votes")
    return [_question(found, comparison) for found in votes["questions"]] if votes else []


def left_out(summary: Mapping[str, Any]) -> str:
    """How many votes there are, and which do not count."""
    votes = summary["votes"]
    text = f"{words.counted(votes['used'])} of {words.several(votes['votes'], 'vote')} count."
    if votes["left_out"]:
        told = ", ".join(f"{words.counted(n)} {why}" for why, n in votes["left_out"].items())
        text += f" Left out: {told}."
    return text


def _question(found: Mapping[str, Any], comparison: Comparison) -> Question:
    verdict, bias = found["verdict"], found["bias"]
    majority, share = verdict["majority"], verdict["share"]
    figures = [
        ("share of the votes", _share(share), _interval(share)),
        ("votes", words.counted(verdict["votes"]), f"{len(found['raters'])} raters"),
        ("sign test", f"p = {_p(verdict['sign_p'])}", "over prompts with a winner"),
    ]
    if verdict["exact"]:
        figures.insert(
            1, ("of prompts with a winner", _share(verdict["exact"]), _interval(verdict["exact"]))
        )
    if bias:
        figures.append(("left picture chosen", _share(bias["left"]), _interval(bias["left"])))
    if found["alpha"] is not None:
        figures.append(("agreement of raters", f"{found['alpha']:.2f}", "Krippendorff's alpha"))
    return Question(
        name=found["question"],
        side=found["side"],
        reference=found["reference"],
        headline=(_share(majority["rate"]), _interval(majority["rate"])),
        wins=majority["wins"],
        ties=majority["ties"],
        losses=majority["losses"],
        figures=tuple(figures),
        notes=tuple(_notes(verdict, bias)),
        raters=tuple(_rater(line) for line in found["raters"]),
        parts=tuple(
            (table["attribute"], f"{100 * table['level_each']:.2f}\u202f%", _parts(table["rows"]))
            for table in found["groups"]
        ),
        scorers=tuple(_beside(one, comparison) for one in found["scorers"]),
        apart=_apart(found, comparison),
    )


def _notes(verdict: Mapping[str, Any], bias: Mapping[str, Any] | None) -> list[str]:
    said = []
    if verdict["both_bad"]:
        many = words.several(verdict["both_bad"], "prompt")
        said.append(f"In {many} most raters found neither acceptable; they count as ties.")
    if bias and not bias["left"]["low"] <= 0.5 <= bias["left"]["high"]:
        more = "left" if bias["left"]["estimate"] > 0.5 else "right"
        said.append(
            f"Raters chose the {more} picture more often than chance does; side a was on the left "
            f"in {words.percent(bias['shown_left'])} of the votes, so a balanced study hides it."
        )
    if bias and abs(bias["shown_left"] - 0.5) > 0.1:
        said.append("The places were not balanced: a bias of place looks like a preference here.")
    return said


def _rater(line: Mapping[str, Any]) -> Rater:
    def share(value: float | None) -> str:
        return "–" if value is None else words.percent(value)

    seconds = line["seconds"]
    return Rater(
        line["rater"],
        words.counted(line["votes"]),
        line["skipped"],
        share(line["left"]),
        share(line["agrees"]),
        share(line["reliability"]),
        "–" if seconds is None else f"{seconds:.1f}\u202fs",
    )


def _parts(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(
        Part(
            row["value"],
            row["prompts"],
            _share(row["majority"]["rate"]),
            _interval(row["majority"]["rate"]),
            words.value(row["share"], "share"),
        )
        for row in sorted(rows, key=lambda row: (-row["prompts"], row["value"]))
    )


def _title(name: str, comparison: Comparison) -> str:
    line = next((s for s in comparison.summary["scores"] if s["name"] == name), None)
    return words.label(line, comparison.summary["style"]).title if line else name


def _beside(one: Mapping[str, Any], comparison: Comparison) -> Beside:
    found = one["agreement"]
    agreement = f"{_share(found)} {_interval(found)}" if found else "–"
    return Beside(_title(one["score"], comparison), agreement, one["disagreements"])


def _apart(
    found: Mapping[str, Any], comparison: Comparison
) -> tuple[tuple[str, tuple[Card, ...]], ...]:
    """For each scorer, the prompts where it and people chose most clearly different pictures."""
    rows = {row.prompt_id: row for row in comparison.rows}
    sides = (found["reference"], found["side"])
    shown = []
    for one in found["scorers"]:
        cards = []
        for each in [e for e in one["clearest"] if e["prompt"] in rows][:_CARDS]:
            row = rows[each["prompt"]]
            people = sides[1] if each["people"] > 0.5 else sides[0]
            other = sides[0] if people == sides[1] else sides[1]
            pictures = tuple(
                Shown(side, embedded(row.pictures.get(side), _CARD_PX), None) for side in sides
            )
            most = max(each["people"], 1 - each["people"])
            text = (
                f"{row.text} — people: {people} ({words.percent(most)} of {each['votes']} votes), "
                f"scorer: {other}"
            )
            cards.append(Card(text, pictures))
        if cards:
            shown.append((_title(one["score"], comparison), tuple(cards)))
    return tuple(shown)


def _share(found: Mapping[str, float]) -> str:
    return words.value(found["estimate"], "share")


def _interval(found: Mapping[str, float]) -> str:
    return words.interval(found, "share")


def _p(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
