"""The independent judge: which concept a picture shows and in which style it is drawn.

Both judges compare frozen features of an unrelated network (`lite0`) with those of real drawings.
They are fitted on drawings of concepts that are not evaluated, and each reports how often it is
right on the real drawings of those that are, so that a reader knows the ceiling of its verdicts.

Axes: features are float32 `[N, D]`; concepts and styles are N names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tastemaker.errors import InputError
from tastemaker.records.draws import Draw
from tastemaker.scorers.lite0 import PREPROCESSING
from tastemaker.scorers.protocol import Needs, checked

OTHERS = 19
"""Random concepts that the named one is ranked among; with it 20, so chance is 5 %."""

_WITHIN_RIDGE = 1.0
_STYLE_RIDGE = 3.0
"""Shrinkage, in units of the mean variance of a feature. Chosen on real drawings only, where
results hardly change from a third to three times these values."""


class FeatureModel(Protocol):
    """What the judges need of a frozen network."""

    backbone: str
    """Its name and the hash of its weights."""

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures, uint8 `[H, W, 3]`, to float32 `[B, D]`."""
        ...


@dataclass(frozen=True)
class Whitening:
    """A linear map that makes drawings of one concept alike, whatever their style.

    With `S` the scatter of drawings about the mean of their concept and `s` its mean variance,
    features are centred and multiplied by `(S + s I)^(-1/2)` (Fisher's criterion with ridge):
    directions in which one concept varies, style first of all, count little. `S` has fewer
    directions than there are drawings, so only those are kept.

    Attributes:
        mean: `[D]`, of all drawings.
        directions: `[D, R]`, orthonormal directions of the within-concept scatter.
        gains: `[R]`, what each is multiplied by; every other direction is multiplied by 1.
    """

    mean: np.ndarray
    directions: np.ndarray
    gains: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, concepts: Sequence[str]) -> "Whitening":
        """Fit on real drawings; without two drawings of any concept it only centres."""
        values = np.asarray(features, np.float64)
        mean = values.mean(axis=0)
        names = np.asarray(concepts)
        deviations = np.concatenate(
            [
                values[names == name] - values[names == name].mean(axis=0)
                for name in np.unique(names)
            ]
        )
        degrees = max(len(values) - len(np.unique(names)), 1)
        _, singular, directions = np.linalg.svd(deviations, full_matrices=False)
        variances = singular**2 / degrees
        ridge = _WITHIN_RIDGE * variances.sum() / values.shape[1]
        if ridge == 0:
            return cls(mean, np.zeros((values.shape[1], 0)), np.zeros(0))
        return cls(mean, directions.T, np.sqrt(ridge / (variances + ridge)))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors `[N, D]`; a feature at the very mean stays zero."""
        centred = np.asarray(features, np.float64) - self.mean
        parts = centred @ self.directions
        white = centred + (parts * (self.gains - 1.0)) @ self.directions.T
        lengths = np.linalg.norm(white, axis=1, keepdims=True)
        return np.divide(white, lengths, out=np.zeros_like(white), where=lengths > 0)


class ConceptJudge:
    """Rank of the named concept among it and 19 random others: nearest centre, by cosine.

    Args:
        model: the frozen network.
        whitening: the space to compare in.
        centres: concept -> `[D]` centre of its whitened drawings, in both styles where there are
            two.
        seed: of the other concepts; each prompt has its own, the same for every model.
    """

    name = "concept"
    version = "1"
    preprocessing = PREPROCESSING
    unit = "rank"
    higher_is_better = False
    needs: Needs = "image+concept"

    def __init__(
        self,
        model: FeatureModel,
        whitening: Whitening,
        centres: dict[str, np.ndarray],
        *,
        seed: int = 0,
    ) -> None:
        self._model, self._whitening, self._seed = model, whitening, seed
        self.backbone = model.backbone
        self._names = sorted(centres)
        self._row = {name: row for row, name in enumerate(self._names)}
        matrix = np.stack([centres[name] for name in self._names])
        self._centres = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        self.others = min(OTHERS, len(self._names) - 1)
        self.range = (1.0, float(self.others + 1))

    @classmethod
    def fit(
        cls,
        model: FeatureModel,
        features: np.ndarray,
        concepts: Sequence[str],
        evaluated: set[str],
        *,
        seed: int = 0,
    ) -> "ConceptJudge":
        """Centres of all concepts; the whitening only from those that are not evaluated.

        Raises:
            InputError: fewer than two concepts.
        """
        if len(set(concepts)) < 2:
            raise InputError(
                "the concept judge",
                f"{len(set(concepts))} concepts",
                "real drawings of at least 2, better 20",
                "Give a collection with more concepts, or leave the concept out.",
            )
        free = np.array([name not in evaluated for name in concepts])
        fitted_on = free if free.sum() >= 4 else np.ones(len(concepts), bool)
        whitening = Whitening.fit(
            features[fitted_on], [n for n, use in zip(concepts, fitted_on, strict=True) if use]
        )
        return cls(model, whitening, _centres(whitening(features), concepts), seed=seed)

    def knows(self, concept: str) -> bool:
        """Whether there are drawings of it."""
        return concept in self._row

    def ranks(
        self, features: np.ndarray, concepts: Sequence[str], keys: Sequence[str]
    ) -> np.ndarray:
        """Ranks from 1, float64 `[B]`; equal similarities share the middle rank.

        Args:
            features: `[B, D]`, not whitened.
            concepts: the concept asked for, each with a centre.
            keys: the prompt's id, which chooses the other concepts.
        """
        unknown = sorted({name for name in concepts if name not in self._row})
        if unknown:
            raise ValueError(f"no drawings of {', '.join(unknown)}")
        similar = self._whitening(features) @ self._centres.T
        ranks = np.empty(len(features))
        for row, (concept, key) in enumerate(zip(concepts, keys, strict=True)):
            own = self._row[concept]
            candidates = np.delete(np.arange(len(self._names)), own)
            chosen = Draw(self._seed, "judge", key).generator().permutation(candidates)
            rivals = similar[row, chosen[: self.others]]
            better, equal = rivals > similar[row, own], rivals == similar[row, own]
            ranks[row] = 1.0 + better.sum() + equal.sum() / 2.0
        return ranks

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are concepts, and choose the other concepts too."""
        texts = checked(pictures, texts, self.needs)
        return self.ranks(self._model.features(pictures), texts, texts)

    def accuracy_across_styles(
        self,
        features: np.ndarray,
        concepts: Sequence[str],
        styles: Sequence[str],
        keys: dict[str, str],
    ) -> np.ndarray:
        """Ranks of real drawings when the centres are those of one other style only.

        Args:
            features: `[N, D]` of real drawings.
            concepts: their concepts.
            styles: their styles.
            keys: which concepts to test, each with the key of its other concepts (its prompt's id).

        Returns:
            float64, one rank for each drawing of a concept in `keys` and each other style.
        """
        names, kinds = np.asarray(concepts), np.asarray(styles)
        ranks = [np.empty(0)]
        for style in np.unique(kinds):
            known = kinds == style
            centres = _centres(self._whitening(features[known]), names[known].tolist())
            judge = ConceptJudge(self._model, self._whitening, centres, seed=self._seed)
            tested = [
                i for i in np.flatnonzero(~known) if names[i] in keys and judge.knows(names[i])
            ]
            if tested and judge.others:
                asked = [str(names[i]) for i in tested]
                ranks.append(judge.ranks(features[tested], asked, [keys[name] for name in asked]))
        return np.concatenate(ranks)


class StyleJudge:
    """How far a picture lies on the side of a style: ridge regression on standardised features.

    The margin of a style is 1 at the mean of its drawings and -1 at the mean of all others, both
    seen along the direction that separates them; a picture is in the style with the greatest
    margin. For two styles the sign decides, at the midpoint, so a style with more drawings has no
    advantage.

    Args:
        model: the frozen network.
        styles: names, sorted.
        mean: `[D]` and scale: `[D]`, of the drawings that it was fitted on.
        weights: `[D, S]` and offsets: `[S]`.
    """

    name = "style"
    version = "1"
    preprocessing = PREPROCESSING
    unit = "margin"
    range = (-float("inf"), float("inf"))
    higher_is_better = True
    needs: Needs = "image+concept"

    def __init__(
        self,
        model: FeatureModel,
        styles: Sequence[str],
        mean: np.ndarray,
        scale: np.ndarray,
        weights: np.ndarray,
        offsets: np.ndarray,
    ) -> None:
        self._model, self.styles, self.backbone = model, tuple(styles), model.backbone
        self._mean, self._scale, self._weights, self._offsets = mean, scale, weights, offsets

    @classmethod
    def fit(cls, model: FeatureModel, features: np.ndarray, styles: Sequence[str]) -> "StyleJudge":
        """Fit on real drawings, one direction for each style against the rest.

        Raises:
            InputError: fewer than two styles, or fewer than two drawings of one.
        """
        kinds = np.asarray(styles)
        names, counts = np.unique(kinds, return_counts=True)
        if len(names) < 2 or counts.min() < 2:
            raise InputError(
                "the style judge",
                {str(n): int(c) for n, c in zip(names, counts, strict=True)},
                "real drawings of at least 2 styles, besides those of the evaluated concepts",
                "Give a collection with both styles, or leave `style` out.",
            )
        values = np.asarray(features, np.float64)
        mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-3
        standard = (values - mean) / scale
        targets = np.where(kinds[:, None] == names[None, :], 1.0, -1.0)
        gram = standard @ standard.T + _STYLE_RIDGE * len(values) * np.eye(len(values))
        weights = standard.T @ np.linalg.solve(gram, targets - targets.mean(axis=0))
        along = standard @ weights
        inside = np.stack([along[kinds == n, s].mean() for s, n in enumerate(names)])
        outside = np.stack([along[kinds != n, s].mean() for s, n in enumerate(names)])
        half = np.maximum((inside - outside) / 2.0, 1e-12)
        offsets = -(inside + outside) / 2.0 / half
        return cls(model, [str(n) for n in names], mean, scale, weights / half, offsets)

    def margins(self, features: np.ndarray) -> np.ndarray:
        """`[B, S]`, in the order of `styles`."""
        standard = (np.asarray(features, np.float64) - self._mean) / self._scale
        return standard @ self._weights + self._offsets

    def margin_of(self, features: np.ndarray, style: str) -> np.ndarray:
        """`[B]`: above 0 when the style beats every other one; for two styles its own margin.

        Raises:
            InputError: the judge has seen no drawings of that style.
        """
        if style not in self.styles:
            raise InputError(
                "style",
                repr(style),
                f"one of {', '.join(self.styles)}",
                "Correct the style's name.",
            )
        margins, own = self.margins(features), self.styles.index(style)
        return (margins[:, own] - np.delete(margins, own, axis=1).max(axis=1)) / 2.0

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are names of styles."""
        texts = checked(pictures, texts, self.needs)
        features = self._model.features(pictures)
        return np.array(
            [self.margin_of(features[row : row + 1], text)[0] for row, text in enumerate(texts)]
        )

    def correct(self, features: np.ndarray, styles: Sequence[str]) -> np.ndarray:
        """Bool `[B]`: whether real drawings are put into their own style."""
        found = self.margins(features).argmax(axis=1)
        return np.array([self.styles[s] == style for s, style in zip(found, styles, strict=True)])


def _centres(white: np.ndarray, concepts: Sequence[str]) -> dict[str, np.ndarray]:
    names = np.asarray(concepts)
    return {str(name): white[names == name].mean(axis=0) for name in np.unique(names)}
