"""The panels of preference training: what its held-out pairs say, in the words of the method."""

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.report.panel import Curve, Panel, curve_of, is_number, timesteps_of

LN_2 = 0.6931471805599453
"""The loss of a model that is its own reference."""

_GRIDS = {"validation": "held out", "stable": "trained on"}
_SIDES = {"winner": "winners", "loser": "losers"}


def has_pairs(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log is of preference training."""
    return any(f"{grid}/winner_error" in row for row in rows for grid in _GRIDS)


def pair_panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Accuracy, margin, errors against the start, drift and loss on fixed pairs; by timestep, too.

    Args:
        rows: lines of `metrics.jsonl`, as `training.pair_validation.pair_figures` names them.
    """
    grid = next((g for g in _GRIDS if any(f"{g}/winner_error" in row for row in rows)), None)
    if grid is None:
        return []
    pairs = _GRIDS[grid]
    on = "held-out pairs" if grid == "validation" else "trained pairs"
    panels = [
        Panel(
            "Pairs on the right side",
            "The winner gained more against the reference than the loser; ties count half.",
            _of_grids(rows, "accuracy"),
            unit="share",
            level=0.5,
        ),
        Panel(
            "Margin",
            "By how much more the winners' errors fell than the losers', against the reference.",
            _of_grids(rows, "margin"),
            level=0.0,
        ),
        Panel(
            "Errors against the start",
            f"Of {on}. Losers' errors rise: so it works. Winners' must not rise with them.",
            tuple(curve_of(rows, f"{grid}/{side}_drift", name) for side, name in _SIDES.items()),
            unit="share",
            level=0.0,
        ),
        Panel(
            "Distance from the start",
            "How far predictions moved on fixed prompts and noise, as a share of their size.",
            (curve_of(rows, "probe/moved", ""),),
            unit="share",
        ),
        Panel(
            "Loss on fixed pairs",
            "It says little: it falls on any pairs. A model that is its own reference has ln 2.",
            _of_grids(rows, "loss"),
            level=LN_2 if any(is_number(row.get(f"{grid}/logit")) for row in rows) else None,
        ),
    ]
    return [*panels, *_by_timestep(rows, grid, pairs)]


def _of_grids(rows: Sequence[Mapping[str, Any]], measure: str) -> tuple[Curve, ...]:
    found = [curve_of(rows, f"{grid}/{measure}", label) for grid, label in _GRIDS.items()]
    return tuple(one for one in found if one.values)


def _by_timestep(rows: Sequence[Mapping[str, Any]], grid: str, pairs: str) -> list[Panel]:
    """The end of the run against its start, at each timestep of the grid."""
    times = timesteps_of(rows, f"{grid}/winner_error_t")
    names = [f"{grid}/{side}_error_t{t}" for t in times for side in _SIDES]
    whole = [row for row in rows if names and all(is_number(row.get(n)) for n in names)]
    if len(whole) < 2:
        return []
    first, last = whole[0], whole[-1]
    at = tuple(float(t) for t in times)
    errors = tuple(
        Curve(name, at, tuple(_rise(first, last, f"{grid}/{side}_error_t{t}") for t in times))
        for side, name in _SIDES.items()
    )
    panels = [
        Panel(
            "Errors against the start, by timestep",
            f"At the end, of pairs {pairs}; at high timesteps there is most noise.",
            errors,
            "timestep",
            unit="share",
            level=0.0,
        )
    ]
    right = [last.get(f"{grid}/accuracy_t{t}") for t in times]
    if all(is_number(value) for value in right):
        shares = tuple(float(value) for value in right if value is not None)
        note = f"At the end, of pairs {pairs}."
        own = (Curve("", at, shares),)
        panels.append(
            Panel("On the right side, by timestep", note, own, "timestep", unit="share", level=0.5)
        )
    return panels


def _rise(first: Mapping[str, Any], last: Mapping[str, Any], name: str) -> float:
    return float(last[name]) / float(first[name]) - 1.0 if first[name] else 0.0
