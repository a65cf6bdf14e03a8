"""The report of a study: who is preferred, how sure that is, who voted, and where scorers differ.

One HTML file that needs nothing else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.engine.study_making import plan_told
from tastemaker.engine.study_results import Scores, results
from tastemaker.engine.study_scores import read_study_scores
from tastemaker.errors import InputError, TastemakerError
from tastemaker.records.ballot import Study
from tastemaker.report.read import RunFacts
from tastemaker.report.study_section import Question, Sight, question, raters
from tastemaker.report.templates import rendered
from tastemaker.report.words import counted, several
from tastemaker.store.atomic import write_json, write_text
from tastemaker.store.people import FILE, People
from tastemaker.store.studies import read_study

PAGE, RESULTS = "study.html", "results.json"


def write_study_report(
    folder: Path | str,
    out: Path | str | None = None,
    scores: Mapping[str, Scores] | None = None,
    *,
    with_names: bool = False,
) -> dict[str, Any]:
    """Write `study.html` and `results.json`.

    Args:
        folder: of the study.
        out: where to; by default the study's own folder.
        scores: scorer -> values, to compare people with.
        with_names: whether raters are shown by name; by default by number.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: there is no study, or hardly a vote.
    """
    folder = Path(folder)
    study = read_study(folder)
    if not (folder / FILE).is_file():
        todo = f"Let people vote: tastemaker study serve {folder}."
        raise InputError(folder, "no votes", "a study with votes", todo)
    with People(folder / FILE) as people:
        stored = people.votes(study.id, superseded=True)
        names = {rater.id: rater.name for rater in people.raters()}
    found = results(study, stored, scores)
    place = folder if out is None else Path(out)
    write_json(place / RESULTS, found)
    write_text(place / PAGE, study_page(folder, study, found, names if with_names else {}))
    return found


def study_page(
    folder: Path, study: Study, found: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """The page as text; the same results give the same bytes."""
    shown = [question(line, _sight(folder, study)) for line in found["results"]]
    first = shown[0]
    told = f"{first.side} wins {first.wins} of {several(first.prompts, 'prompt')}, loses "
    told += f"{first.losses}{f', {first.ties} have no winner' if first.ties else ''}: "
    told += f"a majority win rate of {first.majority.text} {first.majority.interval}."
    return rendered(
        "study_page.html.j2",
        ("page.css", "study.css"),
        found=found,
        questions=shown,
        told=told,
        wordings={q["name"]: q["text"] for q in found["questions"]},
        raters=raters(found["raters"], names),
        plan_told=plan_told(found["plan"]),
    )


@dataclass(frozen=True)
class StudyOfRun:
    """A study step, as the report of its run shows it.

    Attributes:
        name: of the study.
        told: how many votes there are, or why there is no result.
        simulated: whether nobody has looked.
        level: of the intervals.
        questions: without pictures; none before there are votes.
        page: where the whole page lies, as seen from the run.
    """

    name: str
    told: str
    simulated: bool = False
    level: float = 0.95
    questions: tuple[Question, ...] = ()
    page: str = ""


def studies_of(run: RunFacts) -> list[StudyOfRun]:
    """The finished study steps of a run with what people have said so far; writes their pages."""
    found = []
    for step in run.of_stage("study"):
        folder = step.output("study")
        if folder is None:
            continue
        try:
            found.append(_of_step(run, folder, step.config.get("scores")))
        except (TastemakerError, OSError) as error:
            found.append(StudyOfRun(step.name, str(error)))
    return found


def _of_step(run: RunFacts, folder: Path, scores: object) -> StudyOfRun:
    name = read_study(folder).name
    place = run.find(scores, "scores")
    try:
        found = write_study_report(folder, None, read_study_scores(place) if place else None)
    except InputError as error:
        # Nobody has voted yet: that is no failure of the run.
        return StudyOfRun(name, f"No result yet ({error.got}). {error.todo}")
    blind = Sight(lambda prompt: None, lambda side, prompt: None)
    return StudyOfRun(
        name,
        f"{counted(found['votes'])} of {several(found['plan']['votes'], 'planned vote')}.",
        found["simulated"],
        found["level"],
        tuple(question(line, blind) for line in found["results"]),
        Path(os.path.relpath(folder / PAGE, run.path)).as_posix(),
    )


def _sight(folder: Path, study: Study) -> Sight:
    texts = {prompt.id: prompt.text for prompt in study.prompts}
    files = {one.name: one.files for one in study.contenders}

    def picture(side: str, prompt: str) -> Path | None:
        file = files[side].get(prompt)
        return None if file is None else folder / file

    return Sight(texts.get, picture)
