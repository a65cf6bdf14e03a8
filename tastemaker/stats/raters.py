"""How far each rater can be trusted, from the answers alone (Dawid and Skene 1979).

Axes: N answers, U units (comparisons), R raters, K classes (left/right, or a/b/tie).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Answer = tuple[Hashable, Hashable, Hashable]
"""Unit, rater, class."""


@dataclass(frozen=True)
class Reliability:
    """What the answers say about units and raters.

    Attributes:
        units: names, in the order of `probability`.
        raters: names, in the order of `confusion`.
        classes: names.
        probability: [U, K] of each unit's true class.
        confusion: [R, K, K] P(the rater answers l | the truth is k).
        prior: [K] how common each class is.
        log_likelihood: of the answers, after each round; it never falls.
    """

    units: tuple[Hashable, ...]
    raters: tuple[Hashable, ...]
    classes: tuple[Hashable, ...]
    probability: NDArray[np.float64]
    confusion: NDArray[np.float64]
    prior: NDArray[np.float64]
    log_likelihood: tuple[float, ...]

    def labels(self) -> dict[Hashable, Hashable]:
        """Unit -> its most probable class; the first one of equals."""
        best = self.probability.argmax(1).tolist()
        return {u: self.classes[k] for u, k in zip(self.units, best, strict=True)}

    def accuracy(self) -> dict[Hashable, float]:
        """Rater -> estimated share of right answers: sum over k of prior_k * confusion_kk."""
        right = (self.confusion * np.eye(len(self.classes))).sum(2) @ self.prior
        return dict(zip(self.raters, right.tolist(), strict=True))


def dawid_skene(
    answers: Sequence[Answer], *, rounds: int = 100, tolerance: float = 1e-7
) -> Reliability:
    """Maximum likelihood of true classes and raters' confusion matrices, by EM.

        E: P(k | unit) ~ prior_k * product over its answers of confusion[rater, k, answer]
        M: prior and confusion matrices = the expected shares

    Starts from each unit's shares of answers. Dawid and Skene 1979, "Maximum likelihood estimation
    of observer error-rates using the EM algorithm", equations 2.3 to 2.5. No prior: a rater with
    few answers can be put at 0 or 1, so look at how many there are. It can model a voter who always
    chooses the left picture, when the classes are left and right.

    Args:
        answers: rows of unit, rater, class; a rater may answer a unit several times.
        rounds: most rounds.
        tolerance: stops when the log-likelihood rises by less than this per answer.

    Raises:
        ValueError: no answer.
    """
    if not answers:
        raise ValueError("the reliability of raters needs at least one answer")
    names = [tuple(dict.fromkeys(row[axis] for row in answers)) for axis in range(2)]
    units, raters = names
    classes = tuple(sorted({row[2] for row in answers}, key=str))
    places = [{name: i for i, name in enumerate(some)} for some in (units, raters, classes)]
    rows = np.array([[places[axis][row[axis]] for axis in range(3)] for row in answers])
    u, r, c = rows.T
    size = (len(units), len(raters), len(classes))
    probability = np.zeros((size[0], size[2]))
    np.add.at(probability, (u, c), 1.0)
    probability /= probability.sum(1, keepdims=True)
    likelihoods: list[float] = []
    prior, confusion = _maximise(probability, u, r, c, size[1])
    for _ in range(rounds):
        probability, likelihood = _expect(prior, confusion, u, r, c, size[0])
        likelihoods.append(likelihood)
        prior, confusion = _maximise(probability, u, r, c, size[1])
        if len(likelihoods) > 1 and likelihood - likelihoods[-2] < tolerance * len(answers):
            break
    return Reliability(units, raters, classes, probability, confusion, prior, tuple(likelihoods))


def _maximise(
    probability: NDArray[np.float64],
    u: NDArray[np.int64],
    r: NDArray[np.int64],
    c: NDArray[np.int64],
    raters: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Prior [K] and confusion [R, K, K] from the units' present probabilities."""
    k = probability.shape[1]
    counts = np.zeros((raters, k, k))
    for answer in range(k):
        chosen = c == answer
        np.add.at(counts[:, :, answer], r[chosen], probability[u[chosen]])
    sums = counts.sum(2, keepdims=True)
    # A rater who never met a class tells nothing about it: all answers alike.
    confusion = np.divide(counts, sums, out=np.full_like(counts, 1 / k), where=sums > 0)
    return probability.mean(0), confusion


def _expect(
    prior: NDArray[np.float64],
    confusion: NDArray[np.float64],
    u: NDArray[np.int64],
    r: NDArray[np.int64],
    c: NDArray[np.int64],
    units: int,
) -> tuple[NDArray[np.float64], float]:
    """Probability [U, K] of the units' classes, and the log-likelihood of all answers."""
    with np.errstate(divide="ignore"):
        logs = np.tile(np.log(prior), (units, 1))
        np.add.at(logs, u, np.log(confusion[r, :, c]))
    top = logs.max(1, keepdims=True)
    weights = np.exp(logs - top)
    sums = weights.sum(1, keepdims=True)
    return weights / sums, float((top + np.log(sums)).sum())
