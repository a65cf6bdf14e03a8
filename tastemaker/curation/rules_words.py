"""Rules that judge each picture by its words: attributes, tags, captions, text in the picture."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Shaped
from pydantic import BeforeValidator, Field, model_validator

from tastemaker.curation.facts import Facts, Kind, check_column
from tastemaker.curation.judgement import (
    FindCopies,
    Judgement,
    Rule,
    first_reason,
    number_text,
    spoken,
)
from tastemaker.curation.rules_alone import OR_UNKNOWN, UNKNOWN, Alive, Unknown
from tastemaker.curation.words import Find, find_entries, find_words
from tastemaker.errors import InputError
from tastemaker.records.config import as_tuple

_SHOWN = 8
_REASONS = ("unknown", "without a wanted word", "lacking a word", "with an unwanted word")
_BANNED = 3


def _one_is_a_list(value: object) -> object:
    return (value,) if isinstance(value, int | float) else as_tuple(value)


Words: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Values: TypeAlias = Annotated[
    tuple[str | int | float | bool, ...], BeforeValidator(_one_is_a_list), Field(min_length=1)
]


class OneOf(Rule):
    """Keep pictures whose value is one of those wanted."""

    rule: Literal["one_of"] = "one_of"
    """One of some values."""
    column: str
    """Address of a column of texts, numbers or flags: `attribute.style`, `format`, ..."""
    values: Values
    """The wanted values; texts must be equal to the letter."""
    unknown: Unknown = "drop"
    """Pictures without the value: drop or keep (ours)."""

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.column,)

    def check(self, known: Mapping[str, Kind]) -> None:
        """See `Rule`."""
        check_column(self.column, known, ("text", "number", "flag"))
        kind = known[self.column]
        wrong = [value for value in self.values if _kind(value) != kind]
        if kind != "text" and wrong:
            expected = "numbers" if kind == "number" else "true or false"
            raise InputError(
                f"column '{self.column}'",
                f"the wanted value {wrong[0]!r}",
                expected,
                "Correct `values`.",
            )

    @property
    def label(self) -> str:
        """See `Rule`."""
        shown = [_text(value) for value in self.values[:3]]
        more = f" or {len(self.values) - 3} more" if len(self.values) > 3 else ""
        return f"{spoken(self.column)}: {' or '.join(shown)}{more}"

    def describe(self) -> str:
        """See `Rule`."""
        wanted = " or ".join(_text(value) for value in self.values)
        return f"{spoken(self.column)} is {wanted}{OR_UNKNOWN[self.unknown]}"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`."""
        self.check(facts.kinds)
        values = facts.column(self.column)
        keep, known = self._found(values)
        limit = " or ".join(_text(value) for value in self.values)
        return Judgement(
            first_reason(known & ~keep if self.unknown == "keep" else ~keep),
            (f"not wanted: {spoken(self.column)}",),
            got=lambda i: _text(values[i]) if known[i] else UNKNOWN,
            limit=lambda _: limit,
        )

    def _found(
        self, values: Shaped[np.ndarray, " N"]
    ) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """(is one of the wanted ones, is known)."""
        if values.dtype.kind == "O":
            wanted = {_text(value) for value in self.values}
            known = np.fromiter((v is not None for v in values), bool, len(values))
            return np.fromiter((v in wanted for v in values), bool, len(values)), known
        known = np.isfinite(values)
        precise = values.dtype if values.dtype.kind in "bf" else np.float64
        return np.isin(values, np.array(self.values, precise)) & known, known


class Contains(Rule):
    """Keep pictures by the words among their tags or in their captions.

    Upper and lower case are equal, and so are spaces and underscores. In lists (`tags`,
    `nouns.nouns`) a word must equal an entry as a whole. In `captions` and in columns of texts the
    words must occur whole and one right after the other: `cat` is in "A cat, asleep", and neither
    in "cats" nor in "catalogue".
    """

    rule: Literal["contains"] = "contains"
    """Words among the tags or in the captions."""
    column: str = "tags"
    """Address of a column of lists or texts: `tags`, `captions`, `ocr.text`, ... (ours)"""
    any: Words = ()
    """Drop pictures that contain none of these."""
    all: Words = ()
    """Drop pictures that lack one of these."""
    none: Words = ()
    """Drop pictures that contain one of these."""
    match: Literal["entries", "words"] | None = None
    """Compare whole entries, or find words in texts; null: entries in lists, words in texts and in
    `captions`."""
    unknown: Unknown = "drop"
    """Pictures that the column knows nothing of: drop or keep (ours). An empty list is known."""

    @model_validator(mode="after")
    def _some_words(self) -> "Contains":
        words = (*self.any, *self.all, *self.none)
        if not words:
            raise ValueError("some words in `any`, `all` or `none`")
        if any(not word.strip(" _") for word in words):
            raise ValueError("words that are not empty")
        return self

    def columns(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.column,)

    def check(self, known: Mapping[str, Kind]) -> None:
        """See `Rule`."""
        check_column(self.column, known, ("list", "text"))

    @property
    def label(self) -> str:
        """See `Rule`."""
        text = f"{spoken(self.column)} with {self._asked()}"
        return text if len(text) <= 40 else f"{text[:37]}..."

    def describe(self) -> str:
        """See `Rule`."""
        how = f" ({self.match})" if self.match else ""
        return f"{spoken(self.column)} with {self._asked()}{how}{OR_UNKNOWN[self.unknown]}"

    def judge(self, facts: Facts, alive: Alive, find_copies: FindCopies | None = None) -> Judgement:
        """See `Rule`."""
        entries = facts.column(self.column, "list", "text")
        lists = facts.kinds[self.column] == "list"
        find = self._finder(entries, lists)
        known = np.fromiter((entry is not None for entry in entries), bool, len(entries))
        nowhere = np.zeros(facts.count, bool)
        no_any = known & ~find(self.any) if self.any else nowhere
        lacks = {word: known & ~find([word]) for word in self.all}
        banned = find(self.none) if self.none else nowhere
        lost = nowhere if self.unknown == "keep" else ~known
        no_all = np.logical_or.reduce([nowhere, *lacks.values()])
        which = first_reason(lost, no_any, no_all, banned)

        def got(index: int) -> str:
            if which[index] != _BANNED:
                return _shown(entries[index])
            find_here = self._finder(entries[index : index + 1], lists)
            return ", ".join(word for word in self.none if find_here([word])[0])

        def limit(index: int) -> str:
            lacking = [word for word in self.all if lacks[word][index]]
            asked = (self._asked, lambda: _any(self.any), lambda: _all(lacking))
            return _none(self.none) if which[index] == _BANNED else asked[which[index]]()

        name = spoken(self.column)
        return Judgement(which, tuple(f"{name} {reason}" for reason in _REASONS), got, limit)

    def _finder(self, entries: Shaped[np.ndarray, " N"], lists: bool) -> Find:
        match = self.match or ("entries" if lists and self.column != "captions" else "words")
        if match == "words":
            return find_words(entries)
        if not lists:
            alone = (None if entry is None else (entry,) for entry in entries)
            entries = np.fromiter(alone, object, len(entries))
        return find_entries(entries)

    def _asked(self) -> str:
        asked = ((_any, self.any), (_all, self.all), (_none, self.none))
        return " and ".join(say(words) for say, words in asked if words)


def _any(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _all(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"all of {', '.join(words)}"


def _none(words: Sequence[str]) -> str:
    return f"none of {', '.join(words)}" if len(words) > 1 else f"no {words[0]}"


def _shown(entry: str | tuple[str, ...] | None) -> str:
    if entry is None:
        return UNKNOWN
    if isinstance(entry, str):
        return entry if len(entry) <= 80 else f"{entry[:77]}..."
    more = f" and {len(entry) - _SHOWN} more" if len(entry) > _SHOWN else ""
    return (", ".join(entry[:_SHOWN]) + more) or "(none)"


def _kind(value: str | int | float | bool) -> Kind:
    if isinstance(value, bool):
        return "flag"
    return "text" if isinstance(value, str) else "number"


def _text(value: object) -> str:
    """A value as attributes write it: texts as they are, `true`, `12`, `0.5`."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return value if isinstance(value, str) else number_text(value)  # type: ignore[arg-type]
