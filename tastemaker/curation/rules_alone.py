"""Rules that judge each picture by itself."""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool
from pydantic import Field, FiniteFloat, model_validator

from tastemaker.curation.facts import BUILT_IN, Facts, Kind, check_column
from tastemaker.curation.judgement import (
    KEPT,
    SQL,
    FindCopies,
    Judgement,
    Rule,
    first_reason,
    measured_columns,
    number_against,
    number_text,
    spoken,
)

DUPLICATE, GONE, CHANGED, LEFT_OUT = "duplicate", "gone", "changed", "left out"
"""How the error of a row begins: the same bytes as another, no longer there, other bytes now, not
asked for when pictures were collected last."""

Alive: TypeAlias = Bool[np.ndarray, " N"]
Unknown: TypeAlias = Literal["drop", "keep"]

UNKNOWN = "(unknown)"
OR_UNKNOWN: Mapping[str, str] = {"drop": "", "keep": " or unknown"}


class Readable(Rule):
    """Drop what the collection holds only as a row: unreadable files, exact copies, files gone."""

    rule: Literal["readable"] = "readable"
    """The file is there, is a whole picture, and no picture before it has the same bytes."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return ("error",)

    @property
    def label(self) -> str:
        """See `Rule`."""
        return "readable"

    def describe(self) -> str:
        """See `Rule`."""
        return "readable; no exact duplicates"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`. An error's reason is all before its first bracket."""
        errors = facts.column("error", "text")
        wrong = np.flatnonzero(errors != None)  # noqa: E711 - entry by entry
        found = [_error_reason(errors[index]) for index in wrong]
        table = dict.fromkeys(found)
        index_of = {reason: index for index, reason in enumerate(table)}
        which = np.full(facts.count, KEPT, np.int64)
        which[wrong] = [index_of[reason] for reason in found]
        limits = {
            "exact duplicate": "one of each",
            "gone": "a file that is still there",
            "not asked for": "within the `limit` and `where` of collect",
        }
        return Judgement(
            which,
            tuple(table),
            got=lambda index: str(errors[index]),
            limit=lambda index: limits.get(_error_reason(errors[index]), "a whole picture"),
        )


class Captioned(Rule):
    """Drop pictures that nobody has described."""

    rule: Literal["captioned"] = "captioned"
    """The picture has at least one caption that is not empty."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return ("captions",)

    @property
    def label(self) -> str:
        """See `Rule`."""
        return "captioned"

    def describe(self) -> str:
        """See `Rule`."""
        return "has a caption"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`."""
        entries = facts.column("captions", "list", "text")
        has = (entry is not None and any(text.strip() for text in entry) for entry in entries)
        keep = np.fromiter(has, bool, facts.count)
        return Judgement(first_reason(~keep), ("no caption",), lambda _: 0, lambda _: 1)


class Range(Rule):
    """Keep pictures whose number lies within limits, both included."""

    rule: Literal["range"] = "range"
    """A number within limits."""
    column: str
    """Address of a column of numbers: `pixels.sharpness`, `short_side`, ..."""
    least: FiniteFloat | None = None
    """Drop pictures with less; null: no lower limit."""
    most: FiniteFloat | None = None
    """Drop pictures with more; null: no upper limit."""
    unknown: Unknown = "drop"
    """Pictures without the number: drop or keep (ours)."""

    @model_validator(mode="after")
    def _some_limit(self) -> "Range":
        if self.least is None and self.most is None:
            raise ValueError(f"a range of {self.column} with `least`, `most` or both")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"`least` at most `most`, not {self.least:g} and {self.most:g}")
        return self

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.column,)

    def check(self, known: Mapping[str, Kind]) -> None:
        """See `Rule`."""
        check_column(self.column, known, ("number",))

    @property
    def label(self) -> str:
        """See `Rule`."""
        name = spoken(self.column)
        if self.least is not None and self.most is not None:
            return f"{name} {number_text(self.least)}..{number_text(self.most)}"
        if self.least is not None:
            return f"{name} >= {number_text(self.least)}"
        return f"{name} <= {number_text(self.most or 0.0)}"

    def describe(self) -> str:
        """See `Rule`."""
        limits = _limits(self.least, self.most)
        return f"{spoken(self.column)} {limits}{OR_UNKNOWN[self.unknown]}"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`."""
        values = facts.numbers(self.column)
        known = np.isfinite(values)
        nowhere = np.zeros(facts.count, bool)
        low = high = nowhere
        margin = np.full(facts.count, np.inf)
        # The limits take the column's precision: 0.7 means float32's 0.7 where the column is.
        if self.least is not None:
            least = values.dtype.type(self.least)
            low = known & (values < least)
            margin = values.astype(np.float64) - float(least)
        if self.most is not None:
            most = values.dtype.type(self.most)
            high = known & (values > most)
            margin = np.minimum(margin, float(most) - values.astype(np.float64))

        def got(index: int) -> str:
            if not known[index]:
                return UNKNOWN
            return number_against(values[index], self.least if low[index] else self.most)

        def limit(index: int) -> str:
            sides = [low[index] or not known[index], high[index] or not known[index]]
            return _limits(self.least if sides[0] else None, self.most if sides[1] else None)

        name = spoken(self.column)
        return Judgement(
            first_reason(low, high, nowhere if self.unknown == "keep" else ~known),
            (f"{name} too low", f"{name} too high", f"{name} unknown"),
            got,
            limit,
            np.where(known, margin, np.nan),
        )


class Sql(Rule):
    """Keep pictures for which a SQL expression is true."""

    rule: Literal["sql"] = "sql"
    """A SQL expression over the columns."""
    where: str = Field(min_length=1)
    """The expression: `pixels.sharpness > 30 and megapixels > 0.5`. NULL counts as not true."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (f"{SQL}{self.where}",)

    def measured(self) -> tuple[str, ...]:
        """See `Rule`; all that comes before a dot or underscore, which need not be a column."""
        text = _unquoted(self.where)
        dotted = re.findall(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", text)
        # `pixels_sharpness` is another name of `pixels.sharpness`, and names have underscores, too.
        words = [word for word in re.findall(r"[A-Za-z]\w*", text) if word not in BUILT_IN]
        joined = [f"{word[: at.start()]}." for word in words for at in re.finditer("_", word)]
        return measured_columns([*dotted, *joined])

    @property
    def label(self) -> str:
        """See `Rule`."""
        text = " ".join(self.where.split())
        return text if len(text) <= 40 else f"{text[:37]}..."

    def describe(self) -> str:
        """See `Rule`."""
        return f"({' '.join(self.where.split())})"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`. Needs the flags of `columns()`, which a database gives."""
        true = facts.column(self.columns()[0], "flag").astype(bool)
        reason = f"not {self.label}"
        return Judgement(first_reason(~true), (reason,), lambda _: "not true", lambda _: self.where)


def _limits(least: float | None, most: float | None) -> str:
    said = [] if least is None else [f"at least {number_text(least)}"]
    return " and ".join(said if most is None else [*said, f"at most {number_text(most)}"])


def _unquoted(expression: str) -> str:
    """SQL without its 'texts' and without the quotes around names."""
    return re.sub(r"'(?:[^']|'')*'", "", expression).replace('"', "")


def _error_reason(error: str) -> str:
    if error.startswith(DUPLICATE):
        return "exact duplicate"
    if error.startswith((GONE, CHANGED)):
        return "gone"
    if error.startswith(LEFT_OUT):
        return "not asked for"
    return f"unreadable: {error.split(' (')[0]}"
