"""How often a scorer agrees with what people preferred, where both may call it a tie."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tastemaker.stats.bootstrap import bootstrap
from tastemaker.stats.interval import Interval

THRESHOLDS = tuple(step / 10 for step in range(11))
"""Where Kirstain et al. 2023 look for the best threshold of |p1 - p2|."""

Numbers = Sequence[float] | NDArray[np.floating]


def pair_probability(first: Numbers, second: Numbers) -> NDArray[np.float64]:
    """Probability that the first of two pictures is preferred, from two logits.

        exp(s1) / (exp(s1) + exp(s2)) = 1 / (1 + exp(s2 - s1))

    Kirstain et al. 2023, "Pick-a-Pic", equation 2; `s` is the scale times the cosine, not the
    cosine.

    Args:
        first: `[N]` logits of the first pictures.
        second: `[N]` of the second ones, for the same prompts.
    """
    from scipy.special import expit

    return expit(np.asarray(first, np.float64) - np.asarray(second, np.float64))


def agreement_points(
    margins: Numbers, labels: Numbers, *, threshold: float = 0.0
) -> NDArray[np.float64]:
    """1 where scorer and people say the same, 1/2 where just one says tie, 0 where they disagree.

    The scorer says tie where `|margin| <= threshold`, so a scorer that gives everything one value
    has 1/2 of all pairs that people told apart, whichever picture stands first. Kirstain et al.
    2023, section 4.

    Args:
        margins: `[N]`: p1 - p2 (twice the probability less one), or the difference of two scores.
        labels: `[N]`: share of the preference that the first picture got: 1, 0, or 0.5 for a tie.
        threshold: in the unit of the margins.

    Raises:
        ValueError: lengths differ, a label is none of these, a margin is not finite, or a negative
            threshold.
    """
    margin, label = np.asarray(margins, np.float64), np.asarray(labels, np.float64)
    if margin.shape != label.shape or margin.ndim != 1:
        raise ValueError(f"as many margins as labels, got {margin.shape} and {label.shape}")
    if not np.isin(label, (0.0, 0.5, 1.0)).all():
        raise ValueError("a label is 1 (the first), 0 (the second) or 0.5 (a tie)")
    if not np.isfinite(margin).all() or not threshold >= 0:
        raise ValueError("margins must be finite and the threshold not below 0")
    said = np.where(np.abs(margin) <= threshold, 0.5, (margin > 0).astype(np.float64))
    # A tie is half-way between the two, so being half a step apart is half a point.
    return 1.0 - np.abs(said - label)


def preference_accuracy(
    margins: Numbers,
    labels: Numbers,
    *,
    threshold: float = 0.0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `agreement_points` with a bootstrap interval over prompts.

    Args:
        margins: see `agreement_points`.
        labels: see there.
        threshold: see there; choose it on other pairs than these, with `best_threshold`.
        groups: the prompt of each pair: pairs of one prompt are not independent. Without it every
            pair stands for itself.
        level: confidence.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: see `agreement_points`; or fewer than two prompts.
    """
    points = agreement_points(margins, labels, threshold=threshold)
    names = range(len(points)) if groups is None else groups
    by_group: dict[object, list[float]] = {}
    for name, point in zip(names, points, strict=True):
        by_group.setdefault(name, []).append(float(point))
    return bootstrap(list(by_group.values()), level=level, resamples=resamples, seed=seed)


def best_threshold(
    margins: Numbers, labels: Numbers, thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The threshold with the highest accuracy on validation pairs; the least one of equals.

    Raises:
        ValueError: see `agreement_points`.
    """
    found = [agreement_points(margins, labels, threshold=t).mean() for t in thresholds]
    return float(thresholds[int(np.argmax(found))])
