"""The report of a run: one HTML file that needs nothing else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker import __version__
from tastemaker.engine.progress import duration
from tastemaker.report import provenance, words
from tastemaker.report.comparison import Comparison, PicturePair, comparisons
from tastemaker.report.curation import curated, training_pictures
from tastemaker.report.grids import PairOfPictures, write_pair_sheet
from tastemaker.report.pictures import data_address
from tastemaker.report.plots import panel_svg, training_panels
from tastemaker.report.read import RunFacts, StepFacts, read_run
from tastemaker.store import jsonl
from tastemaker.store.atomic import write_text
from tastemaker.store.images import load_image

PAGE = "report.html"
SHEET = "before_after.png"

_HERO, _EXTREMES, _MOST_PAIRS, _SHEET_PAIRS = 6, 4, 200, 32


@dataclass(frozen=True)
class Card:
    """One pair as it is shown; `marks` say whether each picture is in the taught style, if judged."""

    text: str
    before: str | None
    after: str | None
    marks: tuple[bool | None, bool | None]


@dataclass(frozen=True)
class Bar:
    """One model's figure on a scale from 0 to 100."""

    model: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreRow:
    """One line of the scores as it is shown."""

    title: str
    meaning: str
    models: Mapping[str, str]
    difference: str
    direction: str
    better: int
    same: int
    worse: int
    units: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Training:
    """One fit step as it is shown."""

    step: StepFacts
    charts: tuple[tuple[str, str, Any], ...]
    figures: tuple[tuple[str, str], ...]


def write_report(run_path: Path) -> Path:
    """Write `report.html` into a run folder, and `before_after.png` where two models are compared.

    Works with whatever the run has; the same run gives the same bytes.

    Args:
        run_path: the run's folder.

    Returns:
        The path of the page.

    Raises:
        StorageError: it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run = read_run(Path(run_path))
    found = comparisons(run)
    main = next((c for c in reversed(found) if c.is_paired), found[-1] if found else None)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    count, shown = training_pictures(run)
    cards = _Cards(main)
    context = {
        "style_sheet": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        "version": __version__,
        "run": run,
        "name": str(run.facts.get("recipe", run.path.name)),
        "date": str(run.facts.get("started", ""))[:10],
        "verdict": words.verdict(main.summary) if main else _without_evaluation(run),
        "main": main,
        "hero": cards.of(main.by_lot(_HERO)) if main else [],
        "gains": cards.of(main.gains(_EXTREMES)) if main and main.is_paired else [],
        "setbacks": cards.of(main.setbacks(_EXTREMES)) if main and main.judged_by else [],
        "pairs": cards.of(main.pairs[:_MOST_PAIRS]) if main else [],
        "has_marks": cards.has_marks,
        "tables": [(c, score_rows(c.summary)) for c in found],
        "trust": _trust(main.summary) if main else [],
        "trainings": _trainings(run),
        "curations": curated(run),
        "training_count": count,
        "training_pictures": shown,
        "timeline": _timeline(run),
        "sources": provenance.picture_sources(run),
        "command": provenance.command(run),
        "facts": provenance.run_facts(run),
        "versions": provenance.version_facts(run),
        "scorers": provenance.scorer_facts(main.summary["scores"]) if main else [],
    }
    page = environment.get_template("page.html.j2").render(context)
    path = run.path / PAGE
    write_text(path, page)
    if main is not None and main.is_paired:
        write_pair_sheet(run.path / SHEET, _sheet(main))
    return path


class _Cards:
    """Cards of one comparison; each picture is embedded once and shown wherever it is named."""

    def __init__(self, comparison: Comparison | None) -> None:
        judged_by = comparison.judged_by if comparison else None
        self.has_marks = judged_by == "style"

    def of(self, pairs: Sequence[PicturePair]) -> list[Card]:
        return [
            Card(
                pair.text,
                _address(pair.before),
                _address(pair.after),
                (self._mark(pair.score_before), self._mark(pair.score_after)),
            )
            for pair in pairs
        ]

    def _mark(self, score: float | None) -> bool | None:
        return None if score is None or not self.has_marks else score > 0
