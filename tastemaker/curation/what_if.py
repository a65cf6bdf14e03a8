"""How many pictures would be left if one threshold were another."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from tastemaker.curation.facts import Facts, near_columns
from tastemaker.curation.judgement import FindCopies, Rule, number_text
from tastemaker.curation.rules_alone import Range
from tastemaker.curation.rules_among import Top
from tastemaker.errors import InputError

POINTS = 11
"""Thresholds that are tried unless the user says how many (ours)."""
MOST_POINTS = 1001

_SWEEP = re.compile(r"\s*([^=\s]+)\s*=\s*([^:=\s]+)\s*:\s*([^:=\s]+)\s*(?::\s*([^:=\s]+)\s*)?")


@dataclass(frozen=True)
class Sweep:
    """A threshold and where to try it.

    Attributes:
        column: address of a column of numbers.
        low: the first threshold.
        high: the last one.
        points: how many, evenly spaced, both ends included.
    """

    column: str
    low: float
    high: float
    points: int = POINTS

    def thresholds(self) -> tuple[float, ...]:
        """All thresholds, ascending; 0.1 steps are written 0.3, not 0.30000000000000004."""
        span = self.high - self.low
        digits = 12 - math.ceil(math.log10(max(abs(self.low), abs(self.high))))
        inner = (
            round(self.low + span * index / (self.points - 1), digits)
            for index in range(1, self.points - 1)
        )
        return (self.low, *inner, self.high)


@dataclass(frozen=True)
class Point:
    """What one threshold would do.

    Attributes:
        threshold: the limit that is tried.
        kept: pictures that all rules would keep.
        share: kept / all pictures, 0..1.
        gained: pictures that would be kept and are not now.
        lost: pictures that are kept now and would not be.
    """

    threshold: float
    kept: int
    share: float
    gained: int
    lost: int

    @property
    def changed(self) -> int:
        """How many more would be kept than now."""
        return self.gained - self.lost


@dataclass(frozen=True)
class WhatIf:
    """What every threshold of a sweep would do.

    Attributes:
        sweep: what was tried.
        side: which limit of the range was moved.
        rule: index of the rule whose limit was moved, in `rules`; where no rule names the column,
            of the one that was put in.
        added: whether it was put in.
        today: its limit now; None when it has none.
        count: all pictures.
        now: pictures that the rules keep now.
        points: one for each threshold, ascending.
    """

    sweep: Sweep
    side: Literal["least", "most"]
    rule: int
    added: bool
    today: float | None
    count: int
    now: int
    points: tuple[Point, ...]


def parse_sweep(text: str, known: Iterable[str]) -> Sweep:
    """Read `sharpness=0.2:0.6` or `pixels.sharpness=0:100:21`.

    Args:
        text: column, first and last threshold, and perhaps how many.
        known: addresses of all columns of numbers. A name without a dot is that of the only
            column with such a field.

    Raises:
        InputError: the text says something else, or the column is not known or not the only one.
    """
    example = "COLUMN=LOW:HIGH or COLUMN=LOW:HIGH:POINTS"
    todo = "Write pixels.sharpness=20:60, for example."
    found = _SWEEP.fullmatch(text)
    if found is None:
        raise InputError("what-if", repr(text), example, todo)
    low, high = (_number(part, text) for part in found.group(2, 3))
    if not low < high:
        raise InputError(
            "what-if",
            f"{number_text(low)} to {number_text(high)}",
            "a first threshold below the last",
            todo,
        )
    points = found[4] or str(POINTS)
    if not re.fullmatch(r"[0-9]{1,9}", points) or not 2 <= int(points) <= MOST_POINTS:
        expected = f"a number of points from 2 to {MOST_POINTS}"
        raise InputError("what-if", repr(points), expected, todo)
    return Sweep(resolve_column(found[1], known), low, high, int(points))


def resolve_column(name: str, known: Iterable[str]) -> str:
    """The address that a name stands for: itself, or the only one with such a field.

    Raises:
        InputError: there is none, with the nearest names, or more than one.
    """
    known = sorted(known)
    if name in known:
        return name
    same = [address for address in known if address.rpartition(".")[2] == name]
    if len(same) == 1:
        return same[0]
    if same:
        raise InputError(
            "what-if",
            f"'{name}'",
            f"one of {', '.join(same)}",
            "Write the name of its column, too.",
        )
    raise InputError("what-if", f"'{name}'", "a column of numbers", near_columns(name, known))


def survivors_along(
    facts: Facts,
    rules: Sequence[Rule],
    sweep: Sweep,
    find_copies: FindCopies | None = None,
    *,
    start: Bool[np.ndarray, " N"] | None = None,
) -> WhatIf:
    """Move one threshold and apply all rules again, those after it (top, duplicates) included.

    The first range of the column that has `least` gets another `least`; if none has, the first one
    gets another `most`. If there is no range of the column, one with `least` is put before the
    first `top` rule, so that the best are still chosen last, or at the end.

    Args:
        facts: what is known of the pictures.
        rules: as they are now.
        sweep: what to try.
        find_copies: answers `Duplicates` rules; it is asked again for every threshold.
        start: the pictures to begin with; None: all.

    Raises:
        InputError: a rule asks for what is not known, or the column holds no numbers.
    """
    facts.numbers(sweep.column)
    begin = np.ones(facts.count, bool) if start is None else start
    place, side, added = _place(rules, sweep.column)
    today = None if added else getattr(rules[place], side)
    before, after = rules[:place], rules[place + (not added) :]
    # What judges each picture by itself says the same at every threshold.
    own = {
        number: rule.judge(facts, begin).keep for number, rule in enumerate(after) if not rule.AMONG
    }

    def rest(alive: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        for number, rule in enumerate(after):
            keep = own[number] if number in own else rule.judge(facts, alive, find_copies).keep
            alive = alive & keep
        return alive

    reached = begin
    for rule in before:
        reached = reached & rule.judge(facts, reached, find_copies).keep
    now = rest(reached if added else reached & rules[place].judge(facts, reached).keep)
    points, total = [], int(begin.sum())
    for threshold in sweep.thresholds():
        moved = (
            Range(column=sweep.column, least=threshold)
            if added
            # Without a check: below its `least` a `most` keeps nothing, which is an answer.
            else rules[place].model_copy(update={side: threshold})
        )
        kept = rest(reached & moved.judge(facts, reached).keep)
        count = int(kept.sum())
        points.append(
            Point(
                threshold,
                count,
                count / total if total else 0.0,
                gained=int((kept & ~now).sum()),
                lost=int((now & ~kept).sum()),
            )
        )
    return WhatIf(sweep, side, place, added, today, total, int(now.sum()), tuple(points))


def _place(rules: Sequence[Rule], column: str) -> tuple[int, Literal["least", "most"], bool]:
    """(index of the rule, limit to move, whether the rule is a new one)."""
    ranges: Mapping[int, Range] = {
        number: rule
        for number, rule in enumerate(rules)
        if isinstance(rule, Range) and rule.column == column
    }
    for number, rule in ranges.items():
        if rule.least is not None:
            return number, "least", False
    for number in ranges:
        return number, "most", False
    tops = (number for number, rule in enumerate(rules) if isinstance(rule, Top))
    return next(tops, len(rules)), "least", True


def _number(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError("what-if", repr(text), f"a number instead of {part!r}", "Correct it.")
    return value
