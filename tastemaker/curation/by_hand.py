"""The rule for marks that somebody gave to pictures by hand."""

from typing import Literal

import numpy as np

from tastemaker.curation.facts import Facts
from tastemaker.curation.judgement import FindCopies, Judgement, Rule, first_reason
from tastemaker.curation.rules_alone import Alive

KEPT_BY_HAND, REJECTED_BY_HAND = "marked:keep", "marked:reject"
"""Addresses of the flags: the pictures with each mark."""


class ByHand(Rule):
    """Drop pictures that somebody rejected by hand.

    It stands in no recipe: a curation with `marks` puts it before the recipe's rules.
    """

    rule: Literal["by_hand"] = "by_hand"
    """Which rule."""
    only_kept: bool = False
    """Whether pictures without a mark are dropped, too."""
    said: str = ""
    """Which marks, in words."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (KEPT_BY_HAND, REJECTED_BY_HAND)

    def measured(self) -> tuple[str, ...]:
        """See `Rule`: nothing is measured for it."""
        return ()

    @property
    def label(self) -> str:
        """See `Rule`."""
        return "kept by hand" if self.only_kept else "not rejected by hand"

    def describe(self) -> str:
        """See `Rule`."""
        return f"{self.label} ({self.said})" if self.said else self.label

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`."""
        rejected = facts.column(REJECTED_BY_HAND, "flag")
        unmarked = ~facts.column(KEPT_BY_HAND, "flag") & ~rejected
        return Judgement(
            first_reason(rejected, unmarked & np.bool_(self.only_kept)),
            ("rejected by hand", "not kept by hand"),
            got=lambda index: "reject" if rejected[index] else "no mark",
            limit=lambda _: "keep" if self.only_kept else "no reject",
        )
