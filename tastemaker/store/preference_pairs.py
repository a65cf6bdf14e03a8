"""Preference folders: pictures in `w/` that won against those of the same name in `l/`.

The layout of kohya's scripts for preference training: `w/NAME.png` beats `l/NAME.png`; a caption
beside either is the prompt of both.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tastemaker.store.file_kinds import ending_of

WON, LOST = "w", "l"


@dataclass(frozen=True)
class Pair:
    """Pictures of one name on both sides.

    Attributes:
        name: relative path of the pair, without `w/`, `l/` and ending.
        won: pictures in `w/`; more than one where only endings differ.
        lost: pictures in `l/`.
    """

    name: str
    won: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """Why it is no comparison, or None."""
        for side, keys in ((WON, self.won), (LOST, self.lost)):
            if not keys:
                return f"no picture of this name in {side}/"
            if len(keys) > 1:
                return f"several pictures of this name in {side}/"
        return None


def find_pairs(keys: Iterable[str]) -> list[Pair]:
    """The pairs of all preference folders among pictures, by name.

    A folder is one when `w` and `l`, and no others, are its folders with pictures: among folders
    from `a` to `z` those two mean nothing.

    Args:
        keys: relative paths of pictures, with `/`.
    """
    sides: dict[str, set[str]] = {}
    places: dict[tuple[str, str], dict[str, list[str]]] = {}
    for key in sorted(keys):
        parts = key.split("/")
        for depth, part in enumerate(parts):
            above = "/".join(parts[:depth])
            is_file = depth == len(parts) - 1
            if not is_file:
                sides.setdefault(above, set()).add(part)
            if part in (WON, LOST) and not is_file:
                rest = "/".join(parts[depth + 1 :])
                stem = rest[: len(rest) - len(ending_of(rest))]
                both = places.setdefault((above, stem), {WON: [], LOST: []})
                both[part].append(key)
    found = []
    for (above, stem), both in sorted(places.items()):
        if sides[above] == {WON, LOST}:
            name = f"{above}/{stem}" if above else stem
            found.append(Pair(name, tuple(both[WON]), tuple(both[LOST])))
    return found
