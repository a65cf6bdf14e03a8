"""Which checkpoint was chosen, by which rule, and the curve that it was chosen from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.report import words
from tastemaker.report.comparison import Comparison
from tastemaker.report.svg import FAINT, INK, SERIES, Chart, bare_axes, figure_svg, short_count
from tastemaker.store.fit_base import read_fit_base


@dataclass(frozen=True)
class Candidate:
    """One side of the choice."""

    side: str
    images: str
    value: str
    interval: str
    win_rate: str
    state: str


@dataclass(frozen=True)
class Best:
    """The choice as it is shown; `take` is the command that exports it."""

    side: str | None
    rule: str
    sentence: str
    chart: Chart
    candidates: tuple[Candidate, ...]
    take: str = ""


def best_section(comparison: Comparison, salt: str) -> Best | None:
    """The choice of an evaluation; None where none was asked for."""
    summary = comparison.summary
    choice = summary.get("choice")
    if not choice:
        return None
    lines = {line["name"]: line for line in summary["scores"]}
    style, line = summary["style"], lines[choice["rule"]["score"]]
    title = words.label(line, style).title
    by = (
        "highest win rate in"
        if choice["rule"]["by"] == "win_rate"
        else ("highest mean of" if choice["higher_is_better"] else "lowest mean of")
    )
    rule = f"The {by} “{title}”"
    if choice["rule"]["not_worse"]:
        names = [f"“{words.label(lines[n], style).title}”" for n in choice["rule"]["not_worse"]]
        rule += f", among those not clearly worse than {choice['reference']} in "
        rule += " and ".join(names)
    note = f"On the {choice['decided_on']} prompts that decided; bars are intervals over prompts."
    by_rate = choice["rule"]["by"] == "win_rate"
    shown = f"Win rate in “{title}”" if by_rate else title
    svg = figure_svg(lambda axes: _draw(axes, choice), f"{shown} by checkpoint", salt)
    return Best(
        side=choice["best"],
        rule=f"{rule}.",
        sentence=words.choice_sentence(summary),
        chart=Chart(shown, note, svg),
        candidates=tuple(_candidate(point, choice, lines, style) for point in choice["curve"]),
        take=_take(comparison),
    )


def _take(comparison: Comparison) -> str:
    """How to get at the weights of the best checkpoint."""
    chosen = comparison.step.output("checkpoint")
    if chosen is None:
        return ""
    try:
        base = read_fit_base(chosen)
    except TastemakerError:
        return ""
    form = "adapter" if base.method.get("kind") == "lora" and not base.adapter else "merged"
    # A place on this machine says nothing to others; a model's name does.
    model = "MODEL" if Path(base.model).is_absolute() else base.model
    step = comparison.step.path.parent.parent.parent.name
    return f"tastemaker export checkpoint={step} model={model} form={form} -o {step}"


def _candidate(
    point: Mapping[str, Any],
    choice: Mapping[str, Any],
    lines: Mapping[str, Mapping[str, Any]],
    style: str | None,
) -> Candidate:
    mean, rate, unit = point["mean"], point["win_rate"], choice["unit"]
    state = "passes"
    if point["side"] == choice["best"]:
        state = "chosen"
    elif point["side"] == choice["reference"]:
        state = "reference"
    elif point["fails"]:
        named = (f"“{words.label(lines[n], style).title}”" for n in point["fails"])
        state = f"clearly worse in {' and '.join(named)}"
    elif not point["passes"]:
        state = "not among the candidates"
    return Candidate(
        side=point["side"],
        images="–" if point["images"] is None else words.counted(point["images"]),
        value=words.value(mean["estimate"], unit),
        interval=words.interval(mean, unit),
        win_rate=(
            f"{words.value(rate['estimate'], 'share')} {words.interval(rate, 'share')}"
            if rate
            else ""
        ),
        state=state,
    )


def _draw(axes: Any, choice: Mapping[str, Any]) -> None:
    """Score against images seen; where a side has none, sides in their order."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    curve = choice["curve"]
    # Another model has no place on the axis of a training; its level is drawn across.
    known = sum(p["images"] is not None for p in curve if p["side"] != choice["reference"]) > 1
    points = [p for p in curve if p["images"] is not None] if known else curve
    by_rate = choice["rule"]["by"] == "win_rate"
    shown = [p for p in points if not by_rate or p["win_rate"]]
    places = [p["images"] if known else number for number, p in enumerate(shown)]
    order = sorted(range(len(shown)), key=lambda i: places[i])
    found = [shown[i]["win_rate"] if by_rate else shown[i]["mean"] for i in order]
    x = [places[i] for i in order]
    y = [f["estimate"] for f in found]
    below = [f["estimate"] - f["low"] for f in found]
    above = [f["high"] - f["estimate"] for f in found]
    axes.errorbar(x, y, yerr=[below, above], fmt="none", ecolor=SERIES[1], elinewidth=1.4)
    axes.plot(x, y, color=SERIES[1], lw=1.6, marker="o", ms=4.5)
    start = next(p for p in curve if p["side"] == choice["reference"])
    level = 0.5 if by_rate else start["mean"]["estimate"]
    axes.axhline(level, color=INK, lw=0.9, ls=(0, (4, 3)))
    for p in curve if known else ():
        found_at = p["win_rate"] if by_rate else p["mean"]
        if p["images"] is None and p["side"] != choice["reference"] and found_at:
            axes.axhline(found_at["estimate"], color=SERIES[3], lw=0.9, ls=(0, (1, 2)))
            named = {"xytext": (2, 3), "textcoords": "offset points", "color": SERIES[3]}
            axes.annotate(p["side"], (min(x), found_at["estimate"]), **named)
    for i, place, value in zip(order, x, y, strict=True):
        if shown[i]["side"] == choice["best"]:
            axes.plot([place], [value], color=SERIES[0], marker="o", ms=8.5, zorder=5)
            axes.annotate(
                shown[i]["side"],
                (place, value),
                xytext=(9, 6),
                textcoords="offset points",
                color=SERIES[0],
            )
    axes.margins(x=0.08, y=0.16)
    if known:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(short_count))
        axes.set_xlabel("images seen", color=INK)
    else:
        axes.set_xticks(x, [shown[i]["side"] for i in order])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if by_rate or choice["unit"] == "share":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    bare_axes(axes, ink=INK, faint=FAINT)
