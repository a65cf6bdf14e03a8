"""The operation `quality`: utility and rank of a picture by a model that was trained on votes.

A quality model is a folder: `quality.json`, which says what it is, and `quality.safetensors`. Two
kinds, both on embeddings:

    utility    u = w . x + b, rank by the quantiles of the collection that it was trained for
    ranks      LayerNorm -> Linear -> GELU -> Linear -> one logit a rank; u = the mean rank

Axes: K pictures, D numbers of an embedding, R ranks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.embedding import read_unit_vector
from tastemaker.scorers.operation import Measure, Operation, Subject, Values

CONFIG, WEIGHTS = "quality.json", "quality.safetensors"
LEVELS = 10

_NAMES = {
    "utility": {"w", "b", "mean", "covariance", "edges"},
    "ranks": {"norm_w", "norm_b", "w1", "b1", "w2", "b2"},
}


class Quality(Operation):
    """How good raters would find a picture; made by `tastemaker rate COLLECTION --train`."""

    FIELDS: ClassVar[Mapping[str, str]] = {
        "utility": "float32",
        "standard_error": "float32",
        "rank": "int32",
        "score": "string",
        "targets": "list<float32>",
    }
    NEEDS_PIXELS: ClassVar[bool] = False
    MODELS: ClassVar[Mapping[str, str]] = {"weights": "quality"}

    kind: Literal["quality"] = "quality"
    """A quality model. `utility` is in logits, `rank` from 0 (worst) to 9, `score` the rank as
    bigASP's tag (`score_7`), `targets` the probability of each rank."""
    weights: str
    """Folder of the model."""
    embedding: str = "embedding"
    """Column of the embeddings that it reads: that of the same encoder as in training."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The embeddings."""
        return (self.embedding,)

    def open(self, places: Mapping[str, Path], device: str) -> Measure:
        """Read the model; it is so small that it runs on the CPU."""
        del device
        model = QualityModel.read(places["weights"])

        def measure(subjects: Sequence[Subject]) -> list[Values]:
            return [self._judge(model, subject) for subject in subjects]

        return measure

    def _judge(self, model: "QualityModel", subject: Subject) -> Values:
        try:
            vector = read_unit_vector(subject, self.embedding, model.width)
        except ValueError as error:
            return {"error": str(error)}
        # Training scales a stored vector to length 1 as well.
        return model.rows(vector[None] / np.linalg.norm(vector))[0]


@dataclass(frozen=True)
class QualityModel:
    """A trained model.

    Attributes:
        kind: `utility` or `ranks`.
        facts: what it was trained on, for people.
        arrays: float64 weights by name.
    """

    kind: Literal["utility", "ranks"]
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def width(self) -> int:
        """D."""
        return len(self.arrays["w" if self.kind == "utility" else "norm_w"])

    def rows(self, vectors: np.ndarray) -> list[Values]:
        """Values of the operation for embeddings [K, D]."""
        utility, error, targets = self.judge(vectors)
        if self.kind == "utility":
            rank = np.searchsorted(self.arrays["edges"], utility, side="right")
        else:
            rank = targets.argmax(1)
        return [
            {
                "utility": float(utility[n]),
                "standard_error": float(error[n]),
                "rank": int(rank[n]),
                "score": f"score_{int(rank[n])}",
                "targets": targets[n].astype(float).tolist(),
            }
            for n in range(len(vectors))
        ]

    def judge(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Utility [K], its standard error [K], and probabilities of the ranks [K, R]."""
        from tastemaker.stats.utility import Utility, rank_probabilities

        x, a = np.asarray(vectors, np.float64), self.arrays
        if self.kind == "utility":
            model = Utility(a["w"], float(a["b"]), a["covariance"], 0.0)
            utility, error = model(x), model.errors(x, a["mean"])
            return utility, error, rank_probabilities(utility, error, a["edges"])
        centred = x - x.mean(1, keepdims=True)
        spread = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        hidden = (centred / spread * a["norm_w"] + a["norm_b"]) @ a["w1"].T + a["b1"]
        logits = _gelu(hidden) @ a["w2"].T + a["b2"]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        targets = weights / weights.sum(1, keepdims=True)
        places = np.arange(targets.shape[1])
        utility = targets @ places
        error = np.sqrt(np.maximum(targets @ places**2 - utility**2, 0))
        return utility, error, targets.astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the two files into a folder."""
        from safetensors.numpy import save_file

        # Contiguous, or safetensors would write the memory and not the array.
        arrays = {n: np.ascontiguousarray(v, np.float64) for n, v in self.arrays.items()}
        save_file(arrays, folder / WEIGHTS)
        text = json.dumps({"kind": self.kind, **self.facts}, indent=2, allow_nan=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "QualityModel":
        """Read the two files.

        Raises:
            InputError: they are not there, or hold something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        todo = "Train one: tastemaker rate COLLECTION --train."
        try:
            facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            arrays = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            got = f"no quality model ({error})"
            raise InputError(folder, got, f"{CONFIG} and {WEIGHTS}", todo) from error
        kind = facts.pop("kind", None) if isinstance(facts, dict) else None
        if kind not in _NAMES or set(arrays) != _NAMES[kind]:
            raise InputError(folder, f"the kind {kind}, {sorted(arrays)}", "a quality model", todo)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise InputError(folder, "weights that are not finite", "finite ones", todo)
        return cls(kind, facts, arrays)


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return x * ndtr(x)
