"""What one rule says of many pictures, and what a rule is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from tastemaker.curation.facts import BUILT_IN, Facts
from tastemaker.records.config import Config
from tastemaker.records.image import Drop

SQL = "sql:"
"""How the address of a flag begins that a SQL expression gives: `sql:megapixels > 0.5`."""

KEPT = -1


@dataclass(frozen=True)
class Copies:
    """Which picture each one duplicates.

    Attributes:
        of: index of the picture that represents it, or -1 for one that is no duplicate.
        got: index of a duplicate -> how near it is to which picture, in words.
    """

    of: Integer[np.ndarray, " N"]
    got: Callable[[int], str]


FindCopies = Callable[[Any, np.ndarray], Copies]
"""(the `Duplicates` rule, bool `[N]` of the pictures that are still there) -> `Copies`."""


@dataclass(frozen=True)
class Judgement:
    """One rule's verdicts on N pictures.

    Attributes:
        which: -1 for a picture that the rule keeps, else index of the reason in `reasons`.
        reasons: short reasons, by which reports count.
        got: index of a dropped picture -> what was found.
        limit: index of a dropped picture -> what was asked for.
        margin: how far above its limit a picture is, in the column's units: 0 and more is kept,
            less is dropped, nan is unknown or not judged. At 0 a rule that counts drops some of
            those that are equal. None for rules without a threshold.
    """

    which: Integer[np.ndarray, " N"]
    reasons: tuple[str, ...]
    got: Callable[[int], str | float]
    limit: Callable[[int], str | float]
    margin: Float[np.ndarray, " N"] | None = None

    @property
    def keep(self) -> Bool[np.ndarray, " N"]:
        """Which pictures the rule keeps."""
        return self.which == KEPT

    def drop(self, index: int) -> Drop:
        """The verdict on a picture that the rule drops."""
        return Drop(self.reasons[self.which[index]], self.got(index), self.limit(index))

    def counts(self, among: Bool[np.ndarray, " N"]) -> dict[str, int]:
        """Pictures dropped by reason, of those in `among`; reasons without any are left out."""
        dropped = self.which[among]
        found = np.bincount(dropped[dropped != KEPT], minlength=len(self.reasons))
        return {reason: int(n) for reason, n in zip(self.reasons, found, strict=True) if n > 0}


class Rule(Config):
    """One rule of a recipe. It judges by columns only, so it reads no file and decodes nothing."""

    AMONG: ClassVar[bool] = False
    """Whether a verdict depends on which other pictures are still there."""

    rule: str
    """Which rule."""

    def columns(self) -> tuple[str, ...]:
        """Addresses of the columns that it needs in `Facts`."""
        return ()

    def measured(self) -> tuple[str, ...]:
        """Names of the collection's columns that must be filled before, without built-in ones."""
        return measured_columns(self.columns())

    def check(self, known: Mapping[str, Any]) -> None:
        """Check its addresses against the columns that there are, by address -> kind.

        Raises:
            InputError: a column is not known or holds something else than the rule needs.
        """

    @property
    def label(self) -> str:
        """A short name, for tables and plots."""
        raise NotImplementedError

    def describe(self) -> str:
        """The rule in words, all of it, for the query of a selection."""
        raise NotImplementedError

    def judge(
        self,
        facts: Facts,
        alive: Bool[np.ndarray, " N"],
        find_copies: FindCopies | None = None,
    ) -> Judgement:
        """Judge all pictures.

        Args:
            facts: what is known of them.
            alive: those that no earlier rule has dropped. A rule with `AMONG` judges only these
                and keeps all others; every other rule judges all alike.
            find_copies: answers which pictures are duplicates.

        Raises:
            InputError: a column is not known or of the wrong kind.
        """
        raise NotImplementedError


def measured_columns(addresses: Sequence[str]) -> tuple[str, ...]:
    """`pixels.sharpness`, `h`, `attribute.style` -> `pixels`: what has to be measured."""
    names = (
        address.partition(".")[0]
        for address in addresses
        if address not in BUILT_IN and not address.startswith((SQL, "attribute."))
    )
    return tuple(dict.fromkeys(names))


def spoken(address: str) -> str:
    """An address as people say it: `attribute.style` is `style`."""
    return address.removeprefix("attribute.").removeprefix(SQL)


def number_text(value: int | float | np.number) -> str:
    """A number with at most 6 digits: 0.2, 1536, 6.7413."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def number_against(value: np.number, limit: int | float | None) -> str:
    """A number with as many digits as tell it from the limit that it misses."""
    short = number_text(value)
    return str(value) if limit is not None and short == number_text(limit) else short


def first_reason(*failures: Shaped[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """Masks of failures, by reason -> index of the first that holds, or -1."""
    which = np.full(len(failures[0]), KEPT, np.int8)
    for index, failed in reversed(list(enumerate(failures))):
        which[failed] = index
    return which
