"""The operation `tags`: what a tagger sees in a picture.

bigASP (fpgaminer) uses JoyTag with a threshold of 0.4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from tastemaker.scorers.embedding import subject_pixels
from tastemaker.scorers.model_folder import Precision
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.taggers import Tagger


class Tags(Operation):
    """Tags with their probabilities, most probable first."""

    FIELDS: ClassVar[Mapping[str, str]] = {
        "tags": "list<string>",
        "probabilities": "list<float32>",
        "rating": "string",
    }
    """`rating` is the most probable one of a WD tagger; empty where a tagger has no ratings."""
    MODELS: ClassVar[Mapping[str, str]] = {"model": "tagger"}

    kind: Literal["tags"] = "tags"
    """Tags of a tagger."""
    model: str
    """A folder or hub id: a WD tagger (ONNX), JoyTag (ONNX), or a transformers classifier."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """A tag with a greater probability is present. By default what the taggers' authors use: 0.4
    for JoyTag and classifiers, 0.35 for WD."""
    character_threshold: float | None = Field(default=None, gt=0, lt=1)
    """The same for the characters of a WD tagger; by default `threshold` (its authors' demo has
    0.85)."""
    precision: Precision = "float32"
    """Of a transformers network (ours); an ONNX file has its own."""

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the tagger."""
        tagger = Tagger.load(
            places["model"], device=device, precision=self.precision, batch=self.BATCH
        )
        general = tagger.threshold if self.threshold is None else self.threshold
        character = general if self.character_threshold is None else self.character_threshold
        limits = np.array(
            [character if tag.category == "character" else general for tag in tagger.tags]
        )

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            rows = tagger.probabilities([subject_pixels(subject) for subject in subjects])
            return [_values(tagger, row, limits) for row in rows]

        return measure


def _values(tagger: Tagger, probabilities: np.ndarray, limits: np.ndarray) -> Values:
    low, high = float(probabilities.min()), float(probabilities.max())
    # Written so that NaN is refused too.
    if not (low >= 0 and high <= 1):
        return {"error": f"outputs of {low:.3g}..{high:.3g} are no probabilities"}
    ratings = [n for n, tag in enumerate(tagger.tags) if tag.category == "rating"]
    present = probabilities > limits
    present[ratings] = False
    # Equal probabilities stay in the order of the outputs.
    order = np.argsort(-probabilities, kind="stable")
    chosen = [int(n) for n in order if present[n]]
    return {
        "tags": [tagger.tags[n].name for n in chosen],
        "probabilities": [float(probabilities[n]) for n in chosen],
        "rating": tagger.tags[max(ratings, key=probabilities.__getitem__)].name if ratings else "",
    }
