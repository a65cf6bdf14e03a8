"""Whether tags or sentences contain wanted words.

Two spellings are one word: upper and lower case are equal, and so are a space, several spaces and
an underscore (`long_hair` is `Long hair`).
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Shaped

_SEPARATORS = re.compile(r"[\s_]+")

Find: TypeAlias = Callable[[Sequence[str]], np.ndarray]
"""Some words -> bool `[N]`: which entries have at least one of them."""


def normal(text: str) -> str:
    """One spelling for all that count as equal."""
    return _SEPARATORS.sub(" ", text).strip().casefold()


def find_entries(lists: Shaped[np.ndarray, " N"]) -> Find:
    """Finds lists with an entry that equals a word as a whole.

    `cat` finds the tag `cat` or `Cat`, never `cat ears`.

    Args:
        lists: tuples of str, or None for an empty one.
    """
    lists = np.fromiter((() if entry is None else entry for entry in lists), object, len(lists))
    # A million lists share a few thousand entries, so each of those is spelt anew once.
    spellings: dict[str, set[str]] = {}
    for entry in set(chain.from_iterable(lists)):
        spellings.setdefault(normal(entry), set()).add(entry)

    def find(words: Sequence[str]) -> Bool[np.ndarray, " N"]:
        wanted = set[str]().union(*(spellings.get(normal(word), set()) for word in words))
        return np.fromiter((not wanted.isdisjoint(entry) for entry in lists), bool, len(lists))

    return find


def find_words(texts: Shaped[np.ndarray, " N"]) -> Find:
    """Finds texts that contain the words of a phrase, whole and one right after the other.

    `cat` finds `A cat, asleep`, never `cats` or `catalogue`; `red car` finds `red  car` and
    `red_car`, never `red and blue car`.

    Args:
        texts: str, tuples of str of which one must contain them, or None for no text.
    """

    def find(words: Sequence[str]) -> Bool[np.ndarray, " N"]:
        pattern = words_pattern(words)
        return np.fromiter((_in_any(pattern, entry) for entry in texts), bool, len(texts))

    return find


def words_pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """The pattern that finds one of some phrases in a text as it is written."""
    parted = ([part for part in _SEPARATORS.split(phrase) if part] for phrase in phrases)
    ways = [r"[\s_]+".join(re.escape(part) for part in parts) for parts in parted]
    # To `\w` an underscore is a letter, here it is a space.
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(ways)})(?![^\W_])", re.IGNORECASE)


def _in_any(pattern: re.Pattern[str], entry: str | Sequence[str] | None) -> bool:
    if entry is None:
        return False
    texts = (entry,) if isinstance(entry, str) else entry
    return any(pattern.search(text) for text in texts)
