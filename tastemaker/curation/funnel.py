"""Rules one after the other: who is left after each, how good those are, and who fell to what.

Axes: masks and codes are `[N]`, one entry a picture of the facts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from tastemaker.curation.facts import BUILT_IN, Facts
from tastemaker.curation.judgement import KEPT, FindCopies, Judgement, Rule
from tastemaker.records.image import Drop, Keep, Verdict

NOT_JUDGED = -2

Means = Mapping[str, float | None]


@dataclass(frozen=True)
class FunnelStage:
    """What one rule does to those that reached it.

    Attributes:
        label: the rule's short name.
        describe: the rule in words.
        before: pictures that reached it.
        after: pictures that are left.
        reasons: reason -> pictures that it drops for it.
        means: address -> mean over those that are left and have the number; None when none has.
    """

    label: str
    describe: str
    before: int
    after: int
    reasons: Mapping[str, int]
    means: Means

    @property
    def dropped(self) -> int:
        """Pictures that the rule drops."""
        return self.before - self.after


@dataclass(frozen=True)
class Funnel:
    """What all rules do.

    Attributes:
        count: pictures that the first rule sees.
        means: their means, as in `FunnelStage`.
        stages: one for each rule.
        dropped_by: index of the rule that drops a picture; -1 for those kept, -2 for those that
            were left out from the start.
        judgements: one for each rule. Judgements of the rules that depend on the survivors are of
            those that reached them.
    """

    count: int
    means: Means
    stages: tuple[FunnelStage, ...]
    dropped_by: Int[np.ndarray, " N"]
    judgements: tuple[Judgement, ...]
    failed: tuple[Bool[np.ndarray, " N"] | None, ...]
    """For each rule, who would fail it alone, whatever the other rules say; None for a rule that
    depends on the survivors."""

    @property
    def kept(self) -> Bool[np.ndarray, " N"]:
        """Which pictures all rules keep."""
        return self.dropped_by == KEPT

    def verdict(self, index: int) -> Verdict:
        """Keep, or the drop by the first rule that does not keep the picture.

        Raises:
            IndexError: the picture was left out from the start.
        """
        rule = int(self.dropped_by[index])
        if rule == NOT_JUDGED:
            raise IndexError(f"picture {index} was not judged")
        return Keep() if rule == KEPT else self.judgements[rule].drop(index)

    def drops(self) -> dict[int, Drop]:
        """The verdict on every picture that a rule drops, by index."""
        dropped = np.flatnonzero(self.dropped_by >= 0)
        rules = self.dropped_by[dropped]
        return {
            int(index): self.judgements[rule].drop(int(index))
            for index, rule in zip(dropped, rules, strict=True)
        }

    def reached(self, rule: int) -> Bool[np.ndarray, " N"]:
        """Which pictures no earlier rule has dropped."""
        return (self.dropped_by == KEPT) | (self.dropped_by >= rule)


def run_funnel(
    facts: Facts,
    rules: Sequence[Rule],
    find_copies: FindCopies | None = None,
    *,
    start: Bool[np.ndarray, " N"] | None = None,
    means_of: Sequence[str] | None = None,
) -> Funnel:
    """Apply the rules in their order; the first that drops a picture is its verdict.

    Args:
        facts: what is known of the pictures.
        rules: in the order in which they are asked.
        find_copies: answers `Duplicates` rules.
        start: the pictures to begin with; None: all.
        means_of: addresses whose means are followed; None: see `followed`.

    Raises:
        InputError: a rule asks for what is not known.
    """
    alive = np.ones(facts.count, bool) if start is None else start.copy()
    dropped_by = np.where(alive, KEPT, NOT_JUDGED).astype(np.int64)
    addresses = followed(facts, rules) if means_of is None else tuple(means_of)
    count, means = int(alive.sum()), survivors_means(facts, addresses, alive)
    stages, judgements = [], []
    for number, rule in enumerate(rules):
        judgement = rule.judge(facts, alive, find_copies)
        after = alive & judgement.keep
        dropped_by[alive & ~judgement.keep] = number
        stages.append(
            FunnelStage(
                rule.label,
                rule.describe(),
                int(alive.sum()),
                int(after.sum()),
                judgement.counts(alive),
                survivors_means(facts, addresses, after),
            )
        )
        judgements.append(judgement)
        alive = after
    failed = tuple(
        None if rule.AMONG else ~judgement.keep
        for rule, judgement in zip(rules, judgements, strict=True)
    )
    return Funnel(count, means, tuple(stages), dropped_by, tuple(judgements), failed)


def followed(facts: Facts, rules: Sequence[Rule]) -> tuple[str, ...]:
    """Addresses of numbers whose means say how good the survivors are.

    Those that a rule names, in the order of the rules, then every other field called `score`.
    """
    named = [address for rule in rules for address in rule.columns()]
    scores = [a for a in sorted(facts.values) if a.endswith(".score") and a not in BUILT_IN]
    return tuple(
        address
        for address in dict.fromkeys([*named, *scores])
        if facts.kinds.get(address) == "number"
    )


def survivors_means(
    facts: Facts, addresses: Iterable[str], alive: Bool[np.ndarray, " N"]
) -> dict[str, float | None]:
    """Address -> mean over the pictures in `alive` that have the number."""
    found: dict[str, float | None] = {}
    for address in addresses:
        values = facts.numbers(address)[alive].astype(np.float64)
        values = values[np.isfinite(values)]
        found[address] = float(values.mean()) if len(values) else None
    return found
