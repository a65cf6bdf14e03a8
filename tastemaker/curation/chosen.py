"""The rule for what a curation is about at all: pictures that were chosen before it judges any."""

from typing import Literal

import numpy as np
from jaxtyping import Bool

from tastemaker.curation.facts import Facts
from tastemaker.curation.judgement import FindCopies, Judgement, Rule, first_reason


class Chosen(Rule):
    """Keep pictures of an earlier selection, or the first ones of the collection.

    It stands in no recipe: a curation puts it before the recipe's rules.
    """

    rule: Literal["chosen"] = "chosen"
    """Which rule."""
    column: str
    """Address of the flag that says which pictures those are."""
    among: str
    """Which pictures those are, in words: `the selection 'sharp'`."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.column,)

    def measured(self) -> tuple[str, ...]:
        """See `Rule`: nothing is measured for it."""
        return ()

    @property
    def label(self) -> str:
        """See `Rule`."""
        return self.among

    def describe(self) -> str:
        """See `Rule`."""
        return f"in {self.among}"

    def judge(
        self,
        facts: Facts,
        alive: Bool[np.ndarray, " N"],
        find_copies: FindCopies | None = None,
    ) -> Judgement:
        """See `Rule`."""
        there = facts.column(self.column, "flag")
        reason = f"not in {self.among}"
        return Judgement(
            first_reason(~there), (reason,), lambda _: "not in it", lambda _: self.among
        )
