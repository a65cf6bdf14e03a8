"""How far a picture is from a user's own pictures, for collections without concepts and styles.

Axes: features are float32 `[N, D]`.
"""

from collections.abc import Sequence

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.judge import FeatureModel
from tastemaker.scorers.lite0 import PREPROCESSING
from tastemaker.scorers.protocol import Needs, checked

_SHRINK = 0.5
"""How much of a feature's variance is replaced by the mean variance of all; ours. It keeps a
feature that hardly varies among few pictures from deciding everything."""


class Likeness:
    """Distance to a set of pictures, where 1 is the distance of one of them to the others.

    With mean m and shrunk variances v of the set, `d(x) = mean_i (x_i - m_i)^2 / v_i`, divided by
    the same figure of the set's own pictures, each left out of the mean in its turn. A Mahalanobis
    distance with a diagonal matrix; it says that pictures moved toward the set, not that they are
    good.

    Args:
        model: the frozen network.
        mean: `[D]`.
        variances: `[D]`, shrunk.
        own: the distance of the set's own pictures before the division.
    """

    name = "distance"
    version = "1"
    preprocessing = PREPROCESSING
    unit = "distance, own pictures = 1"
    range = (0.0, float("inf"))
    higher_is_better = False
    needs: Needs = "image"

    def __init__(
        self, model: FeatureModel, mean: np.ndarray, variances: np.ndarray, own: float
    ) -> None:
        self._model, self.backbone = model, model.backbone
        self._mean, self._variances, self.own = mean, variances, own

    @classmethod
    def fit(cls, model: FeatureModel, features: np.ndarray) -> "Likeness":
        """Fit on the features of the user's pictures.

        Raises:
            InputError: fewer than 4 pictures, or all alike.
        """
        values = np.asarray(features, np.float64)
        count = len(values)
        spread = values.var(axis=0, ddof=1) if count > 1 else np.zeros(values.shape[1])
        if count < 4 or spread.max() == 0:
            raise InputError(
                "the distance to your pictures",
                f"{count} pictures" if count < 4 else "pictures that are all alike",
                "at least 4 different ones",
                "Add pictures.",
            )
        mean = values.mean(axis=0)
        variances = (1 - _SHRINK) * spread + _SHRINK * spread.mean()
        # Leaving x out of the mean of n pictures multiplies its deviation by n / (n - 1).
        deviations = (values - mean) * (count / (count - 1))
        return cls(model, mean, variances, float((deviations**2 / variances).mean()))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Float64 `[B]`."""
        deviations = np.asarray(features, np.float64) - self._mean
        return (deviations**2 / self._variances).mean(axis=1) / self.own

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are not looked at."""
        checked(pictures, texts, self.needs)
        return self.distances(self._model.features(pictures))
