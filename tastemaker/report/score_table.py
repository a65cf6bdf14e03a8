"""The lines of a comparison as a table with intervals, and bars that show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tastemaker.report import words


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
    models: Mapping[str, tuple[str, str]]
    difference: str
    interval: str
    direction: str
    better: int
    same: int
    worse: int
    units: int
    bars: tuple[Bar, ...]


def score_rows(summary: Mapping[str, Any]) -> list[ScoreRow]:
    """One row for each line of `summary.json`."""
    return [_row(line, summary["style"]) for line in summary["scores"]]


def _row(line: Mapping[str, Any], style: str | None) -> ScoreRow:
    label, unit = words.label(line, style), line["unit"]
    models = {
        name: (words.value(found["estimate"], unit), words.interval(found, unit))
        for name, found in line["models"].items()
    }
    compared = "difference" in line
    change = line.get("difference", {})
    return ScoreRow(
        title=label.title,
        meaning=label.meaning,
        models=models,
        difference=words.value(change["estimate"], unit, signed=True) if compared else "",
        interval=words.interval(change, unit, signed=True) if compared else "",
        direction=words.direction(line) if compared else "same",
        better=line.get("better", 0),
        same=line.get("same", 0),
        worse=line.get("worse", 0),
        units=next(iter(line["models"].values()))["units"],
        bars=_bars(line),
    )


def _bars(line: Mapping[str, Any]) -> tuple[Bar, ...]:
    """Shares on a scale from 0 to 100 %; anything else from the lowest end to the highest."""
    found = line["models"]
    low, high = 0.0, 1.0
    if line["unit"] != "share":
        low = min(model["low"] for model in found.values())
        high = max(model["high"] for model in found.values())
        # A little room, so that no end touches the edge.
        room = 0.08 * (high - low) or 1.0
        low, high = low - room, high + room

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return tuple(
        Bar(name, place(model["estimate"]), place(model["low"]), place(model["high"]))
        for name, model in found.items()
    )
