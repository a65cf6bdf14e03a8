"""What one plot of a training shows: curves read from its log, with a title and a sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        label: what it is called beside its end; empty for the only line of a panel.
        images: samples seen.
        values: the figures, finite.
        noisy: drawn faint, with a running mean over it.
    """

    label: str
    images: tuple[float, ...]
    values: tuple[float, ...]
    noisy: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: above it.
        note: a sentence below it.
        curves: at most three.
        axis: what `Curve.images` counts in this panel.
        unit: `share` for values that are read as percent.
        level: where a dashed line lies across, such as chance; None for none.
    """

    title: str
    note: str
    curves: tuple[Curve, ...] = field(default_factory=tuple)
    axis: str = "images seen"
    unit: str = ""
    level: float | None = None


def curve_of(
    rows: Sequence[Mapping[str, Any]], name: str, label: str, *, noisy: bool = False
) -> Curve:
    """One figure of a log over the images seen; rows without it are passed over."""
    points = [(float(row["images"]), float(row[name])) for row in rows if is_number(row.get(name))]
    images, values = zip(*points, strict=True) if points else ((), ())
    return Curve(label, images, values, noisy)


def timesteps_of(rows: Sequence[Mapping[str, Any]], start: str) -> list[int]:
    """The timesteps that figures of this name are logged for, in order."""
    names = {name for row in rows for name in row if name.startswith(start)}
    return sorted(int(name[len(start) :]) for name in names if name[len(start) :].isdigit())


def is_number(value: object) -> bool:
    """Whether a value of a log can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)
