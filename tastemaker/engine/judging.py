"""Measure what rules ask for, and judge the pictures of a collection by them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from tastemaker.curation.copies import CopyFinder
from tastemaker.curation.facts import Facts
from tastemaker.curation.funnel import Funnel, run_funnel
from tastemaker.curation.judgement import Rule
from tastemaker.curation.rules import needed_columns
from tastemaker.engine.columns import Column, fill_columns
from tastemaker.engine.config import Engine
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.facts import FilledColumn, read_facts
from tastemaker.store.looks import read_looks, read_vectors
from tastemaker.store.rundir import StepDir

Measuring = Literal["all", "survivors"]


@dataclass(frozen=True)
class Bench:
    """A collection, the columns that are filled for it, and the rules that judge it, in order.

    Attributes:
        catalogue: the collection.
        columns: what is measured, in an order in which each finds what it reads.
        rules: the rules, in the order in which they are asked.
        flags: address -> ids of the pictures that have this flag.
    """

    catalogue: Catalogue
    columns: Sequence[Column]
    rules: Sequence[Rule]
    flags: Mapping[str, Collection[str]] = field(default_factory=dict)

    def facts(self, rules: Sequence[Rule] | None = None, more: Sequence[str] = ()) -> Facts:
        """What the rules (by default all) ask for, and `more`; unknown where nothing is filled."""
        addresses = [*needed_columns(self.rules if rules is None else rules), *more]
        return read_facts(self.catalogue, self._filled(), addresses, self.flags)

    def find_copies(self, facts: Facts) -> CopyFinder:
        """Answers which pictures are duplicates."""
        keys = {column.operation.column: column.key for column in self.columns}
        return CopyFinder(
            facts,
            looks=lambda name: read_looks(self.catalogue, keys[name]),
            vectors=lambda name: read_vectors(self.catalogue, keys[name]),
        )

    def kept_by(self, count: int) -> frozenset[str]:
        """Ids of the pictures that the first `count` rules keep."""
        rules = self.rules[:count]
        facts = self.facts(rules)
        kept = run_funnel(facts, rules, self.find_copies(facts), means_of=()).kept
        return frozenset(id_ for id_, is_kept in zip(facts.ids, kept, strict=True) if is_kept)

    def measure(
        self,
        step: StepDir,
        engine: Engine,
        *,
        scope: int,
        which: Measuring = "all",
        again: bool = False,
    ) -> Counter[str]:
        """Fill the columns, of every picture in question or only of those that are still there.

        Args:
            step: for progress.
            engine: where.
            scope: how many of the first rules say which pictures are in question; they must ask
                for nothing that is measured.
            which: `survivors` measures a column just before the first rule that needs it, and only
                for the pictures that are left by then, so that dear columns cost little. Columns
                that no rule needs are measured last, for the pictures that all rules keep.
            again: whether rows that hold an error are measured again.

        Returns:
            Counts as `fill_columns` gives them.
        """
        counts: Counter[str] = Counter()
        for columns, until in self._turns(scope, which):
            wanted = self.kept_by(until)
            names = ", ".join(column.operation.column for column in columns)
            counts += fill_columns(
                self.catalogue,
                columns,
                step,
                engine=engine,
                wanted=wanted,
                again=again,
                label=f"{step.name}: {names}",
            )
        return counts

    def _turns(self, scope: int, which: Measuring) -> list[tuple[list[Column], int]]:
        """(columns, how many rules come before) of each pass."""
        if which == "all":
            return [(list(self.columns), scope)] if self.columns else []
        turns, done = [], set[str]()
        for number, rule in enumerate(self.rules):
            fresh = self._with_read(set(rule.measured())) - done
            if fresh:
                turns.append((self._named(fresh), max(number, scope)))
                done |= fresh
        rest = {column.operation.column for column in self.columns} - done
        return [*turns, (self._named(rest), len(self.rules))] if rest else turns

    def _with_read(self, names: set[str]) -> set[str]:
        """The named columns that there are, and all that they read."""
        for column in reversed(self.columns):
            if column.operation.column in names:
                names |= set(column.operation.reads)
        return names & {column.operation.column for column in self.columns}

    def _named(self, names: set[str]) -> list[Column]:
        return [column for column in self.columns if column.operation.column in names]

    def _filled(self) -> dict[str, FilledColumn]:
        return {
            column.operation.column: FilledColumn(column.key, column.operation.FIELDS)
            for column in self.columns
            if self.catalogue.is_finished(column.key)
        }


@dataclass(frozen=True)
class Verdicts:
    """The outcome of a bench: what was known, and what the rules made of it."""

    facts: Facts
    funnel: Funnel
    find_copies: CopyFinder

    @cached_property
    def kept(self) -> list[str]:
        """Ids of the pictures that all rules keep."""
        pairs = zip(self.facts.ids, self.funnel.kept, strict=True)
        return [id_ for id_, is_kept in pairs if is_kept]


def judge(bench: Bench, more: Sequence[str] = ()) -> Verdicts:
    """Apply all rules; `more` addresses are read with what they need.

    Raises:
        InputError: a rule asks for what is not known.
    """
    facts = bench.facts(more=more)
    find_copies = bench.find_copies(facts)
    return Verdicts(facts, run_funnel(facts, bench.rules, find_copies), find_copies)
