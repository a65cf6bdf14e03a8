"""The operation `aesthetic`: the LAION-Aesthetics V2 head on CLIP ViT-L/14 embeddings.

The head (Schuhmann 2022, "improved-aesthetic-predictor", Apache-2.0) has five linear layers and
nothing but dropout between them, so it is one affine map. Measured on
`sac+logos+ava1-l14-linearMSE.pth`: 768 weights of length 17.996 and a bias of 5.2366, so that unit
vectors score within -12.8..23.2; random ones 5.24 with a deviation of 0.64.

Axes: D numbers of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.embedding import read_unit_vector
from tastemaker.scorers.operation import Measure, Operation, Subject, Values

HEAD_FILES = (".pth", ".safetensors", ".npz")
"""What a head may be; a `.pth` is opened with torch's restricted reader, which runs no code."""

_LINEAR_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the head's layers with weights; the ones between are dropout. In the variant with
ReLUs the numbers are others."""

_EXPECTED = "the linear LAION-Aesthetics V2 head (.pth, .safetensors or .npz)"


class Aesthetic(Operation):
    """A score of how much people like a picture, mostly within 3..8."""

    FIELDS: ClassVar[Mapping[str, str]] = {"score": "float32"}
    NEEDS_PIXELS: ClassVar[bool] = False
    MODELS: ClassVar[Mapping[str, str]] = {"head": "head"}

    kind: Literal["aesthetic"] = "aesthetic"
    """LAION-Aesthetics V2."""
    head: str
    """The head's file: `sac+logos+ava1-l14-linearMSE.pth`, or the same collapsed to `w` and `b`."""
    embedding: str = "embedding"
    """Column of the embeddings that it reads. The head belongs to OpenAI's CLIP ViT-L/14; of other
    models it makes numbers without meaning."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The embeddings."""
        return (self.embedding,)

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Read the head; it is so small that it runs on the CPU."""
        head = LinearHead.read(places["head"])

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            return [self._score(head, subject) for subject in subjects]

        return measure

    def _score(self, head: "LinearHead", subject: Subject) -> Values:
        try:
            vector = read_unit_vector(subject, self.embedding, head.weights.size)
        except ValueError as error:
            return {"error": str(error)}
        return {"score": head(vector)}


@dataclass(frozen=True)
class LinearHead:
    """An affine map of embeddings to a score.

    Attributes:
        weights: float64 `[D]`.
        bias: added to the product.
    """

    weights: np.ndarray
    bias: float

    def __call__(self, vector: np.ndarray) -> float:
        """The score of one vector `[D]`."""
        return float(self.weights @ np.asarray(vector, np.float64)) + self.bias

    @classmethod
    def read(cls, place: Path) -> "LinearHead":
        """From the head's file, or a folder that holds just one.

        Raises:
            InputError: no such file, a file that would run code, or another kind of head.
        """
        path = _only_file(place)
        return cls.of(_arrays(path), path)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], path: Path) -> "LinearHead":
        """From the arrays of a file: five layers, or one affine map.

        Raises:
            InputError: it is another kind of head.
        """
        names = set(arrays)
        for weight, bias in (("w", "b"), ("weight", "bias")):
            if names == {weight, bias}:
                return cls._checked(path, [(arrays[weight], arrays[bias])])
        wanted = {f"layers.{n}.{part}" for n in _LINEAR_LAYERS for part in ("weight", "bias")}
        if names != wanted:
            got = f"arrays {', '.join(sorted(names)[:6])}{' ...' if len(names) > 6 else ''}"
            todo = "Use a head without activations between its layers."
            raise InputError(path, got, _EXPECTED, todo)
        return cls._checked(
            path,
            [(arrays[f"layers.{n}.weight"], arrays[f"layers.{n}.bias"]) for n in _LINEAR_LAYERS],
        )

    @classmethod
    def _checked(cls, path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> "LinearHead":
        """One affine map from a chain of them, in float64."""
        shapes = [f"{list(weight.shape)}" for weight, _ in layers]
        error = InputError(
            path, f"weights {', '.join(shapes)}", _EXPECTED, "Download the file again."
        )
        try:
            product, offset = np.ones((1, 1)), np.zeros(1)
            for weight, bias in reversed(layers):
                matrix = np.atleast_2d(np.asarray(weight, np.float64))
                offset = offset + product @ np.asarray(bias, np.float64).reshape(-1)
                product = product @ matrix
        except ValueError as wrong:
            raise error from wrong
        if not (np.isfinite(product).all() and np.isfinite(offset).all()):
            raise error
        return cls(product[0], float(offset[0]))


def _only_file(place: Path) -> Path:
    if place.is_file():
        return place
    found = sorted(path for path in place.glob("*") if path.suffix in HEAD_FILES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        todo = "Give the path of the file itself."
        raise InputError(place, f"{len(found)} heads ({names})", "one head", todo)
    return found[0]


def _arrays(path: Path) -> dict[str, Any]:
    todo = "Download the file again from where its authors put it."
    if path.suffix not in HEAD_FILES:
        raise InputError(path, f"a {path.suffix or 'nameless'} file", _EXPECTED, todo)
    try:
        if path.suffix == ".npz":
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        return _state_dict(path)
    except InputError:
        raise
    # A damaged or hostile file fails in as many ways as there are readers.
    except Exception as error:
        lines = str(error).strip().splitlines()
        got = f"no head ({type(error).__name__}: {lines[0][:160] if lines else ''})"
        raise InputError(path, got, _EXPECTED, todo) from error


def _state_dict(path: Path) -> dict[str, Any]:
    import torch

    # Only tensors and plain containers are built; anything else in the pickle is an error.
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise ValueError(f"a {type(found).__name__}, not tensors by name")
    return {str(name): value.double().numpy() for name, value in found.items()}
