"""The rules of a recipe, and today's rules of single records.

A recipe lists rules; each picture is dropped by the first rule that does not keep it:

    rules:
      - {rule: captioned}
      - {rule: range, column: short_side, least: 512}
      - {rule: contains, column: tags, none: [watermark]}
      - {rule: top, column: aesthetic.score, fraction: 0.1, per: attribute.style}
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from tastemaker.curation.facts import Kind
from tastemaker.curation.judgement import Rule
from tastemaker.curation.rules_alone import (
    CHANGED,
    DUPLICATE,
    GONE,
    Captioned,
    Range,
    Readable,
    Sql,
)
from tastemaker.curation.rules_among import Duplicates, Top
from tastemaker.curation.rules_words import Contains, OneOf
from tastemaker.records.image import Drop, ImageRecord, Keep, Verdict

AnyRule: TypeAlias = Annotated[
    Readable | Captioned | Range | OneOf | Contains | Top | Sql | Duplicates,
    Field(discriminator="rule"),
]
"""What stands in a recipe; `rule` says which one it is."""


def needed_columns(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Addresses that the rules need in `Facts`, in the order of the rules."""
    return tuple(dict.fromkeys(address for rule in rules for address in rule.columns()))


def needed_measures(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Names of the collection's columns that the rules need, in the order of the rules."""
    return tuple(dict.fromkeys(name for rule in rules for name in rule.measured()))


def check_rules(rules: Sequence[Rule], known: Mapping[str, Kind]) -> None:
    """Check all addresses of all rules.

    Args:
        rules: the rules of a recipe.
        known: address -> kind, of the columns that there are or will be.

    Raises:
        InputError: a rule asks for a column that is not known or of another kind.
    """
    for rule in rules:
        rule.check(known)


def describe_rules(rules: Sequence[Rule]) -> str:
    """All rules in words, for the query of a selection; two lists of rules differ in it."""
    return "; ".join(rule.describe() for rule in rules) or "all pictures"


def readable(record: ImageRecord) -> Verdict:
    """Drop what the collection holds only as a row: unreadable files, exact copies, files gone."""
    if record.status == "ok":
        return Keep()
    error = record.error or "unknown"
    if error.startswith(DUPLICATE):
        return Drop("exact duplicate", got=error, limit="one of each")
    if error.startswith((GONE, CHANGED)):
        return Drop("gone", got=error, limit="a file that is still there")
    return Drop(f"unreadable: {error.split(' (')[0]}", got=error, limit="a whole picture")


def wanted(
    record: ImageRecord, where: Mapping[str, Sequence[str]], *, keep_unlabelled: bool = False
) -> Verdict:
    """Keep pictures whose attributes have one of the wanted values each.

    A picture without the attribute is not wanted, or is with `keep_unlabelled`.
    """
    for name, values in where.items():
        got = record.attribute(name)
        if got is None and keep_unlabelled:
            continue
        if got not in values:
            limit = " or ".join(values)
            return Drop(f"not wanted: {name}", got="(none)" if got is None else got, limit=limit)
    return Keep()


def large_enough(record: ImageRecord, least_px: int) -> Verdict:
    """Drop pictures whose shorter side is below a limit."""
    side = min(record.size) if record.size else 0
    return Keep() if side >= least_px else Drop("too small", got=side, limit=least_px)


def not_too_long(record: ImageRecord, most: float) -> Verdict:
    """Drop pictures whose longer side is more than `most` times the shorter one."""
    if record.size is None or min(record.size) == 0:
        return Keep()
    ratio = max(record.size) / min(record.size)
    return Keep() if ratio <= most else Drop("too long", got=round(ratio, 3), limit=most)


def captioned(record: ImageRecord) -> Verdict:
    """Drop pictures that nobody has described."""
    return Keep() if record.captions else Drop("no caption", got=0, limit=1)


def not_blank(flat_share: float, most: float) -> Verdict:
    """Drop pictures that are one colour nearly everywhere."""
    return Keep() if flat_share <= most else Drop("blank", got=round(flat_share, 4), limit=most)


def sharp_enough(sharpness: float, least: float) -> Verdict:
    """Drop blurred pictures."""
    return Keep() if sharpness >= least else Drop("blurred", got=round(sharpness, 2), limit=least)


def first_drop(verdicts: Sequence[Verdict]) -> Verdict:
    """The first verdict that drops, or Keep."""
    return next((verdict for verdict in verdicts if isinstance(verdict, Drop)), Keep())
