"""The curves of a training run as SVG in the colours and the type of the page around it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tastemaker.report.svg import INK, SERIES, bare_axes, figure_svg, short_count

_PER_TIMESTEP = re.compile(r"_t\d|/t\d")
_FIXED_NOTE = "Plain error: validation on held-out pictures, stable on trained ones."


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
    """

    title: str
    note: str
    curves: tuple[Curve, ...] = field(default_factory=tuple)


def training_panels(rows: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """The panels that a training log has figures for: fixed grids, loss, learning rate, gradient.

    Args:
        rows: lines of `metrics.jsonl`: `images`, and figures by name.
    """
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "images"))
    fixed = [n for n in names if "/" in n and not _PER_TIMESTEP.search(n)]
    groups: dict[str, list[str]] = {}
    for name in fixed:
        groups.setdefault(name.split("/", 1)[1], []).append(name)
    panels = []
    for measure, members in groups.items():
        curves = tuple(_curve(rows, name, name.split("/")[0]) for name in members[:3])
        plain = measure in ("mse", "loss")
        title = "On fixed pictures and noise" if plain else measure.replace("_", " ")
        note = _FIXED_NOTE if plain else "On held-out pictures."
        panels.append(Panel(title, note, curves))
    if "loss" in names:
        note = "Of each logged batch, and its running mean; mostly the noise of drawn timesteps."
        panels.append(Panel("Training loss", note, (_curve(rows, "loss", "", noisy=True),)))
    if "lr" in names:
        note = "As it was in each logged step."
        panels.append(Panel("Learning rate", note, (_curve(rows, "lr", ""),)))
    if "grad_norm" in names:
        curve = _curve(rows, "grad_norm", "", noisy=True)
        panels.append(Panel("Norm of the gradient", "Before clipping.", (curve,)))
    return [panel for panel in panels if any(len(curve.values) > 1 for curve in panel.curves)]


def panel_svg(panel: Panel, salt: str) -> str:
    """One panel as an `<svg>` element without size, for inline use.

    Args:
        panel: what to draw.
        salt: makes the ids inside unique in the page; the same salt gives the same bytes.
    """
    return figure_svg(lambda axes: _draw(axes, panel), panel.title, salt)


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for curve, colour in zip(panel.curves, SERIES, strict=False):
        marker = "o" if len(curve.values) <= 12 and not curve.noisy else ""
        if curve.noisy and len(curve.values) > 8:
            axes.plot(curve.images, curve.values, color=colour, alpha=0.25, lw=0.8)
            axes.plot(curve.images, _running_mean(curve.values), color=colour, lw=1.8)
        else:
            axes.plot(curve.images, curve.values, color=colour, lw=1.8, marker=marker, ms=3.5)
    _label_ends(axes, panel.curves)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(short_count))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    largest = max((abs(v) for curve in panel.curves for v in curve.values), default=1.0)
    if largest < 1e-2:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlabel("images seen", color=INK)
    bare_axes(axes)


def _label_ends(axes: Any, curves: Sequence[Curve]) -> None:
    """Names beside the ends of the lines, pushed apart where they would touch."""
    named = [
        (curve.values[-1], curve, colour)
        for curve, colour in zip(curves, SERIES, strict=False)
        if curve.label and curve.values
    ]
    if not named:
        return
    low = min(min(c.values) for _, c, _ in named)
    high = max(max(c.values) for _, c, _ in named)
    least = (high - low) * 0.1 or 1.0
    at = -math.inf
    for value, curve, colour in sorted(named, key=lambda item: item[0]):
        at = max(value, at + least)
        axes.annotate(
            curve.label,
            (curve.images[-1], at),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


def _curve(
    rows: Sequence[Mapping[str, Any]], name: str, label: str, *, noisy: bool = False
) -> Curve:
    points = [
        (float(row["images"]), float(row[name]))
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    images, values = zip(*points, strict=True) if points else ((), ())
    return Curve(label, images, values, noisy)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over about a twelfth of the curve, narrower at its ends."""
    half = max(1, len(values) // 24)
    means = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        part = values[i - reach : i + reach + 1]
        means.append(math.fsum(part) / len(part))
    return means


def _short(value: float) -> str:
    """`4.5e-4`, with a true minus."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "\u2212")
