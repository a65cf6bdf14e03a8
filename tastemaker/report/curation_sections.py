"""The parts of a curation's page, from its figures: what stands where, in which words.

Every part is read from `curation.json` alone; what that lacks gives an empty part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tastemaker.curation.judgement import number_text
from tastemaker.report.words import counted, figure, figures, percent, several

Json = Mapping[str, Any]
Address = Callable[[str], str | None]
"""Id of a picture -> its data address."""

SIZES = ("short_side", "aspect", "megapixels")
_READABLE, _NOT_TRUE = "readable", "not true"
_CLUSTERS, _COPIES = 12, 7


@dataclass(frozen=True)
class Cut:
    """One rule in the funnel; `kept_share` and `cut_share` are of all pictures, in percent."""

    label: str
    describe: str
    before: int
    after: int
    reasons: tuple[tuple[str, int], ...]
    alone: int | None
    kept_share: float
    cut_share: float

    @property
    def dropped(self) -> int:
        """Pictures that the rule drops."""
        return self.before - self.after

    @property
    def dropped_share(self) -> float:
        """... of those that reached it, 0..1."""
        return self.dropped / self.before if self.before else 0.0


@dataclass(frozen=True)
class MeansRow:
    """What is left after a rule, and its means: (text, whether the rule changed it)."""

    label: str
    left: int
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Example:
    """One picture as shown; `note` below it, `about` when one points at it."""

    name: str
    address: str | None
    note: str
    about: str


@dataclass(frozen=True)
class BorderStrip:
    """Pictures on both sides of a rule, the nearest first."""

    label: str
    is_threshold: bool
    limit: str
    dropped: tuple[Example, ...]
    kept: tuple[Example, ...]


@dataclass(frozen=True)
class Cluster:
    """Pictures that are the same, as far as they are shown."""

    kept: Example
    copies: tuple[Example, ...]
    more: int


@dataclass(frozen=True)
class CopyRule:
    """What one rule of duplicates found."""

    describe: str
    clusters: int
    dropped: int
    largest: tuple[Cluster, ...]


@dataclass(frozen=True)
class BucketBar:
    """One bucket: its outline in pixels of the page, and its bar in percent of the longest."""

    name: str
    outline: tuple[float, float]
    pictures: int
    bar: float
    is_small: bool
    batches: str


def cuts(summary: Json) -> tuple[Cut, ...]:
    """The funnel, rule by rule."""
    stages = summary.get("funnel", {}).get("stages", [])
    total = max(1, stages[0]["before"]) if stages else 1
    return tuple(
        Cut(
            *_named(stage),
            stage["before"],
            stage["after"],
            _telling(stage["reasons"]),
            # What cannot be read is not counted for any rule, so not for this one either.
            stage.get("alone") if stage["label"] != _READABLE else None,
            100 * stage["after"] / total,
            100 * (stage["before"] - stage["after"]) / total,
        )
        for stage in stages
    )


def means(summary: Json) -> tuple[tuple[str, ...], tuple[MeansRow, ...]]:
    """The followed columns, and their means before and after every rule."""
    funnel = summary.get("funnel", {})
    start: Json = funnel.get("means", {})
    stages = funnel.get("stages", [])
    if not start or not stages:
        return (), ()
    all_of_them = {"label": "all pictures", "after": stages[0]["before"], "means": start}
    stages = [all_of_them, *stages]
    columns = [figures([stage["means"].get(column) for stage in stages]) for column in start]
    rows = [
        MeansRow(
            shown(stage["label"]),
            stage["after"],
            tuple((texts[n], n == 0 or texts[n] != texts[n - 1]) for texts in columns),
        )
        for n, stage in enumerate(stages)
    ]
    return tuple(start), tuple(rows)


def shown_ids(summary: Json) -> list[str]:
    """Ids of all pictures that the parts show."""
    ids = [
        example["id"]
        for border in _borders(summary)
        for example in (*border["dropped"], *border["kept"])
    ]
    for found in summary.get("duplicates", []):
        for cluster in found["largest"][:_CLUSTERS]:
            ids += [one["id"] for one in (cluster["kept"], *cluster["copies"][:_COPIES])]
    return ids


def border_strips(summary: Json, address: Address) -> tuple[BorderStrip, ...]:
    """Examples at the border of each rule that dropped something."""
    strips = []
    for border in _borders(summary):
        is_threshold = border["column"] is not None
        limits = {one["limit"] for one in border["dropped"]}
        dropped = [_dropped(one, address, is_threshold) for one in border["dropped"]]
        kept = [
            Example(one["name"], address(one["id"]), _value(one, is_threshold), one["name"])
            for one in border["kept"]
        ]
        limit = limits.pop() if len(limits) == 1 else ""
        strips.append(
            BorderStrip(shown(border["rule"]), is_threshold, limit, tuple(dropped), tuple(kept))
        )
    return tuple(strips)


def copy_rules(summary: Json, address: Address) -> tuple[CopyRule, ...]:
    """The largest clusters of every rule of duplicates that found any."""
    return tuple(
        CopyRule(
            found["describe"],
            found["clusters"],
            found["dropped"],
            tuple(_cluster(one, address) for one in found["largest"][:_CLUSTERS]),
        )
        for found in summary.get("duplicates", [])
        if found["clusters"]
    )


def histograms(summary: Json) -> tuple[list[Json], list[Json], list[Json]]:
    """(of sizes, of what rules ask for and of scores, of everything else that was measured)."""
    followed = summary.get("funnel", {}).get("means", {})
    groups: tuple[list[Json], list[Json], list[Json]] = ([], [], [])
    for entry in summary.get("histograms", []):
        address = entry["column"]
        is_asked = bool(entry["limits"]) or address in followed
        groups[0 if address in SIZES else 1 if is_asked else 2].append(entry)
    groups[0].sort(key=lambda entry: SIZES.index(entry["column"]))
    return groups


def histogram_note(entry: Json) -> str:
    """What the bins of a histogram do not say."""
    said = []
    if entry["limits"]:
        limits = " and ".join(figure(limit) for limit in entry["limits"])
        said.append(f"limit {limits}" if len(entry["limits"]) == 1 else f"limits {limits}")
    edges = entry["edges"]
    for name, edge in (("below", edges[0]), ("above", edges[-1])):
        if sum(entry[name]):
            said.append(f"{counted(sum(entry[name]))} {name} {figure(edge)}")
    if sum(entry["unknown"]):
        said.append(f"{counted(sum(entry['unknown']))} unknown")
    if entry["scale"] == "log":
        said.append("logarithmic")
    return ", ".join(said) or "no limit"


def bucket_bars(summary: Json) -> tuple[BucketBar, ...]:
    """Buckets from the widest to the tallest."""
    rows = summary.get("buckets", {}).get("rows", [])
    longest = max((row["pictures"] for row in rows), default=1)
    bars = []
    for row in rows:
        root = (row["w"] / row["h"]) ** 0.5
        left = f", {row['leftover']} left over" if row["leftover"] else ""
        batches = several(row["full_batches"], "batch", "batches")
        bars.append(
            BucketBar(
                f"{row['h']} \N{MULTIPLICATION SIGN} {row['w']}",
                (round(13 / root, 1), round(13 * root, 1)),
                row["pictures"],
                100 * row["pictures"] / longest,
                row["small"],
                "smaller than a batch" if row["small"] else f"{batches}{left}",
            )
        )
    return tuple(bars)


def bucket_facts(summary: Json) -> tuple[tuple[str, str], ...]:
    """What the preview of buckets says as a whole."""
    found = summary.get("buckets", {})
    rows = found.get("rows", [])
    if not rows and not found.get("not_fitting"):
        return ()
    small = [row for row in rows if row["small"]]
    left = sum(row["leftover"] for row in rows)
    facts = [
        ("buckets with pictures", str(len(rows))),
        (
            "smaller than a batch",
            f"{len(small)}, with {several(sum(row['pictures'] for row in small), 'picture')}",
        ),
        ("left over by full batches", several(left, "picture")),
        ("fit in no bucket", several(found["not_fitting"], "picture")),
        ("upscaled", several(found["upscaled"], "picture")),
    ]
    if found.get("kept_area") is not None:
        facts.append(("area kept by the crop", f"{percent(found['kept_area'])} on average"))
        facts.append(("19 of 20 keep at least", percent(found["kept_area_p5"])))
    return tuple(facts)


def unusable(summary: Json) -> tuple[tuple[str, int, str], ...]:
    """Kinds of errors of files, the most frequent first: (kind, pictures, some of their names)."""
    examples: dict[str, list[str]] = {}
    for border in summary.get("borders", []):
        if border["rule"] == _READABLE:
            for one in border["dropped"]:
                examples.setdefault(one["reason"], []).append(one["name"])
    errors = summary.get("errors", {})
    ordered = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return tuple((kind, count, ", ".join(examples.get(kind, ()))) for kind, count in ordered)


def shown(label: str) -> str:
    """A rule's label with the signs that people write."""
    return label.replace(">=", "≥").replace("<=", "≤")


def _named(stage: Json) -> tuple[str, str]:
    """Label of a rule, and the rule in words where those say more."""
    label, describe = stage["label"], stage["describe"]
    if label.endswith("..."):
        return describe, ""
    words = describe.replace("at least", ">=").replace("at most", "<=")
    says_all = label == _READABLE or words in (label, f"({label})")
    return shown(label), "" if says_all else describe


def _telling(reasons: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Reasons by count; a single one says no more than its rule, unless it is that of a lack."""
    if len(reasons) == 1 and not next(iter(reasons)).endswith("unknown"):
        return ()
    return tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _borders(summary: Json) -> list[Json]:
    """Those that are shown as pictures: duplicates have a part of their own, and so have errors."""
    elsewhere = {found["rule"] for found in summary.get("duplicates", [])} | {_READABLE}
    return [border for border in summary.get("borders", []) if border["rule"] not in elsewhere]


def _dropped(one: Json, address: Address, is_threshold: bool) -> Example:
    about = f"{one['name']}\n{one['reason']}: got {one['got']}, limit {one['limit']}"
    # Of a rule without a threshold a bare number (0 captions) says less than the reason.
    note = one["got"] if is_threshold or not _is_number(one["got"]) else one["reason"]
    note = "" if note == _NOT_TRUE else note
    return Example(one["name"], address(one["id"]), note, about)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(one: Json, is_threshold: bool) -> str:
    return number_text(one["value"]) if is_threshold and one["value"] is not None else ""


def _cluster(found: Json, address: Address) -> Cluster:
    kept = found["kept"]
    copies = tuple(
        Example(
            one["name"],
            address(one["id"]),
            # The one that it is near to stands beside it.
            str(one["got"]).replace(f" from {kept['name']}", ""),
            f"{one['name']}\n{one['got']}",
        )
        for one in found["copies"][:_COPIES]
    )
    return Cluster(
        Example(kept["name"], address(kept["id"]), "kept", kept["name"]),
        copies,
        found["size"] - 1 - len(copies),
    )
