"""The same comparison in each category of a prompt set, with intervals that hold for all at once.

With twenty categories and 95 % each, one looks clearly better or worse by chance. So the intervals
of one table are widened (Bonferroni) until all of them hold together at the stated level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tastemaker.records.generation import Prompt
from tastemaker.scorers.figures import Measured
from tastemaker.stats.paired import mean_interval

LEAST_PROMPTS = 10
"""A category with fewer prompts gets no interval and no verdict (ours): of a handful, Student's is
either too wide to tell anything or, where all differences are alike, too narrow to be true."""


def groups_of(prompts: Sequence[Prompt], attribute: str) -> dict[str, list[str]]:
    """Value of an attribute -> ids of the prompts that have it, in the order of the set."""
    found: dict[str, list[str]] = {}
    for prompt in prompts:
        value = prompt.attribute(attribute)
        if value is not None:
            found.setdefault(value, []).append(prompt.id)
    return found


def group_table(
    one: Measured,
    attribute: str,
    groups: Mapping[str, Sequence[str]],
    reference: str | None,
    *,
    level: float = 0.95,
) -> dict[str, Any] | None:
    """One figure in each group of prompts, ready for JSON.

    It has `attribute`, `score`, `comparisons` (how many intervals hold together), `level` (of all
    together), `level_each`, and `rows`: `value`, `prompts`, `models` (side -> mean) and `against`
    (side -> `estimate` of side minus reference; `low` and `high` of Student's interval over prompts
    at `level_each`, None with fewer than `LEAST_PROMPTS`; `better`, `worse`, `same`; `verdict`:
    better, worse, unclear, or few prompts).

    Args:
        one: the figure.
        attribute: what the groups are of, for example `category`.
        groups: value -> ids of prompts; groups with fewer than two measured ones are left out.
        reference: the side that the others are compared with; None compares nothing.
        level: confidence of all intervals together.

    Returns:
        The table; None where fewer than two groups are left.
    """
    known = set.intersection(*(set(found) for found in one.sides.values()))
    there = {value: [p for p in ids if p in known] for value, ids in groups.items()}
    there = {value: ids for value, ids in there.items() if len(ids) >= 2}
    if len(there) < 2:
        return None
    others = [side for side in one.sides if reference is not None and side != reference]
    count = sum(len(ids) >= LEAST_PROMPTS for ids in there.values()) * len(others)
    each = 1 - (1 - level) / max(1, count)
    return {
        "attribute": attribute,
        "score": one.figure.name,
        "level": level,
        "level_each": each,
        "comparisons": count,
        "rows": [
            {
                "value": value,
                "prompts": len(ids),
                "models": {
                    side: float(np.mean([np.mean(found[p]) for p in ids]))
                    for side, found in one.sides.items()
                },
                "against": {
                    side: _against(one, side, str(reference), ids, each) for side in others
                },
            }
            for value, ids in there.items()
        ],
    }


def _against(
    one: Measured, side: str, reference: str, ids: Sequence[str], level: float
) -> dict[str, Any]:
    gain = np.array(list(one.only(ids).gains(side, reference).values()))
    sign = 1.0 if one.figure.higher_is_better else -1.0
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    found: dict[str, Any] = {
        "estimate": float(sign * gain.mean()),
        "low": None,
        "high": None,
        "better": better,
        "worse": worse,
        "same": len(gain) - better - worse,
        "verdict": "few prompts",
    }
    if len(gain) < LEAST_PROMPTS:
        return found
    interval = mean_interval(sign * gain, level)
    moved = (interval.low > 0) - (interval.high < 0)
    verdict = "unclear" if not moved else "better" if moved == sign else "worse"
    ends = (-1.0, 1.0) if one.figure.unit == "share" else (-np.inf, np.inf)
    low, high = max(interval.low, ends[0]), min(interval.high, ends[1])
    return found | {"low": low, "high": high, "verdict": verdict}
