"""Plots as SVG elements in the colours and the type of the page around them."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

INK, FAINT = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
"""Stand-ins that no plot uses otherwise; each becomes a variable of the page's style sheet."""

_COLOURS = {
    INK: "var(--soft)",
    FAINT: "var(--line)",
    SERIES[0]: "var(--accent)",
    SERIES[1]: "var(--before)",
    SERIES[2]: "var(--good)",
    SERIES[3]: "var(--blue)",
    SERIES[4]: "var(--gold)",
    SERIES[5]: "var(--violet)",
}
SIZE_IN = (5.0, 2.75)
"""Width and height, which set how large the letters are."""


@dataclass(frozen=True)
class Chart:
    """One plot of a page, with what it is called and what to say of it."""

    title: str
    note: str
    svg: str


def figure_svg(
    draw: Callable[[Any], None], title: str, salt: str, size_in: tuple[float, float] = SIZE_IN
) -> str:
    """One plot as an `<svg>` element without size, for inline use.

    Args:
        draw: draws on the axes it is given, with `INK`, `FAINT` and `SERIES` as colours.
        title: a spoken name.
        salt: makes the ids inside unique in the page; the same salt gives the same bytes.
        size_in: width and height in inches, which set the size of the letters.
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
        figure = Figure(size_in, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _themed(buffer.getvalue(), salt, title)


def bare_axes(axes: Any, grid: str = "y", ink: str = INK, faint: str = FAINT) -> None:
    """Axes as all plots of the house have them: a line below, faint lines across, no box."""
    axes.tick_params(which="both", colors=ink, length=0, pad=5)
    axes.grid(axis=grid, color=faint, lw=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(faint)


def short_count(number: float, _: object = None) -> str:
    """`950`, `12 k`, `1.5 M`: for the ticks of an axis."""
    if abs(number) >= 1e6:
        return f"{number / 1e6:g} M"
    return f"{number / 1e3:g} k" if abs(number) >= 1e4 else f"{number:g}"


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
