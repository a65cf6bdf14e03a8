"""The rules of a recipe.

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
from tastemaker.curation.rules_alone import Captioned, Range, Readable, Sql
from tastemaker.curation.rules_among import Duplicates, Top
from tastemaker.curation.rules_words import Contains, OneOf

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
