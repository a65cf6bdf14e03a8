"""Examples at the border of a rule: the pictures that it just kept and just dropped."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from tastemaker.curation.facts import Facts
from tastemaker.curation.funnel import Funnel


@dataclass(frozen=True)
class Border:
    """The pictures nearest to a rule's limit, nearest first.

    Attributes:
        rule: index of the rule.
        kept: indices of pictures that reached it and that it kept.
        dropped: indices of pictures that it dropped, with a number below its limit or, for rules
            without a threshold, by the hash of their ids.
    """

    rule: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]


def borders(facts: Facts, funnel: Funnel, count: int = 6) -> tuple[Border, ...]:
    """Examples of every rule.

    Rules without a threshold (words, SQL, duplicates) have no nearest pictures: of those any few
    are given, chosen by the hash of their ids so that the same ones are shown every time.

    Args:
        facts: what the funnel was run on.
        funnel: the rules' verdicts.
        count: examples of each side.
    """
    found = []
    for rule, judgement in enumerate(funnel.judgements):
        reached = funnel.reached(rule)
        margin = judgement.margin
        # Those without the number are dropped for that, not for being near the limit.
        judged = reached if margin is None else reached & np.isfinite(margin)
        far = np.zeros(facts.count) if margin is None else np.abs(margin)
        keep = judgement.keep
        found.append(
            Border(
                rule,
                _nearest(facts, far, judged & keep, count),
                _nearest(facts, far, judged & ~keep, count),
            )
        )
    return tuple(found)


def _nearest(
    facts: Facts, far: np.ndarray, among: Bool[np.ndarray, " N"], count: int
) -> tuple[int, ...]:
    indices = np.flatnonzero(among)
    if len(indices) > count:
        # All that are as near as the last one wanted, so that the hashes decide among equal ones.
        indices = indices[far[indices] <= np.partition(far[indices], count - 1)[count - 1]]
    order = np.lexsort((facts.tie_order[indices], far[indices]))
    return tuple(int(index) for index in indices[order][:count])
