"""The report of a study: who is preferred, how sure that is, who voted, and where scorers differ.

One HTML file that needs nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.engine.study_results import Scores, results
from tastemaker.errors import InputError
from tastemaker.records.ballot import Study
from tastemaker.report.pictures import embedded
from tastemaker.report.templates import rendered
from tastemaker.store.atomic import write_json, write_text
from tastemaker.store.people import FILE, People
from tastemaker.store.studies import read_study

PAGE, RESULTS = "study.html", "results.json"

_SIDE_PX = 240


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
        raise InputError(folder, "no votes", "a study with votes", "tastemaker study serve.")
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
    texts = {prompt.id: prompt.text for prompt in study.prompts}
    files = {one.name: one.files for one in study.contenders}
    raters = [
        {"label": names.get(id_, f"rater {number}"), **line}
        for number, (id_, line) in enumerate(found["raters"].items(), start=1)
    ]
    scorers = []
    for name, line in found["scorers"].items():
        if line is not None:
            shown = [_disagreement(folder, files, texts, one) for one in line["disagreements"][:12]]
            scorers.append({**line, "name": name, "shown": shown})
    return rendered(
        "study_page.html.j2",
        ("page.css", "study.css"),
        found=found,
        headline=found["results"][0],
        wordings={q["name"]: q["text"] for q in found["questions"]},
        raters=raters,
        scorers=scorers,
        answer=_answer(found["results"][0]),
    )


def _answer(line: Mapping[str, Any]) -> str:
    rate = line["majority"]
    if rate["low"] > 0.5:
        return f"People prefer {line['a']} to {line['b']}."
    if rate["high"] < 0.5:
        return f"People prefer {line['b']} to {line['a']}."
    return f"No preference between {line['a']} and {line['b']} is certain."


def _disagreement(
    folder: Path,
    files: Mapping[str, Mapping[str, str]],
    texts: Mapping[str, str],
    line: Mapping[str, Any],
) -> dict[str, Any]:
    sides: Sequence[str] = (line["a"], line["b"])
    pictures = [
        {"model": name, "address": embedded(folder / files[name][line["prompt"]], _SIDE_PX)}
        for name in sides
    ]
    people, scorer = (
        sides[0 if value else 1] for value in (line["share"] > 0.5, line["margin"] > 0)
    )
    return {
        "text": texts[line["prompt"]],
        "pictures": pictures,
        "people": people,
        "scorer": scorer,
        "share": max(line["share"], 1 - line["share"]),
        "votes": line["votes"],
    }
