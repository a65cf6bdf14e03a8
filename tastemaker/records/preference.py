"""Somebody's answer to a comparison of two pictures for one prompt, as a data set has it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preference:
    """Two pictures and which of them was preferred; a tie is a tie.

    Attributes:
        key: the source's own stable name of the comparison (a ranking id, a file's stem).
        prompt: what both pictures were made for; empty when unknown.
        first: the source's key of the first picture.
        second: the source's key of the second picture.
        label: the first picture's share of the preference: 1 preferred, 0 the other, 0.5 a tie;
            None when nobody answered.
        facts: everything else the source says (models, user, time, addresses), as name-value pairs.
    """

    key: str
    prompt: str
    first: str
    second: str
    label: float | None
    facts: tuple[tuple[str, str], ...] = ()
