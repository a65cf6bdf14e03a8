"""Rules whose verdict on a picture depends on the other pictures that are still there."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int, Integer
from pydantic import Field, model_validator

from tastemaker.curation.facts import Facts, Kind, check_column
from tastemaker.curation.judgement import (
    KEPT,
    FindCopies,
    Judgement,
    Rule,
    first_reason,
    measured_columns,
    number_text,
    spoken,
)
from tastemaker.curation.rules_alone import UNKNOWN, Alive
from tastemaker.errors import InputError


class Top(Rule):
    """Keep the best of those that are still there, of all or of each group.

    With `per`, `count` and `fraction` hold within each group, so that one style does not take all;
    a second `top` rule without `per` then limits the whole. Pictures without a group are a group
    of their own. Where `per` is a column of lists (concepts), a picture is in a group for each
    entry, and stays when it is among the best of one of them.
    """

    AMONG: ClassVar[bool] = True

    rule: Literal["top"] = "top"
    """The best by a number."""
    column: str
    """Address of a column of numbers: `aesthetic.score`, ... Pictures without it are dropped."""
    count: int | None = Field(default=None, ge=1)
    """How many to keep, of all or of each group."""
    fraction: float | None = Field(default=None, gt=0, le=1)
    """Which share to keep of those with the number, of all or of each group; rounded up, so that no
    group vanishes."""
    per: str | None = None
    """Address of the groups: `attribute.concept`, `embedding.cluster_of_32`, ...; null:
    all are one."""
    order: Literal["highest", "lowest"] = "highest"
    """Whether high or low numbers are best (ours). Of equal ones, hashes of the ids decide."""

    @model_validator(mode="after")
    def _one_limit(self) -> "Top":
        if (self.count is None) == (self.fraction is None):
            raise ValueError("either `count` or `fraction`")
        return self

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.column,) if self.per is None else (self.column, self.per)

    def check(self, known: Mapping[str, Kind]) -> None:
        """See `Rule`."""
        check_column(self.column, known, ("number",))
        if self.per is not None:
            check_column(self.per, known)

    @property
    def label(self) -> str:
        """See `Rule`."""
        per = f" per {spoken(self.per)}" if self.per else ""
        return f"top {self._many()} by {spoken(self.column)}{per}"

    def describe(self) -> str:
        """See `Rule`."""
        per = f" of each {spoken(self.per)}" if self.per else ""
        return f"the {self._many()} with the {self.order} {spoken(self.column)}{per}"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`. The margin is that to the last kept one of the picture's group."""
        values = facts.numbers(self.column)
        sign = 1.0 if self.order == "highest" else -1.0
        known = np.isfinite(values)
        # Where a picture is in several groups, it has one row for each.
        pictures, groups = self._groups(facts, alive & known)
        scores = sign * values[pictures].astype(np.float64)
        order = np.lexsort((facts.tie_order[pictures], -scores, groups))
        pictures, groups, scores = pictures[order], groups[order], scores[order]
        _, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
        quotas = self._quotas(sizes)
        chosen = np.arange(len(groups)) - np.repeat(starts, sizes) < np.repeat(quotas, sizes)
        keep = ~alive
        keep[pictures[chosen]] = True
        cutoffs = np.full(facts.count, np.inf)
        last = np.repeat(scores[starts + quotas - 1], sizes)
        np.minimum.at(cutoffs, pictures, last)
        margin = np.where(alive & known, sign * values - cutoffs, np.nan)
        side = "least" if self.order == "highest" else "most"
        name, many = spoken(self.column), self._many()

        def limit(index: int) -> str:
            if not known[index]:
                return f"the {many} {self.order}"
            cutoff = number_text(sign * cutoffs[index])
            return f"at {side} {cutoff}, one of the {many} {self.order}"

        return Judgement(
            first_reason(~keep & ~known, ~keep),
            (f"{name} unknown", f"not among the best: {name}"),
            got=lambda i: number_text(values[i]) if known[i] else UNKNOWN,
            limit=limit,
            margin=margin,
        )

    def _many(self) -> str:
        if self.count is not None:
            return str(self.count)
        return f"{number_text(100 * (self.fraction or 0.0))} %"

    def _quotas(self, sizes: Integer[np.ndarray, " G"]) -> Integer[np.ndarray, " G"]:
        if self.count is not None:
            return np.minimum(self.count, sizes)
        # 0.1 * 30 is a little more than 3, which must not become 4.
        return np.ceil(np.round((self.fraction or 0.0) * sizes, 6)).astype(np.int64).clip(1)

    def _groups(
        self, facts: Facts, judged: Bool[np.ndarray, " N"]
    ) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
        """(picture, number of its group) of each membership of the judged pictures."""
        pictures = np.flatnonzero(judged)
        if self.per is None:
            return pictures, np.zeros(len(pictures), np.int64)
        column = facts.column(self.per)[pictures]
        if facts.kinds[self.per] in ("number", "flag"):
            return pictures, np.unique(column, return_inverse=True)[1].astype(np.int64)
        entries = column.tolist()
        if facts.kinds[self.per] == "list":
            # `or`: without entries a picture is in the group of those without.
            own = [tuple(dict.fromkeys(entry or (None,))) for entry in entries]
            pictures = np.repeat(pictures, [len(entry) for entry in own])
            entries = [group for entry in own for group in entry]
        numbers: dict[str | None, int] = {}
        codes = (numbers.setdefault(entry, len(numbers)) for entry in entries)
        return pictures, np.fromiter(codes, np.int64, len(entries))


class Duplicates(Rule):
    """Keep one of the pictures that look or mean the same. Who duplicates whom is asked for."""

    AMONG: ClassVar[bool] = True

    rule: Literal["duplicates"] = "duplicates"
    """One of those that are nearly the same."""
    by: Literal["look", "embedding"] = "look"
    """By perceptual hash and colours, or by the cosine of embeddings (ours)."""
    column: str | None = None
    """Name of the column that holds hashes or embeddings; null: `pixels`, for looks."""
    most_bits: int = Field(default=6, ge=0, le=32)
    """Looks: the same when the hashes differ in so many of 64 bits (ours), ..."""
    most_levels: float = Field(default=4.0, ge=0)
    """... and the colours by so many of 255 levels on average (ours)."""
    mirrored: bool = False
    """Looks: whether a mirror image is the same, too (ours)."""
    least_cosine: float = Field(default=0.95, gt=0, le=1)
    """Embeddings: the same when the cosine is at least this (ours)."""
    within: str | None = None
    """Address of groups: only pictures of one group are compared; null: all with all."""
    keep: Literal["largest", "sharpest", "best"] = "largest"
    """Which one of several stays: by `megapixels`, `pixels.sharpness` or `score` (ours)."""
    score: str | None = None
    """Address of the number whose highest is best, for `keep: best`."""

    @model_validator(mode="after")
    def _fits(self) -> "Duplicates":
        if (self.keep == "best") != (self.score is not None):
            raise ValueError("`score` with `keep: best`, and only then")
        if self.by == "embedding" and self.column is None:
            raise ValueError("a `column` of embeddings with `by: embedding`")
        if self.by == "embedding" and self.mirrored:
            raise ValueError("`mirrored` with `by: look` only")
        return self

    @property
    def source(self) -> str:
        """Name of the column that holds hashes or embeddings."""
        return self.column or "pixels"

    @property
    def preference(self) -> str:
        """Address of the number whose highest is kept."""
        return self.score or {"largest": "megapixels"}.get(self.keep, "pixels.sharpness")

    def columns(self) -> tuple[str, ...]:
        """See `Rule`; without the hashes or embeddings, which only the answerer needs."""
        return (self.preference,) if self.within is None else (self.preference, self.within)

    def measured(self) -> tuple[str, ...]:
        """See `Rule`."""
        return tuple(dict.fromkeys((self.source, *measured_columns(self.columns()))))

    def check(self, known: Mapping[str, Kind]) -> None:
        """See `Rule`."""
        check_column(self.preference, known, ("number",))
        if self.within is not None:
            check_column(self.within, known, ("text", "number", "flag"))

    @property
    def label(self) -> str:
        """See `Rule`."""
        return "no duplicates" if self.by == "look" else f"no duplicates by {self.source}"

    def describe(self) -> str:
        """See `Rule`."""
        near = self._near()
        within = f" of its {spoken(self.within)}" if self.within else ""
        best = {"largest": "largest", "sharpest": "sharpest"}.get(
            self.keep, f"highest {spoken(self.preference)}"
        )
        return f"nothing else{within} {near}, the {best} kept"

    def best_first(self, facts: Facts, alive: Alive) -> Int[np.ndarray, " M"]:
        """Indices of the pictures that are still there, the one to keep before its copies."""
        pictures = np.flatnonzero(alive)
        values = facts.numbers(self.preference)[pictures].astype(np.float64)
        values = np.where(np.isfinite(values), values, -np.inf)
        return pictures[np.lexsort((facts.tie_order[pictures], -values))]

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`.

        Raises:
            InputError: nobody answers which pictures are duplicates.
        """
        if find_copies is None:
            raise InputError(
                "rule 'duplicates'",
                "nobody who compares pictures",
                "an answer for every picture",
                "Give `find_copies`.",
            )
        copies = find_copies(self, alive)
        return Judgement(
            first_reason(alive & (copies.of != KEPT)),
            ("near duplicate" if self.by == "look" else f"near duplicate by {self.source}",),
            got=copies.got,
            limit=lambda _: f"not {self._near()}",
        )

    def _near(self) -> str:
        if self.by == "embedding":
            return f"with a cosine of {number_text(self.least_cosine)} in {self.source}"
        mirrored = ", mirrored or not" if self.mirrored else ""
        bits = f"{self.most_bits} bits and {number_text(self.most_levels)} levels{mirrored}"
        return f"within {bits}" if self.source == "pixels" else f"within {bits} in {self.source}"


def group_values(facts: Facts, address: str | None) -> tuple[str, ...]:
    """Name of every picture's group for `Duplicates.within`, `[N]`; empty text without one."""
    if address is None:
        return ("",) * facts.count
    column = facts.column(address, "text", "number", "flag")
    return tuple("" if v is None or v != v else str(v) for v in column.tolist())
