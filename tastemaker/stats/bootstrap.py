"""Bootstrap intervals over independent units: prompts, never votes or pictures.

What shares a prompt is not independent: in our simulations intervals over votes that say 95 %
cover 82 %.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.stats.interval import Interval, check_level

Method = Literal["BCa", "percentile"]

Values = int | float | Sequence[int] | Sequence[float] | NDArray[np.generic]
"""Of one prompt: a single score, or several votes or scores."""


def bootstrap(
    clusters: Sequence[Values],
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    method: Method = "BCa",
    seed: int = 0,
) -> Interval:
    """Interval of a statistic of pooled values, drawing whole clusters with replacement.

    Efron 1987, "Better bootstrap confidence intervals" (BCa, the jackknife leaving out one cluster
    at a time); Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8
    (clusters). Where BCa is undefined (no spread) the percentile interval stands in.

    Args:
        clusters: for each prompt its values: a list of votes or scores, or a single number.
        statistic: of all values of the drawn prompts in one 1-D array.
        level: two-sided confidence.
        resamples: how many draws.
        method: `BCa` or `percentile`.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: fewer than two clusters, an empty one, or a value that is not finite.
    """
    from scipy import stats

    check_level(level)
    values = [np.atleast_1d(np.asarray(c, dtype=np.float64)) for c in clusters]
    if len(values) < 2 or any(v.ndim != 1 or v.size == 0 for v in values):
        raise ValueError("a bootstrap needs at least two clusters, each with at least one value")
    if not np.isfinite(np.concatenate(values)).all():
        raise ValueError("a bootstrap needs finite values")

    # Clusters of one size are drawn by one indexing, ten times faster.
    table = np.stack(values) if len({len(v) for v in values}) == 1 else None

    def of_drawn(indices: NDArray[np.int64]) -> float:
        if table is not None:
            return float(statistic(table[indices].ravel()))
        return float(statistic(np.concatenate([values[i] for i in indices])))

    def interval(by: Method) -> tuple[float, float]:
        with warnings.catch_warnings():
            # scipy warns where BCa is undefined, and then answers NaN; that is handled below.
            warnings.simplefilter("ignore", (stats.DegenerateDataWarning, RuntimeWarning))
            found = stats.bootstrap(
                (np.arange(len(values)),),
                of_drawn,
                vectorized=False,
                n_resamples=resamples,
                confidence_level=level,
                method=by,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        return float(found.low), float(found.high)

    low, high = interval(method)
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = interval("percentile")
    return Interval(of_drawn(np.arange(len(values))), low, high, level, len(values))
