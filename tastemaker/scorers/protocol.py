"""What a scorer is: a number for a picture, or for picture and text, with its provenance."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal, Protocol

import numpy as np

Needs = Literal["image", "image+text", "image+concept"]


class Scorer(Protocol):
    """One figure per picture. Whatever changes a value changes `version` or `preprocessing`.

    Attributes:
        name: short name; the name of the column that the values go to.
        version: of the scorer itself and what it was fitted on; values of two versions are never
            compared.
        backbone: the frozen model underneath, with the hash of its weights where they are a file.
        preprocessing: `preprocessing_hash` of how pixels become the model's input.
        unit: `cosine`, `rank`, `probability`, ...
        range: least and greatest possible value.
        higher_is_better: the direction of good.
        needs: whether a text, or the name of a concept, goes with every picture.
    """

    name: str
    version: str
    backbone: str
    preprocessing: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool
    needs: Needs

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """Score a batch; no value depends on the other pictures of the batch.

        Args:
            pictures: uint8 arrays `[H, W, 3]`, RGB; sizes may differ.
            texts: one for each picture when `needs` says so, else None.

        Returns:
            float64 `[B]`, finite.
        """
        ...


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
