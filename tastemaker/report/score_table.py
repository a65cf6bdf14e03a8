"""The lines of a comparison as a table with intervals, and bars that show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tastemaker.report import words


@dataclass(frozen=True)
class Bar:
    """One side's figure on a scale from 0 to 100; `place` says which line it is drawn on."""

    place: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Against:
    """A side beside the reference: difference, its interval, and in how many prompts it won."""

    difference: str
    interval: str
    direction: str
    better: int
    same: int
    worse: int
    units: int
    win_rate: str


@dataclass(frozen=True)
class SideRow:
    """One side of one score; `against` is None for the reference and for a side alone."""

    side: str
    value: str
    interval: str
    against: Against | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ScoreRow:
    """One line of the scores as it is shown.

    Attributes:
        title: what it is called.
        meaning: what it is.
        sides: one entry a side.
        units: prompts.
        bars: both sides on one scale; empty with more than two, where each side has its own.
    """

    title: str
    meaning: str
    sides: tuple[SideRow, ...]
    units: int
    bars: tuple[Bar, ...]


def score_rows(summary: Mapping[str, Any]) -> list[ScoreRow]:
    """One row for each line of `summary.json`."""
    return [_row(line, summary["style"]) for line in summary["scores"]]


def _row(line: Mapping[str, Any], style: str | None) -> ScoreRow:
    label, found = words.label(line, style), line["models"]
    low, high = _scale(line)
    bars = {side: _bar(one, low, high, "only") for side, one in found.items()}
    several = len(found) > 2
    both = [
        Bar(place, bar.at, bar.low, bar.high)
        for place, bar in zip(
            ("only",) if len(found) == 1 else ("one", "two"), bars.values(), strict=False
        )
    ]
    return ScoreRow(
        title=label.title,
        meaning=label.meaning,
        sides=tuple(
            SideRow(
                side,
                words.value(one["estimate"], line["unit"]),
                words.interval(one, line["unit"]),
                against_of(line, side) if side in line["against"] else None,
                (bars[side],) if several else (),
            )
            for side, one in found.items()
        ),
        units=next(iter(found.values()))["units"],
        bars=() if several else tuple(both),
    )


def against_of(line: Mapping[str, Any], side: str) -> Against:
    """A side beside the reference, as it is shown.

    Args:
        line: has `unit`, `higher_is_better` and `against`.
        side: one of `against`.
    """
    found, unit = line["against"][side], line["unit"]
    rate = found["win_rate"]
    return Against(
        difference=words.value(found["difference"]["estimate"], unit, signed=True),
        interval=words.interval(found["difference"], unit, signed=True),
        direction=words.direction(found, higher_is_better=line["higher_is_better"]),
        better=found["better"],
        same=found["same"],
        worse=found["worse"],
        units=found["difference"]["units"],
        win_rate=f"{words.value(rate['estimate'], 'share')} {words.interval(rate, 'share')}",
    )


def _scale(line: Mapping[str, Any]) -> tuple[float, float]:
    """Shares on a scale from 0 to 100 %; anything else from the lowest end to the highest."""
    if line["unit"] == "share":
        return 0.0, 1.0
    low = min(side["low"] for side in line["models"].values())
    high = max(side["high"] for side in line["models"].values())
    # A little room, so that no end touches the edge.
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _bar(found: Mapping[str, float], low: float, high: float, place: str) -> Bar:
    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return Bar(place, at(found["estimate"]), at(found["low"]), at(found["high"]))
