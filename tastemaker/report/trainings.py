"""The trainings of a run: curves, and the handful of numbers that one wants to know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.report import words
from tastemaker.report.plots import panel_svg, training_panels
from tastemaker.report.previews import PreviewTable, preview_table
from tastemaker.report.read import RunFacts, StepFacts
from tastemaker.report.svg import Chart
from tastemaker.store import jsonl

FITS = ("fit", "fit_pairs", "fit_image_text", "fit_autoencoder")
_ERRORS = {
    "validation/mse": "validation error",
    "stable/mse": "stable error",
    "validation/loss": "validation loss",
}
"""Figures of the fixed grids whose first and last values are shown."""


_FROM_ZERO = ("winners' error", "losers' error", "predictions moved")
_SHARES = {
    "validation/accuracy": "on the right side",
    "validation/winner_drift": _FROM_ZERO[0],
    "validation/loser_drift": _FROM_ZERO[1],
    "probe/moved": _FROM_ZERO[2],
}
"""Figures of held-out pairs; errors are told as how much they rose."""


@dataclass(frozen=True)
class Training:
    """One fit step as it is shown."""

    step: StepFacts
    charts: tuple[Chart, ...]
    figures: tuple[tuple[str, str], ...]
    previews: PreviewTable | None
    notes: tuple[str, ...] = ()


def trainings(run: RunFacts) -> list[Training]:
    """All finished fits, in order."""
    found = []
    for place, step in enumerate(run.of_stage(*FITS)):
        rows = log_rows(step)
        salt = f"t{place}p"
        charts = tuple(
            Chart(panel.title, panel.note, panel_svg(panel, f"{salt}{number}"))
            for number, panel in enumerate(training_panels(rows))
        )
        figures, previews = _figures(step, rows), preview_table(step.path)
        found.append(Training(step, charts, figures, previews, _notes(step)))
    return found


def log_rows(step: StepFacts) -> list[dict[str, Any]]:
    """Lines of a fit's log; none where there is no log."""
    log = step.output("log")
    return list(jsonl.read(log / "metrics.jsonl")) if log else []


def _notes(step: StepFacts) -> tuple[str, ...]:
    """What the guard of a preference run said, and what its result is then."""
    assert step.manifest is not None
    results = step.manifest.results
    if not results.get("alarm"):
        return ()
    kept = results.get("result_of_step")
    if not results.get("ended_early"):
        return (f"Warned: {results['alarm']}",)
    of = (
        f"the best checkpoint, of step {kept}"
        if kept
        else "the last weights; no checkpoint was good"
    )
    return (f"Ended early: {results['ended_early']} The result is {of}.",)


def _figures(step: StepFacts, rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    assert step.manifest is not None
    counts, config = step.manifest.counts, step.config
    figures = []
    images = counts.get("images")
    seen = words.seen(step.stage)
    if images:
        figures.append((f"{seen} seen", words.counted(images)))
    if "pairs trained on" in counts:
        held = words.counted(counts.get("pairs held out", 0))
        figures.append(("pairs", f"{words.counted(counts['pairs trained on'])}, {held} held out"))
    if "pictures trained on" in counts:
        figures.append(("pictures", str(counts["pictures trained on"])))
    if "steps" in counts:
        figures.append((f"steps of at most {config.get('batch', '?')}", str(counts["steps"])))
    method = config.get("method")
    if isinstance(method, Mapping) and method.get("kind") == "lora":
        figures.append(("method", f"LoRA, rank {method.get('rank')}"))
    figures.append(("time", words.lasting(step.manifest.seconds)))
    if images and step.manifest.seconds:
        figures.append((f"{seen} a second", f"{images / step.manifest.seconds:.1f}"))
    for name, title in _ERRORS.items():
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if len(values) > 1:
            figures.append((title, f"{values[0]:.4f} → {values[-1]:.4f}"))
    return (*figures, *_shares(rows))


def _shares(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the held-out pairs of a preference run said first and last."""
    figures = []
    for name, title in _SHARES.items():
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            start = "" if title in _FROM_ZERO else f"{words.percent(values[0])} → "
            end = words.value(values[-1], "share", signed=title in _FROM_ZERO)
            figures.append((title, f"{start}{end}".replace("points", "%")))
    return figures
