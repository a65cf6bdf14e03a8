"""How the result differs between the categories of a prompt set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.report import words
from tastemaker.report.comparison import Comparison


@dataclass(frozen=True)
class GroupRow:
    """One category: means, the difference, its interval on a scale from 0 to 100; 50 is none."""

    value: str
    prompts: int
    before: str
    after: str
    difference: str
    interval: str
    verdict: str
    better: int
    same: int
    worse: int
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupTable:
    """One score in each category of one attribute."""

    title: str
    attribute: str
    side: str
    reference: str
    note: str
    rows: tuple[GroupRow, ...]


def group_tables(comparison: Comparison) -> list[tuple[str, GroupTable, list[GroupTable]]]:
    """For each attribute: its name, the table of the main score, and those of the others.

    An attribute is left out where none of its categories has enough prompts for an interval.
    """
    summary = comparison.summary
    lines = {line["name"]: line for line in summary["scores"]}
    main = words.primary(summary["scores"])
    found: dict[str, list[tuple[bool, GroupTable]]] = {}
    for table in summary.get("groups", []):
        line = lines.get(table["score"])
        told = any(
            one["low"] is not None for row in table["rows"] for one in row["against"].values()
        )
        if line is None or main is None or comparison.focus not in line["against"] or not told:
            continue
        shown = _table(table, line, comparison)
        found.setdefault(table["attribute"], []).append((line is main, shown))
    return [
        (
            attribute,
            next((table for first, table in tables if first), tables[0][1]),
            [table for first, table in tables if not first and len(tables) > 1],
        )
        for attribute, tables in found.items()
    ]


def _table(table: Mapping[str, Any], line: Mapping[str, Any], comparison: Comparison) -> GroupTable:
    side, reference = comparison.focus, str(comparison.reference)
    rows: Sequence[Mapping[str, Any]] = table["rows"]
    changes = [row["against"][side] for row in rows]
    ends = [
        abs(c[end]) for c in changes for end in ("low", "high", "estimate") if c[end] is not None
    ]
    reach = max(ends, default=0.0) or 1.0

    def place(number: float) -> float:
        return round(50 + 50 * number / (1.05 * reach), 2)

    unit, shown = line["unit"], []
    for row, change in zip(rows, changes, strict=True):
        known = change["low"] is not None
        shown.append(
            GroupRow(
                value=row["value"],
                prompts=row["prompts"],
                before=words.value(row["models"][reference], unit),
                after=words.value(row["models"][side], unit),
                difference=words.value(change["estimate"], unit, signed=True),
                interval=words.interval(change, unit, signed=True) if known else "",
                verdict=change["verdict"],
                better=change["better"],
                same=change["same"],
                worse=change["worse"],
                at=place(change["estimate"]),
                low=place(change["low"]) if known else 0.0,
                high=place(change["high"]) if known else 0.0,
            )
        )
    shown.sort(key=lambda row: (-row.prompts, row.value))
    return GroupTable(
        title=words.label(line, comparison.summary["style"]).title,
        attribute=table["attribute"],
        side=side,
        reference=reference,
        note=_note(table, shown),
        rows=tuple(shown),
    )


def _note(table: Mapping[str, Any], rows: Sequence[GroupRow]) -> str:
    few = sum(row.verdict == "few prompts" for row in rows)
    left = f" {words.several(few, 'category', 'categories')} with few prompts: no interval."
    told = len(rows) - few
    clear = sum(row.verdict in ("better", "worse") for row in rows)
    text = (
        f"The {table['comparisons']} intervals hold together at "
        f"{words.value(table['level'], 'share')} (each at {100 * table['level_each']:.2f}\u202f%, "
        "Bonferroni)."
    )
    verb = "is" if clear == 1 else "are"
    result = (
        f" Of {told}, {clear} {verb} clearly better or worse."
        if clear
        else " None is clearly better or worse."
    )
    return text + result + (left if few else "")
