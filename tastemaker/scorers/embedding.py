"""The operation `embedding`: a unit vector of each picture, by CLIP or SigLIP.

Axes: D numbers of a vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tastemaker.scorers.model_folder import Precision
from tastemaker.scorers.operation import Measure, Operation, Subject, Values
from tastemaker.scorers.vision_text import Architecture, VisionText

NORM_TOLERANCE = 1e-3
"""How far a stored vector's length may be from 1 (ours). Rounding to float16 moves it by less than
2^-11 = 0.0005; embeddings that were not normalised have lengths of about 10."""


class Embedding(Operation):
    """Embeddings of pictures, for finding duplicates and for the columns that read them."""

    FIELDS: ClassVar[Mapping[str, str]] = {"vector": "vector<float16>"}
    MODELS: ClassVar[Mapping[str, str]] = {"model": "vision"}

    kind: Literal["embedding"] = "embedding"
    """Embeddings of pictures."""
    model: str
    """A transformers folder or hub id of a CLIP, SigLIP or SigLIP 2, or of its picture network."""
    precision: Precision = "float32"
    """Of weights and arithmetic (ours). A CPU can only do `float32`."""

    def params(self, places: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
        """See `Operation.params`; also what the network is and how pixels become its input."""
        return {**super().params(places, hashes), **provenance(places["model"])}

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Load the picture network."""
        embedder = VisionText.load(
            places["model"],
            device=device,
            precision=self.precision,
            part="pictures",
            batch=self.BATCH,
        )

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            vectors = embedder.embed([subject_pixels(subject) for subject in subjects])
            return [_stored(vector) for vector in vectors]

        return measure


def read_unit_vector(subject: Subject, column: str, width: int) -> np.ndarray:
    """A stored embedding, float64 `[D]`, as it is.

    Args:
        subject: the picture.
        column: name of the column with its embedding.
        width: D.

    Raises:
        ValueError: it is not there, has another width or is not of length 1; the text says so in
            the words of a row's error.
    """
    found = subject.columns.get(column, {}).get("vector")
    if found is None:
        raise ValueError(f"no embedding in column '{column}'")
    vector = np.asarray(found, np.float64)
    if vector.shape != (width,):
        raise ValueError(f"embedding of {vector.size} numbers; this model takes {width}")
    norm = float(np.linalg.norm(vector))
    # Written so that a norm that is not a number is refused too.
    if not abs(norm - 1) <= NORM_TOLERANCE:
        raise ValueError(f"embedding is not normalised: its length is {norm:.4g}, not 1")
    return vector


def provenance(folder: Path) -> dict[str, Any]:
    """What `params` says of a model besides its hash: its picture network, and how it is fed.

    Raises:
        InputError: the folder holds no CLIP or SigLIP.
    """
    architecture = Architecture.read(folder)
    return {
        "backbone": architecture.backbone,
        "preprocessing": architecture.picture_input.hash,
    }


def subject_pixels(subject: Subject) -> np.ndarray:
    """The pixels of a subject of an operation that needs them."""
    assert subject.pixels is not None, "an operation that needs pixels is given them"
    return subject.pixels


def _stored(vector: np.ndarray) -> Values:
    if not np.isfinite(vector).all():
        return {"error": "the network's output is not finite"}
    return {"vector": vector.astype(np.float16)}
