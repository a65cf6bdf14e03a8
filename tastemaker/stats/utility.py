"""A utility learnt from pairs: u(x) = w . z(x), where P(a beats b) = logistic(u_a - u_b).

The same function scores both sides (a "Siamese" model), so swapping them swaps the answer, and the
utility is the score. Bradley and Terry 1952, "Rank analysis of incomplete block designs", with
features in place of one parameter an item.

Axes: K pictures, D numbers of an embedding, N answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

L2 = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Penalties that cross-validation chooses from (ours)."""


@dataclass(frozen=True)
class Answers:
    """Pairs of pictures by their rows, and who won.

    Attributes:
        first: [N] row of one picture.
        second: [N] row of the other.
        score: [N] 1 the first won, 0 the second, 0.5 neither.
    """

    first: Ints
    second: Ints
    score: Floats

    def __len__(self) -> int:
        """N."""
        return len(self.score)

    def where(self, chosen: NDArray[np.bool_]) -> "Answers":
        """Some of them."""
        return Answers(self.first[chosen], self.second[chosen], self.score[chosen])


@dataclass(frozen=True)
class Utility:
    """A fitted utility.

    Attributes:
        weights: [D], of embeddings as they are.
        bias: so that the mean picture of the fit has utility 0.
        covariance: [D, D] of the weights, by Laplace's approximation.
        l2: penalty of the scaled weights.
    """

    weights: Floats
    bias: float
    covariance: Floats
    l2: float

    def __call__(self, vectors: NDArray[np.floating]) -> Floats:
        """[K] utilities, logits."""
        return np.asarray(vectors, np.float64) @ self.weights + self.bias

    def errors(self, vectors: NDArray[np.floating], mean: Floats) -> Floats:
        """[K] standard errors of the utilities against that of the mean picture [D]."""
        centred = np.asarray(vectors, np.float64) - mean
        return np.sqrt(np.maximum(((centred @ self.covariance) * centred).sum(1), 0))


def fit_utility(vectors: NDArray[np.floating], answers: Answers, l2: float) -> Utility:
    """Minimise the mean-free logistic loss plus l2 / 2 * |w|^2 over scaled embeddings.

        z = (x - mean) / s,   s^2 = mean squared length of x - mean, over D

    so that one `l2` means the same for every embedding. A tie has the target 1/2.

    Args:
        vectors: [K, D].
        answers: among them.
        l2: above 0.

    Raises:
        ValueError: no answer, or a penalty that is not above 0.
    """
    from scipy.optimize import minimize

    if not len(answers) or not l2 > 0:
        raise ValueError(f"got {len(answers)} answers and l2 {l2}, expected some and above 0")
    x = np.asarray(vectors, np.float64)
    mean = x.mean(0)
    scale = float(np.sqrt(((x - mean) ** 2).mean())) or 1.0
    d = (x[answers.first] - x[answers.second]) / scale

    def loss(w: Floats) -> tuple[float, Floats]:
        u = d @ w
        value = (np.logaddexp(0, u) - answers.score * u).sum() + l2 / 2 * (w @ w)
        return float(value), d.T @ (_logistic(u) - answers.score) + l2 * w

    w = minimize(
        loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    ).x
    chance = _logistic(d @ w)
    curvature = (d * (chance * (1 - chance))[:, None]).T @ d + l2 * np.eye(len(w))
    covariance = np.asarray(np.linalg.inv(curvature), np.float64) / scale**2
    return Utility(w / scale, float(-mean @ w / scale), covariance, l2)


def folds_of(family: Ints, count: int, random: np.random.Generator) -> Ints:
    """[K] which fold each row is in, by lot.

    Args:
        family: [K] which picture a row shows, 0 and up; rows of one picture stay together.
        count: how many folds, of about the same size.
        random: for the lot.
    """
    return random.permutation(np.arange(int(family.max()) + 1) % count)[family]


def choose_l2(
    vectors: NDArray[np.floating],
    answers: Answers,
    family: Ints,
    random: np.random.Generator,
    penalties: Sequence[float] = L2,
    folds: int = 3,
) -> float:
    """The penalty with the least logistic loss on answers about pictures that were held out.

    Args:
        vectors: [K, D].
        answers: among them.
        family: [K], as for `folds_of`.
        random: of the folds.
        penalties: what to choose from.
        folds: how many.
    """
    of = folds_of(family, folds, random)
    losses = np.zeros(len(penalties))
    for fold in range(folds):
        new = (of[answers.first] == fold) | (of[answers.second] == fold)
        known, held = answers.where(~new), answers.where(new)
        if not len(known) or not len(held):
            continue
        for number, l2 in enumerate(penalties):
            u = fit_utility(vectors, known, l2)(vectors)
            margin = u[held.first] - u[held.second]
            losses[number] += (np.logaddexp(0, margin) - held.score * margin).sum()
    return float(penalties[int(losses.argmin())])


@dataclass(frozen=True)
class HeldOut:
    """How often a model was right about pictures that it had not been trained on.

    Attributes:
        both_right: right answers where both pictures are new; ties are not counted.
        both: such answers.
        one_right: right answers where at least one picture is new: all of them, each counted once.
        one: such answers.
    """

    both_right: int
    both: int
    one_right: int
    one: int


Margins = Callable[[Ints, Ints], Floats]
"""Rows of two pictures -> how much the first is better; above 0 means that it is."""


def held_out_accuracy(
    fit: Callable[[Answers], Margins],
    answers: Answers,
    blind: NDArray[np.bool_],
    family: Ints,
    random: np.random.Generator,
    folds: int = 5,
) -> HeldOut:
    """Cross-validated accuracy, split by picture.

    Args:
        fit: trains a model; whatever it chooses, it chooses from the answers that it is given.
        answers: all of them; those about a fold's pictures are not trained on.
        blind: [N] which pairs were drawn blindly; only these are counted, because pairs that were
            chosen for being close are harder than others.
        family: [K], as for `folds_of`.
        random: of the folds.
        folds: how many.
    """
    of = folds_of(family, folds, random)
    right, total = [0, 0], [0, 0]
    counted = blind & (answers.score != 0.5)
    for fold in range(folds):
        first, second = of[answers.first] == fold, of[answers.second] == fold
        known = answers.where(~(first | second))
        if not len(known) or not (counted & first).any():
            continue
        margin = fit(known)(answers.first, answers.second)
        # Where both are alike to it, it is not right.
        correct = np.where(answers.score > 0.5, margin > 0, margin < 0)
        # The first picture's fold speaks for a pair, or pairs across folds would count twice.
        for number, new in enumerate((first & second, first)):
            total[number] += int((counted & new).sum())
            right[number] += int((counted & new & correct).sum())
    return HeldOut(right[0], total[0], right[1], total[1])


def best_possible(consistency: float) -> float:
    """Accuracy of a perfect model against one answer of a rater who agrees with himself so often.

        c = p^2 + (1 - p)^2   =>   p = (1 + sqrt(2 c - 1)) / 2

    if all pairs were equally hard; they are not, so it is a bound from above only about. 0.5 where
    the rater agrees no more often than by chance.
    """
    return 0.5 * (1 + max(0.0, 2 * consistency - 1) ** 0.5)


def rank_probabilities(utility: Floats, error: Floats, edges: Floats) -> NDArray[np.float32]:
    """[K, ranks] P(rank) of each picture, its utility being normal: ordinal targets.

    Args:
        utility: [K].
        error: [K] standard errors.
        edges: [ranks - 1] where one rank ends and the next begins, ascending.
    """
    from scipy.stats import norm

    spread = np.maximum(error, 1e-9)[:, None]
    below = norm.cdf((edges[None] - utility[:, None]) / spread)
    whole = np.concatenate([np.zeros((len(utility), 1)), below, np.ones((len(utility), 1))], 1)
    return np.diff(whole, axis=1).astype(np.float32)


def _logistic(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))
