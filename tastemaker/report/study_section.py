"""What people said of the pictures, where they differ, and where scorers saw it otherwise.

The same for the votes of an evaluation, for a study step and for the page of a study.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.report import words
from tastemaker.report.cards import Card, Shown
from tastemaker.report.comparison import Comparison
from tastemaker.report.pictures import embedded

_CARDS, _CARD_PX = 6, 240


@dataclass(frozen=True)
class Sight:
    """What a page can show of the prompts.

    Attributes:
        text: prompt id -> the prompt; None where the page does not know it.
        picture: side, prompt id -> the picture.
        title: name of a score -> what a reader calls it.
    """

    text: Callable[[str], str | None]
    picture: Callable[[str, str], Path | None]
    title: Callable[[str], str] = str


@dataclass(frozen=True)
class Rate:
    """A rate with its interval, as text and as places on a line of 100."""

    text: str
    interval: str
    at: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the whole interval lies on one side of a half."""
        return "better" if self.low > 50 else "worse" if self.high < 50 else ""


@dataclass(frozen=True)
class Rater:
    """One rater, as shown."""

    name: str
    votes: str
    skipped: int
    ties: int
    left: str
    agrees: str
    reliability: str
    seconds: str
    repeats: str
    gold: str
    flags: str


@dataclass(frozen=True)
class Part:
    """One category of the prompts."""

    value: str
    prompts: int
    majority: Rate
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
    majority: Rate
    share: Rate
    sign: str
    wins: int
    ties: int
    losses: int
    votes: str
    without_flagged: Rate | None
    figures: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    parts: tuple[tuple[str, str, tuple[Part, ...]], ...]
    scorers: tuple[Beside, ...]
    apart: tuple[tuple[str, tuple[Card, ...]], ...]
    divided: tuple[Card, ...]

    @property
    def answer(self) -> str:
        """The result in a sentence."""
        if self.majority.verdict == "better":
            return f"People prefer {self.side} to {self.reference}."
        if self.majority.verdict == "worse":
            return f"People prefer {self.reference} to {self.side}."
        return f"No clear preference between {self.side} and {self.reference}."

    @property
    def prompts(self) -> int:
        """How many prompts have a vote."""
        return self.wins + self.ties + self.losses


def of_evaluation(comparison: Comparison) -> list[Question]:
    """All questions of the votes of an evaluation."""
    votes = comparison.summary.get("votes")
    rows = {row.prompt_id: row for row in comparison.rows}
    sight = Sight(
        lambda prompt: rows[prompt].text if prompt in rows else None,
        lambda side, prompt: rows[prompt].pictures.get(side),
        lambda name: _title(name, comparison),
    )
    return [question(found, sight) for found in votes["questions"]] if votes else []


def left_out(summary: Mapping[str, Any]) -> str:
    """How many votes there are, and which do not count."""
    votes = summary["votes"]
    text = f"{words.counted(votes['used'])} of {words.several(votes['votes'], 'vote')} count."
    if votes["left_out"]:
        told = ", ".join(f"{words.counted(n)} {why}" for why, n in votes["left_out"].items())
        text += f" Left out: {told}."
    return text


def question(found: Mapping[str, Any], sight: Sight) -> Question:
    """One line of `scorers.people.votes_summary`, as it is shown."""
    verdict, bias = found["verdict"], found["bias"]
    majority, without = verdict["majority"], found["without_flagged"]
    share, sign = _rate(verdict["share"]), f"p = {_p(verdict['sign_p'])}"
    figures = [
        ("share of the votes", share.text, share.interval),
        ("sign test", sign, "over prompts with a winner"),
    ]
    if verdict["exact"]:
        exact = _rate(verdict["exact"])
        figures.insert(1, ("of prompts with a winner", exact.text, exact.interval))
    if bias:
        left = _rate(bias["left"])
        figures.append(("left picture chosen", left.text, left.interval))
    if found["alpha"] is not None:
        near = f"Krippendorff's alpha; {found['alpha_interval']:.2f} with ties halfway"
        figures.append(("agreement of raters", f"{found['alpha']:.2f}", near))
    figures.append(("votes", words.counted(verdict["votes"]), _complete(found)))
    return Question(
        name=found["question"],
        side=found["side"],
        reference=found["reference"],
        majority=_rate(majority["rate"]),
        share=share,
        sign=sign,
        wins=majority["wins"],
        ties=majority["ties"],
        losses=majority["losses"],
        votes=words.counted(verdict["votes"]),
        without_flagged=None if without is None else _rate(without["majority"]["rate"]),
        figures=tuple(figures),
        notes=tuple(_notes(verdict, bias)),
        parts=tuple(
            (table["attribute"], f"{100 * table['level_each']:.2f}\u202f%", _parts(table["groups"]))
            for table in found["grouped"]
        ),
        scorers=tuple(_beside(one, sight) for one in found["scorers"]),
        apart=_apart(found, sight),
        divided=_divided(found, sight),
    )


def raters(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Rater]:
    """The raters of `scorers.people.votes_summary`, as they are shown.

    Args:
        lines: as there.
        names: id -> name; one without is called by number.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        seconds = line["seconds"]
        found.append(
            Rater(
                names.get(line["rater"], f"rater {number}"),
                words.counted(line["votes"]),
                line["skipped"],
                line["ties"],
                _share(line["left"]),
                _share(line["agrees"]),
                _share(line["reliability"]),
                "–" if seconds is None else f"{seconds:.1f}\u202fs",
                _of(line["repeats"]),
                _of(line["gold"]),
                ", ".join(line["flags"]),
            )
        )
    return found


def _complete(found: Mapping[str, Any]) -> str:
    prompts = len(found["verdict"]["outcomes"])
    lacking = prompts - found.get("complete", prompts)
    told = f"on {words.several(prompts, 'prompt')}"
    return f"{told}, of which {lacking} still lack some" if lacking else told


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


def _parts(groups: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    found = [
        Part(
            group["value"],
            len(group["verdict"]["outcomes"]),
            _rate(group["verdict"]["majority"]["rate"]),
            words.value(group["verdict"]["share"]["estimate"], "share"),
        )
        for group in groups
    ]
    return tuple(sorted(found, key=lambda part: (-part.prompts, part.value)))


def _title(name: str, comparison: Comparison) -> str:
    line = next((s for s in comparison.summary["scores"] if s["name"] == name), None)
    return words.label(line, comparison.summary["style"]).title if line else name


def _beside(one: Mapping[str, Any], sight: Sight) -> Beside:
    rate = _rate(one["agreement"]) if one["agreement"] else None
    agreement = f"{rate.text} {rate.interval}" if rate else "–"
    return Beside(sight.title(one["score"]), agreement, one["disagreements"])


def _apart(found: Mapping[str, Any], sight: Sight) -> tuple[tuple[str, tuple[Card, ...]], ...]:
    """For each scorer, the prompts where it and people chose most clearly different pictures."""
    shown = []
    for one in found["scorers"]:
        cards = []
        for each in one["clearest"]:
            people = found["side"] if each["people"] > 0.5 else found["reference"]
            other = found["reference"] if people == found["side"] else found["side"]
            most = max(each["people"], 1 - each["people"])
            told = f"people: {people} ({words.percent(most)} of {each['votes']} votes), "
            cards += _card(found, each["prompt"], f"{told}scorer: {other}", sight, len(cards))
        if cards:
            shown.append((sight.title(one["score"]), tuple(cards)))
    return tuple(shown)


def _divided(found: Mapping[str, Any], sight: Sight) -> tuple[Card, ...]:
    """Prompts about which people disagree among themselves."""
    cards: list[Card] = []
    for each in found["divided"]:
        told = f"{each['side']} for {found['side']}, {each['reference']} for {found['reference']}"
        told += f", {each['neither']} for neither" if each["neither"] else ""
        cards += _card(found, each["prompt"], told, sight, len(cards))
    return tuple(cards)


def _card(
    found: Mapping[str, Any], prompt: str, told: str, sight: Sight, already: int
) -> list[Card]:
    text = sight.text(prompt)
    if text is None or already >= _CARDS:
        return []
    sides = (found["reference"], found["side"])
    pictures = [Shown(s, embedded(sight.picture(s, prompt), _CARD_PX), None) for s in sides]
    return [Card(f"{text} — {told}", tuple(pictures))]


def _rate(found: Mapping[str, float]) -> Rate:
    places = [round(100 * min(1.0, max(0.0, found[k])), 2) for k in ("estimate", "low", "high")]
    text = words.value(found["estimate"], "share")
    return Rate(text, words.interval(found, "share"), *places)


def _share(value: float | None) -> str:
    return "–" if value is None else words.percent(value)


def _of(pair: Sequence[int] | None) -> str:
    return "–" if pair is None else f"{pair[0]} of {pair[1]}"


def _p(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
