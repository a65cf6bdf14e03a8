"""How far a picture is from a user's own pictures, for collections without concepts and styles.

Axes: features are float32 `[N, D]`.
"""

from dataclasses import dataclass

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.lite0 import PREPROCESSING
from tastemaker.scorers.protocol import Needs

_SHRINK = 0.5
"""How much of a feature's variance is replaced by the mean variance of all; ours. It keeps a feature that
hardly varies among few pictures from deciding everything."""


@dataclass(frozen=True)
class Likeness:
    """Distance to a set of pictures, where 1 is the distance of one of them to the others.

    With mean m and shrunk variances v of the set, `d(x) = mean_i (x_i - m_i)^2 / v_i`, divided by the same
    figure of the set's own pictures, each left out of the mean in its turn. A Mahalanobis distance with a
    diagonal matrix; it says that pictures moved toward the set, not that they are good.

    Attributes:
        mean: `[D]`.
        variances: `[D]`, shrunk.
        own: the distance of the set's own pictures before the division.
    """

    mean: np.ndarray
    variances: np.ndarray
    own: float

    name = "distance"
    version = "1"
    preprocessing = PREPROCESSING
    unit = "distance, own pictures = 1"
    range = (0.0, float("inf"))
    higher_is_better = False
    needs: Needs = "image"

    @classmethod
    def fit(cls, features: np.ndarray) -> "Likeness":
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
        return cls(mean, variances, float((deviations**2 / variances).mean()))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Float64 `[B]`."""
        deviations = np.asarray(features, np.float64) - self.mean
        return (deviations**2 / self.variances).mean(axis=1) / self.own
