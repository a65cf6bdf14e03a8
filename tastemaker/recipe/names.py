"""The nearest known names to one that is not known."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean 'weight_decay'?`, or `otherwise` when nothing is near."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return otherwise
    best = _likeness(name, near[0])
    near = [other for other in near if _likeness(name, other) > best - 0.1]
    return f"Did you mean {' or '.join(repr(n) for n in near)}?"


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def one_of(names: Iterable[str]) -> str:
    """`one of a, b, c`, shortened when there are many."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(names[:12])
    return f"one of {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
