"""Operations for the tests of columns, in a module that every worker can import."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from tastemaker.errors import InputError, PictureError, StorageError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.hashing import hash_bytes

FREE: dict[str, Any] = {"changes_result": False}


def collection(folder: Path, count: int, *, broken: Sequence[int] = ()) -> Catalogue:
    """Pictures of one grey each, `10 * number`, called by their numbers; some are gone since."""
    made = Catalogue(folder / "collection")
    records = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (6, 4), (10 * number,) * 3).save(path)
        id_ = hash_bytes(path.read_bytes())
        words = {"captions": (f"grey {number}",), "tags": ("grey",)}
        records.append(ImageRecord(id_, str(path), "s", str(number), Size(4, 6), **words))
        if number in broken:
            path.write_bytes(b"other")
    records.append(ImageRecord("bad", "", "s", "bad", None, status="error", error="zero bytes"))
    made.append_base(records)
    made.close_base()
    return made


def picture_of(subject: Subject) -> np.ndarray:
    assert subject.pixels is not None
    return subject.pixels


class Toy(Operation):
    """Notes what it is given in `log`, and does to the picture of a number what `faults` says."""

    log: str | None = Field(default=None, json_schema_extra=FREE)
    faults: dict[str, str] = Field(default={}, json_schema_extra=FREE)

    def note(self, subjects: Sequence[Subject]) -> None:
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write("".join(f"{self.column} {subject.id[:6]}\n" for subject in subjects))

    def spoiled(self, subject: Subject, values: Values) -> Values:
        fault = self.faults.get(subject.captions[0].removeprefix("grey "))
        return values if fault is None else FAULTS[fault](values)


def _raise(error: Exception) -> Callable[[Values], Values]:
    def fault(_values: Values) -> Values:
        raise error

    return fault


FAULTS: dict[str, Callable[[Values], Values]] = {
    "raise": _raise(ZeroDivisionError("no good\nat all")),
    "picture": _raise(PictureError("x", "truncated (by me)", "a whole one", "Copy it.")),
    "input": _raise(InputError("the server", "401", "access", "Give a key.")),
    "full": _raise(StorageError("the disk is full")),
    "die": lambda values: os._exit(3),
    "error": lambda values: {"error": "too grey (25 %)"},
    "fields": lambda values: {**values, "more": 1},
    "nan": lambda values: {name: float("nan") for name in values},
}


class Grey(Toy):
    """The mean grey, 0..255."""

    FIELDS: ClassVar[Mapping[str, str]] = {"mean": "float32"}
    BATCH: ClassVar[int] = 2
    kind: Literal["grey"] = "grey"
    scale: float = 1.0

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        def measure(subjects: Sequence[Subject]) -> list[Values]:
            self.note(subjects)
            means = [self.scale * float(np.mean(picture_of(s))) for s in subjects]
            return [self.spoiled(s, {"mean": m}) for s, m in zip(subjects, means, strict=True)]

        return measure


class Side(Grey):
    """The height, from pixels too."""

    FIELDS: ClassVar[Mapping[str, str]] = {"h": "int32"}
    kind: Literal["side"] = "side"  # type: ignore[assignment]

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        def measure(subjects: Sequence[Subject]) -> list[Values]:
            self.note(subjects)
            return [self.spoiled(s, {"h": picture_of(s).shape[0]}) for s in subjects]

        return measure


class Words(Toy):
    """The words of the captions; no pixels."""

    FIELDS: ClassVar[Mapping[str, str]] = {"words": "list<string>"}
    NEEDS_PIXELS: ClassVar[bool] = False
    NEEDS_WORDS: ClassVar[bool] = True
    kind: Literal["words"] = "words"

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        def measure(subjects: Sequence[Subject]) -> list[Values]:
            self.note(subjects)
            assert all(subject.pixels is None for subject in subjects)
            found = [[*s.captions[0].split(), *s.tags] for s in subjects]
            return [self.spoiled(s, {"words": w}) for s, w in zip(subjects, found, strict=True)]

        return measure


class Double(Toy):
    """Twice the number of another column."""

    FIELDS: ClassVar[Mapping[str, str]] = {"twice": "float32"}
    NEEDS_PIXELS: ClassVar[bool] = False
    kind: Literal["double"] = "double"
    of: str = "grey"
    field: str = "mean"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        def measure(subjects: Sequence[Subject]) -> list[Values]:
            self.note(subjects)
            read = [s.columns[self.of][self.field] for s in subjects]
            return [self.spoiled(s, {"twice": 2 * x}) for s, x in zip(subjects, read, strict=True)]

        return measure


class Model(Toy):
    """Needs a model; may read what another model made."""

    FIELDS: ClassVar[Mapping[str, str]] = {"score": "float32"}
    MODELS: ClassVar[Mapping[str, str]] = {"model": "vision", "extra": "vision"}
    kind: Literal["model"] = "model"
    model: str
    extra: str | None = None
    of: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.of is None else (self.of,)
