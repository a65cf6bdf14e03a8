"""Which pictures of a source are held out: about one in eight, by the hash of its name."""

from collections.abc import Iterable
from hashlib import blake2b

_ONE_IN = 8
_SMALL = 1000
"""Above this many the rule of small sets changes nothing: no 1000 names are all on one side."""


def held_out(keys: Iterable[str]) -> frozenset[str]:
    """About one in eight, at least one of several, and never all.

    Each by its own hash, so that a new picture moves no other but in the smallest sets.
    """
    digests = {key: _digest(key) for key in keys}
    ordered = sorted(digests, key=digests.__getitem__)
    chosen = sum(_is_low(digest) for digest in digests.values())
    return frozenset(ordered[: max(0, min(max(chosen, 1), len(ordered) - 1))])


class Split:
    """`tune` or `heldout` for each of `count` names; a large set is never listed."""

    def __init__(self, keys: Iterable[str], count: int) -> None:
        self._chosen = held_out(keys) if count <= _SMALL else None

    def of(self, key: str) -> str:
        """The split of one name."""
        if self._chosen is None:
            return split_by_hash(key)
        return "heldout" if key in self._chosen else "tune"


def split_by_hash(key: str) -> str:
    """The split of a name by itself, whatever else there is."""
    return "heldout" if _is_low(_digest(key)) else "tune"


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogateescape")).digest()


def _is_low(digest: bytes) -> bool:
    return digest[0] < 256 // _ONE_IN
