"""The report of a run: one HTML file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tastemaker.report import provenance, words
from tastemaker.report.best_section import best_section
from tastemaker.report.caches import cached
from tastemaker.report.cards import cards, sheet_rows, shown_sides
from tastemaker.report.comparison import Comparison, comparisons, only_pictures
from tastemaker.report.costs import cost_figures, timeline
from tastemaker.report.curation import curated, training_pictures
from tastemaker.report.curation_page import written_pages
from tastemaker.report.grids import write_sheet
from tastemaker.report.group_section import group_tables
from tastemaker.report.pair_section import pair_sets
from tastemaker.report.quality_section import Learnt, learnt
from tastemaker.report.read import RunFacts, read_run
from tastemaker.report.score_table import score_rows
from tastemaker.report.side_names import with_names
from tastemaker.report.study_page import StudyOfRun, studies_of
from tastemaker.report.study_section import left_out, of_evaluation, raters
from tastemaker.report.templates import rendered
from tastemaker.report.trainings import FITS, trainings
from tastemaker.store.atomic import write_text

PAGE = "report.html"
SHEET = "before_after.png"

_HERO, _EXTREMES, _MOST_ROWS, _SHEET_ROWS = 6, 4, 120, 32
_HERO_PX, _CARD_PX = 320, 240


def write_report(run_path: Path) -> Path:
    """Write `report.html` into a run folder, with the pages of its curations.

    Where two models are compared there is `before_after.png`, too.

    Works with whatever the run has; the same run gives the same bytes.

    Args:
        run_path: the run's folder.

    Returns:
        The path of the page.

    Raises:
        StorageError: it cannot be written.
    """
    run = read_run(Path(run_path))
    found = with_names(run, comparisons(run))
    judged = main_comparison(found)
    main = judged or only_pictures(run)
    models, studies = learnt(run), studies_of(run)
    count, shown = training_pictures(run)
    pages = written_pages([step.path for step in run.of_stage("curate")])
    context = {
        "run": run,
        "name": str(run.facts.get("recipe", run.path.name)),
        "date": str(run.facts.get("started", ""))[:10],
        "verdict": _verdict(judged, found)
        if judged
        else _without_evaluation(run, main, models, studies),
        "main": main,
        **_pictures(main),
        "tables": [(c, score_rows(c.summary)) for c in found],
        "trust": _trust(judged.summary) if judged else [],
        "set_distances": [line for c in found for line in c.summary.get("set_distances", [])],
        "groups": group_tables(judged) if judged else [],
        **_people(judged),
        "studies": studies,
        "best": best_section(judged, "best") if judged else None,
        "generated": _generated(main),
        "quality_models": models,
        "trainings": trainings(run),
        "pair_sets": pair_sets(run),
        "curations": curated(run, pages),
        "caches": cached(run),
        "training_count": count,
        "training_pictures": shown,
        "costs": cost_figures(run),
        "timeline": timeline(run),
        "sources": provenance.picture_sources(run),
        "command": provenance.command(run),
        "facts": provenance.run_facts(run),
        "versions": provenance.version_facts(run),
        "scorers": provenance.scorer_facts(judged.summary["scores"]) if judged else [],
    }
    path = run.path / PAGE
    write_text(path, rendered("page.html.j2", ["page.css", "study.css"], **context))
    if main is not None and main.is_paired and main.rows:
        write_sheet(run.path / SHEET, *sheet_rows(main, _SHEET_ROWS))
    return path


def _verdict(main: Comparison, found: list[Comparison]) -> words.Verdict:
    """The main evaluation in words; of several, each says which models it compares."""
    others = [c for c in found if c.is_paired and c is not main]
    told = words.verdict(main.summary, main.focus)
    if not others or not main.is_paired:
        return told
    short = tuple(filter(None, (words.in_short(c.summary, c.focus) for c in others)))
    head = f"{main.focus} against {main.reference}. {told.headline}"
    return replace(told, headline=head, details=(*told.details[:1], *short, *told.details[1:]))


def main_comparison(found: list[Comparison]) -> Comparison | None:
    """The evaluation that a page is about: the last one that compares, or the last one."""
    return next((c for c in reversed(found) if c.is_paired), found[-1] if found else None)


def _pictures(main: Comparison | None) -> dict[str, Any]:
    """The cards of the page; none without an evaluation."""
    if main is None:
        return {
            "hero": [],
            "gains": [],
            "setbacks": [],
            "rows": [],
            "sides": [],
            "has_marks": False,
        }
    sides = shown_sides(main)
    return {
        "hero": cards(main, main.by_lot(max(4, _HERO * 2 // max(2, len(sides)))), _HERO_PX),
        "gains": cards(main, main.gains(_EXTREMES), _CARD_PX) if main.is_paired else [],
        "setbacks": cards(main, main.setbacks(_EXTREMES), _CARD_PX) if main.judged_by else [],
        "rows": cards(main, main.rows[:_MOST_ROWS], _CARD_PX),
        "sides": sides,
        "has_marks": main.judged_by == "style",
    }


def _people(judged: Comparison | None) -> dict[str, Any]:
    """The votes of the evaluation."""
    votes = judged.summary.get("votes") if judged else None
    if judged is None or not votes:
        return {"questions": [], "votes_told": "", "raters": []}
    names = {line["rater"]: line["rater"] for line in votes["raters"]}
    return {
        "questions": of_evaluation(judged),
        "votes_told": left_out(judged.summary),
        "raters": raters(votes["raters"], names),
    }


def _generated(main: Comparison | None) -> list[tuple[str, str]]:
    """Side -> with which settings its pictures were made; one entry for all where they agree."""
    if main is None:
        return []
    told = {}
    for side, facts in main.settings.items():
        named = ("model", "sampler", "size", "seed")
        parts = [f"{n} {facts[n]}" if n == "seed" else str(facts[n]) for n in named if n in facts]
        told[side] = ", ".join(part for part in parts if part)
    return [(side, text) for side, text in told.items() if text]


def _without_evaluation(
    run: RunFacts, made: Comparison | None, models: list[Learnt], studies: list[StudyOfRun]
) -> words.Verdict:
    """What can be said of a run that compared nothing."""
    fits = [t for t in run.of_stage(*FITS) if t.manifest]
    if not fits or fits[-1].manifest is None:
        details = _left_out(run)
        answers = [study for study in studies if study.questions]
        if answers:
            last = answers[-1]
            told = "Simulated raters: nobody has looked. " if last.simulated else ""
            return words.Verdict("unclear", last.questions[0].answer, told + last.told, details)
        if made is not None:
            head = f"Pictures of {words.several(len(made.rows), 'prompt')}"
            many = f", made in {len(made.sides)} ways from the same noise" if made.is_paired else ""
            return words.Verdict("unclear", f"{head}{many}.", "Nothing was scored.", details)
        if models:
            last = models[-1]
            return words.Verdict("unclear", last.headline, last.votes, details)
        chosen = [s.manifest.counts for s in run.of_stage("curate") if s.manifest]
        if not chosen or "kept" not in chosen[-1]:
            head = "This run has trained and compared nothing yet."
            return words.Verdict("unclear", head, "No result", details)
        kept, total = chosen[-1]["kept"], chosen[-1].get("pictures", 0)
        head = f"{words.counted(kept)} of {words.several(total, 'picture')} kept."
        sentence = "This run has trained and compared nothing yet."
        return words.Verdict("unclear", head, sentence, details)
    last = fits[-1].manifest
    images = words.counted(last.counts.get("images", 0))
    head = f"Trained on {images} {words.seen(fits[-1].stage)} in {words.lasting(last.seconds)}."
    return words.Verdict("unclear", head, "Nothing was compared in this run.", _left_out(run))


def _trust(summary: Mapping[str, Any]) -> list[str]:
    """How far the judges can be believed, in sentences."""
    said = []
    for name, facts in summary.get("judges", {}).items():
        right = facts.get("accuracy")
        if right is None:
            continue
        share = f"{words.value(right['estimate'], 'share')} {words.interval(right, 'share')}"
        if name == "style":
            said.append(
                f"The judge of style puts {share} of {right['units']} real drawings of these "
                f"concepts into their own style; it was fitted on {facts['fitted_on']} others."
            )
        if name == "concept":
            said.append(
                f"The judge of concepts recognises {share} of {right['units']} real drawings among "
                f"{facts['others'] + 1} when it knows only drawings in another style."
            )
    return said


def _left_out(run: RunFacts) -> tuple[str, ...]:
    """Steps that a page without an evaluation says nothing of, and why."""
    unfinished = [step.name for step in run.steps if step.manifest is None]
    unread = [step.name for step in run.of_stage("evaluate")]
    said = []
    if unfinished:
        said.append(f"Not finished: {', '.join(unfinished)}.")
    if unread:
        many = ", ".join(unread)
        said.append(f"Damaged, or of another version: {many}. The same command evaluates again.")
    return tuple(said)
