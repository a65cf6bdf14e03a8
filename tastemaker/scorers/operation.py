"""What an operation is: it fills one column of a collection, from the pixels or words of pictures.

An operation is a frozen configuration, so that it crosses process borders and is hashed; `open`
loads what it needs, once a worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tastemaker.records.config import Config

NO_COLUMNS: Mapping[str, Mapping[str, Any]] = {}

Values = dict[str, Any]
"""A value for every field of an operation; or only `error`, with the reason that there is none."""


@dataclass(frozen=True)
class Subject:
    """One picture as operations see it.

    Attributes:
        id: the picture.
        pixels: uint8 `[H, W, 3]`, RGB, upright; None when the operation does not need them.
        captions: natural-language captions, best first.
        tags: tags, most specific first.
        columns: values of the columns that the operation reads, by name of the column.
    """

    id: str
    pixels: np.ndarray | None = None
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NO_COLUMNS)


Measure = Callable[[Sequence[Subject]], list[Values]]
"""Some pictures to one `Values` each; no value depends on the other pictures of the batch."""


class Operation(Config):
    """One enrichment of every picture. What changes a value changes `VERSION` or `params`."""

    VERSION: ClassVar[int] = 1
    """Changes when the same picture and configuration give other values."""
    FIELDS: ClassVar[Mapping[str, str]] = {}
    """Value name -> `float32`, `int32`, `string`, `bool`, `list<string>`, `list<float32>`,
    `list<int32>` or `vector<float16>` (numbers of one length)."""
    NEEDS_PIXELS: ClassVar[bool] = True
    """Whether pictures are decoded for it."""
    NEEDS_WORDS: ClassVar[bool] = False
    """Whether values depend on captions and tags, so that new ones call for new values."""
    MODELS: ClassVar[Mapping[str, str]] = {}
    """Field that names a model -> its kind for `models.locate`; the field may be None."""
    BATCH: ClassVar[int] = 16
    """Pictures that are decoded and given to `Measure` at once."""

    kind: str
    """Which operation."""
    name: str = Field(default="", json_schema_extra={"changes_result": False})
    """Name of the column; by default the kind. Two of one kind need two names."""

    @property
    def column(self) -> str:
        """Name of the column that it fills."""
        return self.name or self.kind

    @property
    def needs_pixels(self) -> bool:
        """Whether pictures are decoded for it; may depend on the configuration."""
        return self.NEEDS_PIXELS

    @property
    def needs_words(self) -> bool:
        """Whether values depend on captions and tags; may depend on the configuration."""
        return self.NEEDS_WORDS

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that it needs, which are filled before it."""
        return ()

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """What else determines the values: the configuration, with hashes instead of models.

        Args:
            places: field of `MODELS` -> where the model lies.
            hashes: field of `MODELS` -> hash of the model's files.
        """
        kept = {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if key not in self.MODELS and not _is_free(type(self), key)
        }
        return {**kept, **{key: hashes[key] for key in sorted(hashes)}}

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load what it needs; called once a worker.

        Args:
            places: field of `MODELS` -> where the model lies.
            device: where models run: `cpu`, `cuda:1`, ...

        Raises:
            MissingExtra: an optional package is not installed.
            InputError: the model is not of the right kind.
        """
        raise NotImplementedError


def _is_free(config: type[Config], key: str) -> bool:
    """Whether a field says `json_schema_extra={"changes_result": False}`."""
    extra = config.model_fields[key].json_schema_extra
    return isinstance(extra, dict) and extra.get("changes_result", True) is False
