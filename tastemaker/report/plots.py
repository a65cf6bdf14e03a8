"""The curves of a training run as SVG in the colours and the type of the page around it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tastemaker.report.pair_panels import has_pairs, pair_panels
from tastemaker.report.panel import Curve, Panel, curve_of, is_number
from tastemaker.report.svg import INK, SERIES, bare_axes, figure_svg, short_count

_PER_TIMESTEP = re.compile(r"_t\d|/t\d")
_TIMESTEP = re.compile(r"(\w+)/(?:\w+_)?t(\d+)")
_FIXED_NOTE = "Plain error: validation on held-out pictures, stable on trained ones."


def training_panels(rows: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """The panels that a training log has figures for: fixed grids, loss, learning rate, gradient.

    Args:
        rows: lines of `metrics.jsonl`: `images`, and figures by name.
    """
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "images"))
    # Figures of pairs have words of their own.
    of_pairs = has_pairs(rows)
    fixed = [n for n in names if "/" in n and not _PER_TIMESTEP.search(n) and not of_pairs]
    groups: dict[str, list[str]] = {}
    for name in fixed:
        groups.setdefault(name.split("/", 1)[1], []).append(name)
    panels = pair_panels(rows)
    for measure, members in groups.items():
        curves = tuple(curve_of(rows, name, name.split("/")[0]) for name in members[:3])
        plain = measure in ("mse", "loss")
        title = "On fixed pictures and noise" if plain else measure.replace("_", " ")
        note = _FIXED_NOTE if plain else "On held-out pictures."
        panels.append(Panel(title, note, curves))
    if not of_pairs and (by_timestep := _timestep_panel(rows, names)) is not None:
        panels.append(by_timestep)
    if of_pairs:
        panels = [replace(p, axis="pairs seen") if p.axis == "images seen" else p for p in panels]
    if "loss" in names:
        note = "Of each logged batch, and its running mean; mostly the noise of drawn timesteps."
        panels.append(Panel("Training loss", note, (curve_of(rows, "loss", "", noisy=True),)))
    if "lr" in names:
        note = "As it was in each logged step."
        panels.append(Panel("Learning rate", note, (curve_of(rows, "lr", ""),)))
    if "grad_norm" in names:
        norms = curve_of(rows, "grad_norm", "", noisy=True)
        panels.append(Panel("Norm of the gradient", "Before clipping.", (norms,)))
    if "clipped_share" in names:
        note = "Of the steps since the row before in the log, those whose gradient was scaled down."
        panels.append(Panel("Clipped steps", note, (curve_of(rows, "clipped_share", ""),)))
    return [panel for panel in panels if any(len(curve.values) > 1 for curve in panel.curves)]


def _timestep_panel(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Panel | None:
    """The fixed grid's error at each timestep: at the start, half way, and at the end."""
    found = [(match[1], int(match[2]), n) for n in names if (match := _TIMESTEP.fullmatch(n))]
    grids = [grid for grid, *_ in found]
    grid = "validation" if "validation" in grids else next(iter(grids), None)
    times = sorted((t, name) for g, t, name in found if g == grid)
    whole = [row for row in rows if times and all(is_number(row.get(n)) for _, n in times)]
    if not whole:
        return None
    half = min(whole, key=lambda row: abs(row["images"] - whole[-1]["images"] / 2))
    # A row may be several of these; the last name counts.
    places = {id(half): "half way", id(whole[0]): "start", id(whole[-1]): "end"}
    at = tuple(float(t) for t, _ in times)
    curves = [
        Curve(places.pop(id(row)), at, tuple(float(row[name]) for _, name in times))
        for row in (whole[0], half, whole[-1])
        if id(row) in places
    ]
    pictures = "held-out" if grid == "validation" else "trained"
    note = f"Plain error on {pictures} pictures; at high timesteps there is most noise."
    return Panel("Error by timestep", note, tuple(curves), "timestep")


def panel_svg(panel: Panel, salt: str) -> str:
    """One panel as an `<svg>` element without size, for inline use.

    Args:
        panel: what to draw.
        salt: makes the ids inside unique in the page; the same salt gives the same bytes.
    """
    return figure_svg(lambda axes: _draw(axes, panel), panel.title, salt)


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if panel.level is not None:
        axes.axhline(panel.level, color=INK, lw=0.9, ls=(0, (4, 3)))
    for curve, colour in zip(panel.curves, SERIES, strict=False):
        marker = "o" if len(curve.values) <= 12 and not curve.noisy else ""
        if curve.noisy and len(curve.values) > 8:
            axes.plot(curve.images, curve.values, color=colour, alpha=0.25, lw=0.8)
            axes.plot(curve.images, _running_mean(curve.values), color=colour, lw=1.8)
        else:
            axes.plot(curve.images, curve.values, color=colour, lw=1.8, marker=marker, ms=3.5)
    values = [v for curve in panel.curves for v in curve.values]
    # Noise predictors err a hundred times less at high timesteps than at low ones.
    log = panel.axis == "timestep" and 0 < 20 * min(values) < max(values)
    if log:
        axes.set_yscale("log")
    _label_ends(axes, panel.curves, log=log)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(short_count))
    if not log:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    if log:
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        # Between whole powers of ten, 2 and 5 are enough to read by.
        axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axes.yaxis.set_minor_formatter(plain)
    elif panel.unit == "share":
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    elif max(map(abs, values), default=1.0) < 1e-2:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlabel(panel.axis, color=INK)
    bare_axes(axes)


def _label_ends(axes: Any, curves: Sequence[Curve], *, log: bool = False) -> None:
    """Names beside the ends of the lines, pushed apart where they would touch."""
    onto, back = (math.log10, lambda place: 10**place) if log else (float, float)
    named = [
        (onto(curve.values[-1]), curve, colour)
        for curve, colour in zip(curves, SERIES, strict=False)
        if curve.label and curve.values
    ]
    if not named:
        return
    low = onto(min(min(c.values) for _, c, _ in named))
    high = onto(max(max(c.values) for _, c, _ in named))
    least = (high - low) * 0.1 or 1.0
    at = -math.inf
    for value, curve, colour in sorted(named, key=lambda item: item[0]):
        at = max(value, at + least)
        axes.annotate(
            curve.label,
            (curve.images[-1], back(at)),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over about a twelfth of the curve, narrower at its ends."""
    half = max(1, len(values) // 24)
    means = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        part = values[i - reach : i + reach + 1]
        means.append(math.fsum(part) / len(part))
    return means


def _percent(share: float, _: object) -> str:
    """A tick in percent, with the decimals that it has: ticks may be 1.5 or 0.25 apart."""
    return f"{100 * share:.6g}\u202f%".replace("-", "\u2212")


def _short(value: float) -> str:
    """`4.5e-4`, with a true minus."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "\u2212")
