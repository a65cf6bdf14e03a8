"""Other names of tags: a table in which every alias stands for exactly one tag."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

SELF, TWICE = "alias of itself", "given twice"
TWO_TAGS, IS_TAG = "alias of two tags", "alias that is a tag itself"
CHAIN, CIRCLE = "chain, followed to its end", "circle of aliases"
EMPTY = "empty name"
EXAMPLES = 3
"""How many entries are named for each reason (ours)."""


@dataclass(frozen=True)
class AliasTable:
    """Tags and their other names, in the spelling of `plain_tag`.

    Attributes:
        of: tag -> its aliases, sorted.
        notes: what was wrong with the entries that it was made of -> how many.
        examples: the same -> some of them, as `alias -> tag`.
    """

    of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that no alias is a tag of the table, and none has two tags.

        Raises:
            ValueError: one does; `build_aliases` makes tables that are sound.
        """
        owners: dict[str, str] = {}
        for tag, aliases in self.of.items():
            for alias in aliases:
                if alias in self.of:
                    raise ValueError(f"the alias {alias!r} of {tag!r} is a tag of the table")
                if owners.setdefault(alias, tag) != tag:
                    raise ValueError(f"{alias!r} is an alias of {tag!r} and of {owners[alias]!r}")

    def describe(self) -> list[str]:
        """What is in the table, and what was wrong with the entries, in lines."""
        aliases = sum(map(len, self.of.values()))
        lines = [f"{len(self.of)} tags with {aliases} aliases"]
        for reason, count in sorted(self.notes.items()):
            some = ", ".join(self.examples.get(reason, ()))
            lines.append(f"{reason}: {count}" + (f" ({some})" if some else ""))
        return lines


NO_ALIASES = AliasTable(MappingProxyType({}))
"""Every tag has one name."""


def plain_tag(tag: str) -> str:
    """The spelling in which tags are compared: small letters, underscores for blanks."""
    return tag.strip().lower().replace(" ", "_")


def build_aliases(
    pairs: Iterable[tuple[str, str]],
    tags: Collection[str] = (),
    notes: Mapping[str, int] | None = None,
) -> AliasTable:
    """A sound table from entries that may contradict each other; nothing is lost silently.

    - An alias that is a tag itself is left out: it has its own pictures and its own meaning.
    - An alias of two tags is left out of both: nobody knows which is meant.
    - A chain (a is an alias of b, b of c) is followed to its end; a circle is left out.
    - An alias of itself is left out, an entry that is repeated counts once.

    Args:
        pairs: (alias, tag).
        tags: names that are known to be tags themselves; where the source lists none, a name with
            an entry of its own is an alias, and `c` above is the tag.
        notes: what the reader of the entries has to say: reason -> count.
    """
    found = _Notes(notes or {})
    targets = _targets(pairs, {plain_tag(tag) for tag in tags}, found)
    single = {alias: next(iter(of)) for alias, of in targets.items() if len(of) == 1}
    for alias in targets.keys() - single.keys():
        found.add(TWO_TAGS, alias, " and ".join(sorted(targets[alias])))
    ends: dict[str, set[str]] = {}
    for alias, tag in single.items():
        end = _end(alias, single)
        if end is None or end in targets:
            # A chain that ends in a name with two meanings has no end either.
            found.add(CIRCLE if end is None else TWO_TAGS, alias, tag)
            continue
        if end != tag:
            found.add(CHAIN, alias, f"{tag} -> {end}")
        ends.setdefault(end, set()).add(alias)
    table = {tag: tuple(sorted(aliases)) for tag, aliases in sorted(ends.items())}
    return AliasTable(table, dict(found.counts), found.examples())


class _Notes:
    """What was wrong: how often, and the first few cases by name."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = Counter(counts)
        self._cases: dict[str, list[str]] = {}

    def add(self, reason: str, alias: str, tag: str) -> None:
        self.counts[reason] += 1
        self._cases.setdefault(reason, []).append(f"{alias} -> {tag}")

    def examples(self) -> dict[str, tuple[str, ...]]:
        return {reason: tuple(sorted(some)[:EXAMPLES]) for reason, some in self._cases.items()}


def _targets(
    pairs: Iterable[tuple[str, str]], known: Collection[str], found: _Notes
) -> dict[str, dict[str, None]]:
    """Alias -> the tags that it is said to stand for, without those that cannot be."""
    targets: dict[str, dict[str, None]] = {}
    for raw_alias, raw_tag in pairs:
        alias, tag = plain_tag(raw_alias), plain_tag(raw_tag)
        if not alias or not tag:
            found.add(EMPTY, alias, tag)
        elif alias == tag:
            found.add(SELF, alias, tag)
        elif alias in known:
            found.add(IS_TAG, alias, tag)
        elif tag in targets.setdefault(alias, {}):
            found.add(TWICE, alias, tag)
        else:
            targets[alias][tag] = None
    return targets


def _end(alias: str, single: Mapping[str, str]) -> str | None:
    """Where a chain of aliases ends; None for a circle."""
    seen = {alias}
    while (alias := single.get(alias, alias)) not in seen:
        seen.add(alias)
        if alias not in single:
            return alias
    return None
