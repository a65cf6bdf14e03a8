"""What a curation found, as plain figures: a report draws it, and needs no picture to be judged.

The keys of the result are the sections of `curation.json` (docs/formats.md).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tastemaker.curation.borders import borders
from tastemaker.curation.buckets import SDXL_BUCKETS, Assignment, bucket_preview, scaled_buckets
from tastemaker.curation.concept_density import compare, concept_density, rank_frequency
from tastemaker.curation.facts import Facts, field_kind
from tastemaker.curation.funnel import Funnel
from tastemaker.curation.histograms import histogram, tally
from tastemaker.curation.judgement import Rule
from tastemaker.curation.rules import Duplicates, Range, Top
from tastemaker.engine.columns import Column
from tastemaker.engine.judging import Bench, Verdicts
from tastemaker.scorers.caption import Caption
from tastemaker.scorers.nouns import Nouns

_SIZES = ("short_side", "aspect", "megapixels")
_BORDER_PICTURES = 6
_CLUSTERS = 24
_CLUSTER_PICTURES = 8
_SDXL_SIDE_PX = 1024


def shown_addresses(bench: Bench) -> list[str]:
    """What the summary needs beside what the rules ask for."""
    measured = [
        f"{column.operation.column}.{field}"
        for column in bench.columns
        if bench.catalogue.is_finished(column.key)
        for field, dtype in column.operation.FIELDS.items()
        if field_kind(dtype) in ("number", "flag")
    ]
    return [*_SIZES, "h", "w", "format", "source", "tags", *measured, *_noun_addresses(bench)]


def summarise(bench: Bench, verdicts: Verdicts, buckets: Mapping[str, Any]) -> dict[str, Any]:
    """All sections.

    Args:
        bench: the collection and its rules.
        verdicts: what the rules said, of facts with `shown_addresses`.
        buckets: `side_px`, `assignment` and `batch` of the preview.
    """
    facts, funnel = verdicts.facts, verdicts.funnel
    kept = funnel.kept
    readable = funnel.judgements[0].keep
    return {
        "pictures": facts.count,
        "kept": int(kept.sum()),
        "errors": funnel.judgements[0].counts(np.ones(facts.count, bool)),
        "funnel": {
            "means": dict(funnel.means),
            "stages": [
                {**asdict(stage), "alone": _alone(funnel, number, readable)}
                for number, stage in enumerate(funnel.stages)
            ],
        },
        "columns": [_column(bench, column) for column in bench.columns],
        "histograms": _histograms(facts, bench.rules, readable, kept),
        "borders": _borders(facts, funnel, bench.rules),
        "duplicates": _duplicates(bench, verdicts),
        "concepts": _concepts(bench, facts, readable, kept),
        "formats": _tallies(facts, "format", readable, kept),
        "sources": _tallies(facts, "source", readable, kept),
        "buckets": _buckets(facts, kept, **buckets),
    }


def _alone(funnel: Funnel, rule: int, readable: np.ndarray) -> int | None:
    """How many readable pictures the rule would drop if it were the only one.

    Pictures whose number was not measured, since an earlier rule dropped them, do not count.
    """
    failed, margin = funnel.failed[rule], funnel.judgements[rule].margin
    if failed is None:
        return None
    known = readable if margin is None else readable & np.isfinite(margin)
    return int((failed & known).sum())


def _column(bench: Bench, column: Column) -> dict[str, Any]:
    operation, catalogue = column.operation, bench.catalogue
    found: dict[str, Any] = {
        "name": operation.column,
        "kind": operation.kind,
        "folder": column.key.folder,
        "config": operation.model_dump(mode="json", exclude_defaults=True),
    }
    if not catalogue.is_finished(column.key):
        return {**found, "measured": 0, "missing": None, "errors": {}}
    table = catalogue.column_table(column.key, ["status", "error"])
    status = Counter(table["status"].to_pylist())
    errors = Counter(str(e).split(" (")[0] for e in table["error"].to_pylist() if e is not None)
    found |= {
        "measured": status["ok"],
        "missing": status["missing"],
        "errors": dict(errors.most_common(12)),
    }
    if isinstance(operation, Caption):
        found |= _tokens(bench, column, operation)
    return found


def _tokens(bench: Bench, column: Column, operation: Caption) -> dict[str, Any]:
    names = ["prompt_tokens", "completion_tokens"]
    table = bench.catalogue.column_table(column.key, names)
    sums = {name: sum(n or 0 for n in table[name].to_pylist()) for name in names}
    return {**sums, "cost": operation.cost(**sums)}


def _histograms(
    facts: Facts, rules: Sequence[Rule], readable: np.ndarray, kept: np.ndarray
) -> list[dict[str, Any]]:
    asked = [a for rule in rules for a in rule.columns() if facts.kinds.get(a) == "number"]
    others = [a for a in facts.values if facts.kinds[a] == "number" and a not in ("h", "w")]
    found = []
    for address in dict.fromkeys([*asked, *others]):
        limits = [
            limit
            for rule in rules
            if isinstance(rule, Range) and rule.column == address
            for limit in (rule.least, rule.most)
            if limit is not None
        ]
        counts = histogram(facts.numbers(address)[readable], kept[readable], limits=limits)
        if not len(counts.edges):
            continue
        found.append(
            {
                "column": address,
                "edges": counts.edges.tolist(),
                "kept": counts.kept.tolist(),
                "dropped": counts.dropped.tolist(),
                "below": counts.below,
                "above": counts.above,
                "unknown": counts.unknown,
                "scale": counts.scale,
                "limits": limits,
            }
        )
    return found


def _borders(facts: Facts, funnel: Funnel, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    found = []
    for border in borders(facts, funnel, _BORDER_PICTURES):
        rule, judgement = rules[border.rule], funnel.judgements[border.rule]
        column = rule.column if isinstance(rule, Range | Top) else None
        numbers = None if column is None else facts.numbers(column)
        dropped = []
        for index in border.dropped:
            drop = judgement.drop(index)
            dropped.append(
                {
                    "id": facts.ids[index],
                    "name": facts.names()[index],
                    "reason": drop.reason,
                    "got": str(drop.got),
                    "limit": str(drop.limit),
                }
            )
        kept = [
            {
                "id": facts.ids[index],
                "name": facts.names()[index],
                "value": None if numbers is None else _finite(numbers[index]),
            }
            for index in border.kept
        ]
        if dropped:
            found.append({"rule": rule.label, "column": column, "kept": kept, "dropped": dropped})
    return found


def _duplicates(bench: Bench, verdicts: Verdicts) -> list[dict[str, Any]]:
    """Clusters of each duplicates rule, the largest first."""
    facts, funnel = verdicts.facts, verdicts.funnel
    found = []
    for number, rule in enumerate(bench.rules):
        if not isinstance(rule, Duplicates):
            continue
        copies = verdicts.find_copies(rule, funnel.reached(number))
        members: dict[int, list[int]] = {}
        for index in np.flatnonzero(copies.of >= 0):
            members.setdefault(int(copies.of[index]), []).append(int(index))
        largest = sorted(members.items(), key=lambda item: (-len(item[1]), facts.ids[item[0]]))
        found.append(
            {
                "rule": rule.label,
                "describe": rule.describe(),
                "clusters": len(members),
                "dropped": sum(map(len, members.values())),
                "largest": [
                    {
                        "kept": {"id": facts.ids[of], "name": facts.names()[of]},
                        "copies": [
                            {"id": facts.ids[i], "name": facts.names()[i], "got": copies.got(i)}
                            for i in own[:_CLUSTER_PICTURES]
                        ],
                        "size": len(own) + 1,
                    }
                    for of, own in largest[:_CLUSTERS]
                ],
            }
        )
    return found


def _noun_addresses(bench: Bench) -> list[str]:
    return [
        f"{column.operation.column}.nouns"
        for column in bench.columns
        if isinstance(column.operation, Nouns) and bench.catalogue.is_finished(column.key)
    ]


def _concepts(
    bench: Bench, facts: Facts, readable: np.ndarray, kept: np.ndarray
) -> dict[str, Any] | None:
    """Density of nouns before and after; of tags, where no nouns were found."""
    address = next(iter(_noun_addresses(bench)), "tags")
    words = facts.values[address]
    if not any(entry for entry in words):
        return None
    before, after = (
        concept_density([entry or () for entry in words[among]]) for among in (readable, kept)
    )
    shifts = compare(before, after)
    sides = {}
    for name, density in (("before", before), ("after", after)):
        figures = asdict(density)
        del figures["counts"]
        sides[name] = {
            **figures,
            "valid_share": density.valid_share,
            "curve": rank_frequency(density),
        }
    return {"of": address, **sides, "shifts": asdict(shifts)}


def _tallies(
    facts: Facts, address: str, readable: np.ndarray, kept: np.ndarray
) -> list[dict[str, Any]]:
    found = tally(facts.values[address][readable], kept[readable], most=20)
    return [asdict(one) for one in found]


def _buckets(
    facts: Facts, kept: np.ndarray, *, side_px: int, assignment: Assignment, batch: int
) -> dict[str, Any]:
    sizes = np.stack([facts.numbers(side)[kept] for side in ("h", "w")], axis=1)
    sizes = np.nan_to_num(sizes).astype(np.int64)
    buckets = (
        SDXL_BUCKETS
        if side_px == _SDXL_SIDE_PX
        else scaled_buckets(SDXL_BUCKETS, side_px / _SDXL_SIDE_PX)
    )
    preview = bucket_preview(sizes, buckets, batch, assignment)
    rows = [
        {
            "h": row.bucket.h,
            "w": row.bucket.w,
            "pictures": row.pictures,
            "full_batches": row.full_batches,
            "leftover": row.leftover,
            "small": row.smaller_than_a_batch,
        }
        for row in preview.rows
    ]
    return {
        "side_px": side_px,
        "assignment": assignment,
        "batch": batch,
        "rows": rows,
        "not_fitting": preview.not_fitting,
        "upscaled": preview.upscaled,
        "kept_area": preview.kept_area,
        "kept_area_p5": preview.kept_area_p5,
    }


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
