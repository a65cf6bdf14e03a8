"""From a score to a few ranks, such as the ten of a quality label."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

By = Literal["quantile", "width"]
"""As many items in each rank, or as wide a range of scores."""


def ranks(scores: ArrayLike, levels: int = 10, by: By = "quantile") -> NDArray[np.int64]:
    """Rank 0 (worst) to `levels` - 1 of every score; equal scores have equal ranks.

        quantile   floor(levels * (mean rank among all - 1/2) / n)
        width      floor(levels * (score - least) / (most - least)), the most in the last rank

    Quantiles give ranks of one size whatever the scores' shape; widths keep the shape, and one
    outlier can empty the ranks in between.

    Args:
        scores: [N] finite numbers.
        levels: how many ranks.
        by: see above. Where all scores are the same, all are in the middle rank.

    Raises:
        ValueError: no score, one that is not finite, or fewer than one level.
    """
    from scipy.stats import rankdata

    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("ranks need at least one score, all of them finite")
    if levels < 1:
        raise ValueError(f"levels: got {levels}, expected at least 1")
    least, most = values.min(), values.max()
    if least == most:
        return np.full(len(values), levels // 2 if levels > 1 else 0, np.int64)
    if by == "quantile":
        place = (rankdata(values) - 0.5) / len(values)
    else:
        place = (values - least) / (most - least)
    return np.minimum((levels * place).astype(np.int64), levels - 1)
