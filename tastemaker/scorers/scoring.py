"""What a recipe says of a scorer of generated pictures: which one, and where its model lies.

A `Scoring` is a frozen configuration, as an `Operation` is; `open` gives the `Scorer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from tastemaker.errors import InputError
from tastemaker.records.config import Config
from tastemaker.scorers.model_folder import Precision
from tastemaker.scorers.protocol import Scorer

About = Literal["text", "preference", "aesthetics"]
"""What a scorer tells: whether the picture fits its text, which picture people would prefer, or how
it looks, whatever the text says."""


@dataclass(frozen=True)
class Found:
    """A model on this machine.

    Attributes:
        path: its file or folder.
        label: how it is called in results, `NAME@HASH`.
    """

    path: Path
    label: str


class Scoring(Config):
    """One scorer and its models."""

    MODELS: ClassVar[Mapping[str, str]] = {}
    """Field that names a model -> its kind for `models.locate`."""
    ABOUT: ClassVar[About]
    """What its values tell."""

    kind: str
    """Which scorer."""
    name: str = ""
    """Name of the scorer in tables; by default the kind. Two of one kind need two names."""
    precision: Precision = "float32"
    """Of weights and arithmetic (ours; the published code runs in half precision on an accelerator,
    which moves values in the third or fourth digit). A CPU can only do `float32`."""
    batch: int = Field(default=16, ge=1, json_schema_extra={"changes_result": False})
    """Pictures at once on an accelerator (ours); no value depends on it."""

    @property
    def column(self) -> str:
        """The scorer's name in tables."""
        return self.name or self.kind

    @property
    def models(self) -> Mapping[str, str]:
        """See `MODELS`; may depend on the configuration."""
        return self.MODELS

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load what it needs.

        Args:
            models: field of `MODELS` -> the model.
            device: where it runs: `cpu`, `cuda:1`, ...

        Raises:
            MissingExtra: an optional package is not installed.
            InputError: a model is not of the right kind.
        """
        raise NotImplementedError


@runtime_checkable
class ReadsTexts(Protocol):
    """A scorer that says which texts it cannot read to their end."""

    window: int
    """Tokens that it reads, the special ones included."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the window, so that its end was not looked at."""
        ...


JUDGES = ("style", "concept", "distance", "image_text")
"""Names that other lines of an evaluation have."""


def panel_problem(scorings: Sequence[Scoring], *, with_text: bool) -> str | None:
    """What is wrong with scorers that are chosen together, in words.

    Two of one name; or looks or preference without how well pictures fit their texts: a model that
    is tuned for looks gains them by leaving out what the prompt asks for, so they are never
    reported alone.

    Args:
        scorings: the scorers.
        with_text: whether text fidelity is measured besides.
    """
    names = [scoring.column for scoring in scorings]
    taken = sorted({name for name in names if names.count(name) > 1 or name in JUDGES})
    if taken:
        return f"several scorers would be called {', '.join(taken)}; give each a `name` of its own"
    if scorings and not with_text and all(scoring.ABOUT != "text" for scoring in scorings):
        return (
            "looks or preference without text fidelity; leave `image_text` as it is, or add a "
            "scorer of kind clip or siglip"
        )
    return None


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """The values, if every one is a number.

    Raises:
        InputError: a network has overflowed.
    """
    if not np.isfinite(values).all():
        raise InputError(
            f"scorer {name}",
            f"{int((~np.isfinite(values)).sum())} values that are not finite",
            "a number for every picture",
            "Use precision float32, and check the model's files.",
        )
    return values
