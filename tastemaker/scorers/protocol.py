"""What a scorer is: a number for a picture, or for picture and text, with its provenance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Literal, Protocol

import numpy as np

Needs = Literal["image", "image+text", "image+concept"]


class Provenance(Protocol):
    """What goes with every value. Whatever changes a value changes one of these."""

    @property
    def name(self) -> str:
        """Short name; the name of the column that the values go to."""
        ...

    @property
    def version(self) -> str:
        """Of the scorer and what it was fitted on; values of two versions are never compared."""
        ...

    @property
    def backbone(self) -> str:
        """The frozen model underneath, with the hash of its weights where they are a file."""
        ...

    @property
    def preprocessing(self) -> str:
        """`preprocessing_hash` of how pixels become the model's input."""
        ...

    @property
    def unit(self) -> str:
        """`cosine`, `rank`, `probability`, ..."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """The direction of good."""
        ...


class Scorer(Provenance, Protocol):
    """One figure per picture."""

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest possible value."""
        ...

    @property
    def needs(self) -> Needs:
        """Whether a text, or the name of a concept, goes with every picture."""
        ...

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """Score a batch; no value depends on the other pictures of the batch.

        Args:
            pictures: uint8 arrays `[H, W, 3]`, RGB; sizes may differ.
            texts: one for each picture when `needs` says so, else None.

        Returns:
            float64 `[B]`, finite.
        """
        ...


@dataclass(frozen=True)
class Origin:
    """The provenance of values, without the model that made them."""

    name: str
    version: str
    backbone: str
    preprocessing: str
    unit: str
    higher_is_better: bool

    @classmethod
    def of(cls, scorer: Provenance) -> "Origin":
        """What a scorer says of itself."""
        return cls(**{field.name: getattr(scorer, field.name) for field in fields(cls)})


def preprocessing_hash(steps: Mapping[str, object]) -> str:
    """First 12 hex digits of the blake2b of a canonical description of the preprocessing."""
    text = json.dumps(steps, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode(), digest_size=32).hexdigest()[:12]


def checked(
    pictures: Sequence[np.ndarray], texts: Sequence[str] | None, needs: Needs
) -> Sequence[str]:
    """Refuse what no scorer can take; give the texts, or empty ones.

    Raises:
        ValueError: a picture is not uint8 `[H, W, 3]`, or texts are missing or do not fit.
    """
    for number, picture in enumerate(pictures):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"picture {number}: got {picture.dtype} {list(picture.shape)}, not uint8 [H, W, 3]"
            )
    if needs == "image":
        return [""] * len(pictures)
    if texts is None or len(texts) != len(pictures):
        got = "none" if texts is None else str(len(texts))
        raise ValueError(f"{len(pictures)} pictures need as many texts ({needs}); got {got}")
    return texts
