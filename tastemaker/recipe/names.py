"""The nearest known names to one that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean 'weight_decay'?`, or `otherwise` when nothing is near."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return otherwise
    return f"Did you mean {' or '.join(repr(n) for n in near)}?"


def one_of(names: Iterable[str]) -> str:
    """`one of a, b, c`, shortened when there are many."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(names[:12])
    return f"one of {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
