"""The curves of a training run as SVG in the colours and the type of the page around it."""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303")
"""Stand-ins that no plot uses otherwise; each becomes a variable of the page's style sheet."""

_COLOURS = {
    _INK: "var(--soft)",
    _FAINT: "var(--line)",
    _SERIES[0]: "var(--accent)",
    _SERIES[1]: "var(--before)",
    _SERIES[2]: "var(--good)",
}
_PER_TIMESTEP = re.compile(r"_t\d|/t\d")
_SIZE_IN = (5.0, 2.75)
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
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    options: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9.5,
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(options):
        figure = Figure(_SIZE_IN, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw(axes, panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _themed(buffer.getvalue(), salt, panel.title)


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for curve, colour in zip(panel.curves, _SERIES, strict=False):
        marker = "o" if len(curve.values) <= 12 and not curve.noisy else ""
        if curve.noisy and len(curve.values) > 8:
            axes.plot(curve.images, curve.values, color=colour, alpha=0.25, lw=0.8)
            axes.plot(curve.images, _running_mean(curve.values), color=colour, lw=1.8)
        else:
            axes.plot(curve.images, curve.values, color=colour, lw=1.8, marker=marker, ms=3.5)
    _label_ends(axes, panel.curves)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: _thousands(images)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    largest = max((abs(v) for curve in panel.curves for v in curve.values), default=1.0)
    if largest < 1e-2:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlabel("images seen", color=_INK)
    axes.tick_params(colors=_INK, length=0, pad=5)
    axes.grid(axis="y", color=_FAINT, lw=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_FAINT)


def _label_ends(axes: Any, curves: Sequence[Curve]) -> None:
    """Names beside the ends of the lines, pushed apart where they would touch."""
    named = [
        (curve.values[-1], curve, colour)
        for curve, colour in zip(curves, _SERIES, strict=False)
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


def _thousands(images: float) -> str:
    if abs(images) >= 1e6:
        return f"{images / 1e6:g} M"
    return f"{images / 1e3:g} k" if abs(images) >= 1e4 else f"{images:g}"


def _themed(svg: str, salt: str, title: str) -> str:
    """Only the element, in the page's colours and font, with ids of its own and a spoken name."""
    svg = svg[svg.index("<svg") :]
    # A style element inside would apply to the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    for stand_in, variable in _COLOURS.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{salt}-", svg)
    svg = svg.replace("xlink:href", "href")
    view = re.search(r'viewBox="([^"]+)"', svg)
    box = view.group(1) if view else "0 0 360 198"
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="{box}" xmlns="http://www.w3.org/2000/svg">'
    return re.sub(r"^<svg[^>]*>", head, svg)
