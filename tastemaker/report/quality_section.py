"""What the quality models of a run are worth, in short, with the way to their own pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.report import words
from tastemaker.report.quality_page import read_quality, write_quality_page
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.report.thumbnails import Thumbnails

_SHOWN = 10

_SHARES = {
    "accuracy_both_new": "right, both pictures new",
    "accuracy_one_new": "right, at least one new",
    "repeat_consistency": "raters agree with themselves",
}


@dataclass(frozen=True)
class Learnt:
    """One finished quality_model step.

    Attributes:
        step: the step.
        headline: how often it is right, in a sentence.
        votes: of whom and of how many pictures, in a sentence.
        figures: (name, value, interval).
        best: small pictures of the highest utilities; `junk` of rank 0.
        junk: see `best`.
        page: the address of its own page, relative to the run.
    """

    step: StepFacts
    headline: str
    votes: str
    figures: tuple[tuple[str, str, str], ...]
    best: tuple[str, ...]
    junk: tuple[str, ...]
    page: str


def learnt(run: RunFacts) -> list[Learnt]:
    """All quality models of a run; their pages are written as well. Damaged ones are left out."""
    found = []
    for step in run.of_stage("quality_model"):
        try:
            facts, collection = read_quality(step.path)
            page = write_quality_page(step.path)
            found.append(_learnt(step, facts, collection, page.relative_to(run.path).as_posix()))
        except InputError:
            continue
    return found


def _learnt(step: StepFacts, facts: Mapping[str, Any], collection: Path, page: str) -> Learnt:
    best, junk = facts["highest"][:_SHOWN], facts["junk"][:_SHOWN]
    pictures = Thumbnails(collection, [*best, *junk])
    figures = []
    for name, title in _SHARES.items():
        share = facts[name]
        if share is not None:
            between = f"{words.interval(share, 'share')} of {words.counted(share['n'])}"
            figures.append((title, words.percent(share["value"]), between))
    for name, table in facts["groups"].items():
        title = f"of the utility is by {name.removeprefix('attribute.')}"
        figures.append((title, words.percent(table["explained"]), ""))
    raters = words.several(len(facts["raters"]), "rater")
    nobody = " The raters were simulated: no person has looked at these pictures."
    return Learnt(
        step,
        headline_of(facts),
        f"{words.several(facts['answers'], 'answer')} by {raters}; "
        f"{words.several(facts['pictures'], 'picture')} ranked."
        f"{nobody if facts['simulated'] else ''}",
        tuple(figures),
        tuple(a for i in best if (a := pictures.address(i))),
        tuple(a for i in junk if (a := pictures.address(i))),
        page,
    )


def headline_of(facts: Mapping[str, Any]) -> str:
    """How often the model is right about pictures that it has not seen."""
    right = facts["accuracy_both_new"] or facts["accuracy_one_new"]
    if right is None:
        return "Too few blind pairs to say how often it is right."
    return f"{words.percent(right['value'])} right on pairs of new pictures."
