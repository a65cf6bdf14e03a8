"""The concepts of the embedded pictures, and their split by hash.

A concept is known by its code point, written as in Unicode's lists but without the variation
selector
FE0F: `1F34E`, `2708`. Each one is drawn in both styles, Twemoji and OpenMoji; the list was chosen
by eye for things that are common, easy to tell apart, and of the same kind in both.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Literal

from tastemaker.curation.concepts_list import CONCEPTS

HELD_OUT = 64
"""So many concepts are never fine-tuned on: their names are the prompts of the evaluation."""

Split = Literal["tune", "heldout", "other"]


@dataclass(frozen=True)
class Concept:
    """One thing that can be drawn.

    Attributes:
        code: code point without FE0F, upper-case hexadecimal, parts joined by `-`.
        name: what people call it, in lower case.
        category: `animal`, `food`, `plant`, `vehicle`, `weather` or `object`.
    """

    code: str
    name: str
    category: str


@cache
def concepts() -> tuple[Concept, ...]:
    """All 264 concepts, by category."""
    return tuple(Concept(*row) for row in CONCEPTS)


def find_concept(code: str) -> Concept | None:
    """The concept of a code point in any writing (`2708-fe0f` is `2708`); None when not listed."""
    return _by_code().get(canonical_code(code))


def canonical_code(code: str) -> str:
    """A code point as `Concept.code` writes it: upper case, no FE0F, no leading zeros."""
    parts = (part.lstrip("0") for part in code.upper().split("-"))
    return "-".join(part for part in parts if part != "FE0F")


def split_of(concept: Concept | str) -> Split:
    """`tune` (200 concepts), `heldout` (64), or `other` for a code point that is not listed.

    The concepts are put in the order of the blake2b hash of their code points; the first 64 are
    held out.
    """
    code = canonical_code(concept if isinstance(concept, str) else concept.code)
    if code not in _by_code():
        return "other"
    return "heldout" if code in _held_out() else "tune"


@cache
def _by_code() -> dict[str, Concept]:
    return {concept.code: concept for concept in concepts()}


@cache
def _held_out() -> frozenset[str]:
    ordered = sorted(_by_code(), key=lambda code: blake2b(code.encode(), digest_size=32).digest())
    return frozenset(ordered[:HELD_OUT])
