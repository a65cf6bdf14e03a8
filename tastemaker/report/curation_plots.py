"""Plots of a curation: how numbers are spread, which words stay, what other limits would keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.report.svg import FAINT, INK, SERIES, bare_axes, figure_svg, short_count
from tastemaker.report.words import counted, figure, percent
from tastemaker.store.atomic import atomic_file

_HISTOGRAM_IN, _NARROW_IN = (5.0, 2.2), (3.5, 2.0)
_CURVE_IN = (5.0, 3.0)
_TOWER = 4.0
"""A bin that is so many times as high as all others is cut off, so that the others are seen."""


@dataclass(frozen=True)
class Inks:
    """The colours of a plot."""

    ink: str
    faint: str
    accent: str
    grey: str


_PAGE = Inks(INK, FAINT, SERIES[0], SERIES[1])
_ALONE = Inks("#686868", "#dedede", "#d8232f", "#8a8a8a")


def histogram_svg(entry: Mapping[str, Any], salt: str, *, is_narrow: bool = False) -> str:
    """One entry of `histograms` of `curation.json`: kept below, dropped on top of it.

    Args:
        entry: what to draw.
        salt: as of `figure_svg`.
        is_narrow: for three plots in a row, with letters as large as those of two.
    """
    size_in = _NARROW_IN if is_narrow else _HISTOGRAM_IN
    return figure_svg(lambda axes: _histogram(axes, entry), str(entry["column"]), salt, size_in)


def rank_svg(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], salt: str) -> str:
    """How often the n-th most frequent word occurs, before and after: (rank, count) of each."""
    title = "Count of each word by its rank, before and after"
    return figure_svg(lambda axes: _ranks(axes, before, after), title, salt, _CURVE_IN)


def sweep_svg(figures: Mapping[str, Any], salt: str) -> str:
    """What every threshold would keep; `figures` as `what_if.Swept` gives them."""
    title = f"Pictures kept along a threshold of {figures['column']}"
    return figure_svg(lambda axes: _sweep(axes, figures, _PAGE), title, salt, _CURVE_IN)


def write_sweep(path: Path, figures: Mapping[str, Any]) -> None:
    """The same as a PNG that can stand alone."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10, "axes.linewidth": 0.8}):
        page = Figure((7.0, 4.2), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(page)
        axes = page.add_subplot()
        _sweep(axes, figures, _ALONE)
        limit = {"least": "lower", "most": "upper"}[figures["side"]]
        axes.set_title(
            f"Pictures that another {limit} limit of {figures['column']} would keep",
            loc="left",
            fontsize=12,
            pad=14,
        )
        with atomic_file(path) as temporary:
            page.savefig(temporary, format="png", metadata={"Software": None})


def _histogram(axes: Any, entry: Mapping[str, Any]) -> None:
    edges = np.array(entry["edges"])
    kept, dropped = (np.array(entry[side]) for side in ("kept", "dropped"))
    both = kept + dropped
    axes.stairs(both, edges, baseline=kept, fill=True, color=SERIES[1], alpha=0.45, lw=0)
    axes.stairs(kept, edges, fill=True, color=SERIES[0], lw=0)
    if entry["scale"] == "log":
        axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    _set_height(axes, edges, both)
    for limit in entry["limits"]:
        if edges[0] <= limit <= edges[-1]:
            axes.axvline(limit, color=INK, lw=1.1, ls=(0, (4, 3)))
    _number_axis(axes.xaxis, is_log=entry["scale"] == "log")
    _count_axis(axes.yaxis, 3)
    bare_axes(axes)


def _set_height(axes: Any, edges: np.ndarray, both: np.ndarray) -> None:
    """Room for all bins, but for one that towers over all others: that one gets its number."""
    top = int(both.argmax()) if len(both) else 0
    others = np.delete(both, top)
    second = int(others.max()) if len(others) else 0
    if not second or both[top] <= _TOWER * second:
        axes.set_ylim(0, max(1.0, 1.05 * float(both.max(initial=0))))
        return
    axes.set_ylim(0, 1.5 * second)
    is_left = top < len(both) / 2
    axes.annotate(
        f"{short_count(both[top])} \N{UPWARDS ARROW}",
        (edges[top + 1] if is_left else edges[top], 1.5 * second),
        xytext=(5 if is_left else -5, -3),
        textcoords="offset points",
        ha="left" if is_left else "right",
        va="top",
        color=INK,
    )


def _ranks(axes: Any, before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> None:
    for curve, colour, name in ((before, SERIES[1], "before"), (after, SERIES[0], "after")):
        if not curve:
            continue
        ranks, counts = zip(*curve, strict=True)
        axes.plot(ranks, counts, color=colour, lw=1.8)
        axes.annotate(
            name,
            (ranks[0], counts[0]),
            xytext=(-6, 0),
            textcoords="offset points",
            color=colour,
            ha="right",
            va="center",
            annotation_clip=False,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    _number_axis(axes.xaxis, is_log=True)
    _number_axis(axes.yaxis, is_log=True)
    axes.set_xlabel("rank of the word", color=INK)
    axes.set_ylabel("how often", color=INK)
    bare_axes(axes, grid="both")


def _sweep(axes: Any, figures: Mapping[str, Any], inks: Inks) -> None:
    points = figures["points"]
    thresholds = [point["threshold"] for point in points]
    kept = [point["kept"] for point in points]
    marker = "o" if len(points) <= 41 else ""
    axes.axhline(figures["now"], color=inks.grey, lw=1.1, ls=(0, (4, 3)))
    axes.fill_between(thresholds, kept, figures["now"], color=inks.accent, alpha=0.1, lw=0)
    axes.plot(thresholds, kept, color=inks.accent, lw=2, marker=marker, ms=4.5)
    today, low, high = figures["today"], thresholds[0], thresholds[-1]
    said = f"{counted(figures['now'])} kept now"
    if today is not None:
        said += f", limit {figure(today)}"
        if low <= today <= high:
            axes.axvline(today, color=inks.grey, lw=1.1, ls=(0, (4, 3)))
            axes.plot([today], [figures["now"]], "o", ms=8, mec=inks.ink, mfc="none", mew=1.4)
    falls = kept[-1] <= kept[0]
    axes.annotate(
        said,
        (1 if falls else 0, figures["now"]),
        xycoords=("axes fraction", "data"),
        xytext=(-2 if falls else 2, 5),
        textcoords="offset points",
        ha="right" if falls else "left",
        color=inks.ink,
    )
    axes.set_ylim(0, 1.12 * max(1, figures["now"], *kept))
    axes.margins(x=0.03)
    _number_axis(axes.xaxis, is_log=False)
    _count_axis(axes.yaxis, 5)
    bare_axes(axes, ink=inks.ink, faint=inks.faint)
    axes.set_xlabel(f"{figures['column']} at {figures['side']}", color=inks.ink)
    axes.set_ylabel("pictures kept", color=inks.ink)
    if figures["count"]:
        total = figures["count"]
        share = axes.secondary_yaxis("right", functions=(lambda n: n / total, lambda s: s * total))
        share.yaxis.set_major_formatter(lambda part, _: percent(part) if part >= 0 else "")
        share.tick_params(colors=inks.ink, length=0, pad=5)
        share.spines["right"].set_visible(False)


def _number_axis(axis: Any, *, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    narrow = is_log and low > 0 and high < 100 * low
    log = LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=6)
    axis.set_major_locator(log if is_log else MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))
    axis.set_minor_formatter(NullFormatter())


def _count_axis(axis: Any, ticks: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.set_major_formatter(FuncFormatter(short_count))
