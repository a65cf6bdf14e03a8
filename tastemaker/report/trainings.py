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


@dataclass(frozen=True)
class Training:
    """One fit step as it is shown."""

    step: StepFacts
    charts: tuple[Chart, ...]
    figures: tuple[tuple[str, str], ...]
    previews: PreviewTable | None


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
        found.append(Training(step, charts, _figures(step, rows), preview_table(step.path)))
    return found


def log_rows(step: StepFacts) -> list[dict[str, Any]]:
    """Lines of a fit's log; none where there is no log."""
    log = step.output("log")
    return list(jsonl.read(log / "metrics.jsonl")) if log else []


def _figures(step: StepFacts, rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    assert step.manifest is not None
    counts, config = step.manifest.counts, step.config
    figures = []
    images = counts.get("images")
    if images:
        figures.append(("images seen", words.counted(images)))
    if "pictures trained on" in counts:
        figures.append(("pictures", str(counts["pictures trained on"])))
    if "steps" in counts:
        figures.append((f"steps of {config.get('batch', '?')}", str(counts["steps"])))
    method = config.get("method")
    if isinstance(method, Mapping) and method.get("kind") == "lora":
        figures.append(("method", f"LoRA, rank {method.get('rank')}"))
    figures.append(("time", words.lasting(step.manifest.seconds)))
    if images and step.manifest.seconds:
        figures.append(("images a second", f"{images / step.manifest.seconds:.1f}"))
    for name, title in _ERRORS.items():
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if len(values) > 1:
            figures.append((title, f"{values[0]:.4f} → {values[-1]:.4f}"))
    return tuple(figures)
