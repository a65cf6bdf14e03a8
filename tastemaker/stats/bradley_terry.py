"""One scale from pairwise choices: Bradley and Terry's model with ties and a prior.

Utilities are on the logit scale: P(a beats b) is the logistic function of their difference, where
there are no ties. Axes: N comparisons, I items.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tastemaker.stats.interval import Interval, check_level

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ties = Literal["davidson", "half", "drop"]
"""Davidson's model; half a win for each side, which shrinks the scale; or left out."""

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """One answer.

    Attributes:
        first: one item.
        second: the other.
        score: 1 the first won, 0 the second, 0.5 neither.
        prompt: answers of one prompt are not independent; None is a prompt of its own.
    """

    first: Hashable
    second: Hashable
    score: float
    prompt: Hashable | None = None


@dataclass(frozen=True)
class Ratings:
    """Fitted utilities.

    Attributes:
        items: names, in the order of `utility`.
        utility: [I] logits; their sum is 0 in every group of items that are connected.
        tie_strength: Davidson's nu; 0 where ties are not modelled or there are none.
        group: [I] number of the group of connected items; no answer tells how two groups compare,
            so a difference between them is the prior's alone.
    """

    items: tuple[Hashable, ...]
    utility: Floats
    tie_strength: float
    group: NDArray[np.int64]
    _data: "_Data"
    _l2: float

    def difference(
        self, a: Hashable, b: Hashable, level: float = 0.95, *, clustered: bool = True
    ) -> Interval:
        """Utility of `a` minus that of `b`, with its own interval: never two bars that overlap.

        With H the curvature at the estimate and c the contrast, x = H^-1 c:

            clustered   G / (G - 1) * sum over prompts of (score of the prompt . x)^2
            not         c . x     (Laplace's approximation; the answers are independent)

        Clustered by prompt as in Liang and Zeger 1986. The quantile is Student's with G - 1 degrees
        of freedom where clustered.

        Raises:
            KeyError: no such item.
            ValueError: the two are in different groups, or there are fewer than two prompts.
        """
        from scipy.stats import norm, t

        check_level(level)
        i, j = self._place[a], self._place[b]
        if self.group[i] != self.group[j]:
            raise ValueError(
                f"{a!r} and {b!r} are not connected by any chain of comparisons; compare some "
                "items of the two groups first"
            )
        estimate = float(self.utility[i] - self.utility[j])
        clusters = int(self._data.prompt.max()) + 1
        if i == j:
            return Interval(0.0, 0.0, 0.0, level, clusters)
        if clustered and clusters < 2:
            raise ValueError("an interval clustered by prompt needs at least two prompts")
        contrast = np.zeros(len(self._parameters))
        contrast[i], contrast[j] = 1.0, -1.0
        x = self._solve(contrast)
        if clustered:
            score = self._data.scores(self._parameters) @ x
            sums = np.bincount(self._data.prompt, weights=score, minlength=clusters)
            error = np.sqrt(clusters / (clusters - 1) * (sums**2).sum())
            quantile = t.ppf((1 + level) / 2, clusters - 1)
        else:
            error, quantile = np.sqrt(contrast @ x), norm.ppf((1 + level) / 2)
        half = float(quantile * error)
        return Interval(estimate, estimate - half, estimate + half, level, clusters)

    def standard_errors(self) -> Floats:
        """[I] of each utility against its group's mean, by Laplace; tells what to show next."""
        size = len(self.items)
        same = (self.group[:, None] == self.group).astype(float)
        contrasts = np.zeros((len(self._parameters), size))
        contrasts[:size] = np.eye(size) - same / same.sum(0)
        return np.sqrt((contrasts * self._solve(contrasts)).sum(0))

    def win_probability(self, a: Hashable, b: Hashable) -> float:
        """P(a beats b) + half of P(tie), as the model has it."""
        d = float(self.utility[self._place[a]] - self.utility[self._place[b]]) / 2
        up, down = np.exp(d), np.exp(-d)
        return float((up + self.tie_strength / 2) / (up + down + self.tie_strength))

    @cached_property
    def _place(self) -> dict[Hashable, int]:
        return {item: i for i, item in enumerate(self.items)}

    @cached_property
    def _parameters(self) -> Floats:
        tail = [np.log(self.tie_strength)] if self._data.with_ties else []
        return np.concatenate([self.utility, tail])

    @cached_property
    def _factors(self) -> Any:
        from scipy.sparse.linalg import splu

        return splu(self._data.curvature(self._parameters, self._l2).tocsc())

    def _solve(self, right: Floats) -> Floats:
        """The inverse curvature times these columns."""
        return self._factors.solve(right)


def bradley_terry(
    comparisons: Iterable[Comparison], *, l2: float = 0.3, ties: Ties = "davidson"
) -> Ratings:
    """Maximum a posteriori utilities.

    With d half the difference of the utilities (Davidson 1970, "On extending the Bradley-Terry
    model to accommodate ties in paired comparison experiments", equation 2.4):

        P(first) = e^d / (e^d + e^-d + nu)     P(tie) = nu / (e^d + e^-d + nu)

    minus the log of the prior, l2 / 2 * sum of squared utilities (Bradley and Terry 1952 have
    none). The prior keeps items finite that never lost or never won, which are certain where there
    are few answers, and two groups without a common comparison apart from infinity.

    Args:
        comparisons: the answers, in any order: the result does not depend on it.
        l2: 0.3 is ours; 0 is plain maximum likelihood, and then data must allow it.
        ties: what a score of 0.5 means.

    Raises:
        ValueError: no answer, an item against itself, another score than 0, 0.5 and 1, or l2 = 0
            with an item or a set of items that never lost to the others (Ford 1957, "Solution of a
            ranking problem from binary comparisons").
    """
    from scipy.optimize import minimize

    if l2 < 0:
        raise ValueError(f"l2: got {l2}, expected 0 or more")
    data = _read(comparisons, ties)
    group = data.groups()
    if l2 == 0 and not data.is_bounded():
        raise ValueError(
            "without a prior the utilities are infinite: some items never lost to the others. "
            "Give an l2 above 0"
        )
    size = len(data.items) + data.with_ties
    found = minimize(
        lambda p: data.loss(p, l2),
        np.zeros(size),
        jac=lambda p: data.gradient(p, l2),
        hessp=lambda p, v: data.curvature(p, l2) @ v,
        method="trust-ncg",
        options={"gtol": 1e-9, "maxiter": 500},
    ).x
    utility = found[: len(data.items)]
    # Without a prior nothing fixes the level of a group; with one this moves nothing.
    means = np.bincount(group, weights=utility) / np.bincount(group)
    utility = utility - means[group]
    nu = float(np.exp(found[-1])) if data.with_ties else 0.0
    return Ratings(data.items, utility, nu, group, data, l2 or 1e-9)


@dataclass(frozen=True)
class _Data:
    """Answers as arrays [N]: places of the items, score, weight and place of the prompt."""

    items: tuple[Hashable, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    score: Floats
    prompt: NDArray[np.int64]
    with_ties: bool

    @cached_property
    def _design(self) -> "csr_array":
        """[N, parameters]: half of e_first - e_second; the last column is log nu's."""
        from scipy.sparse import csr_array

        n = len(self.first)
        rows, half = np.arange(n), np.full(n, 0.5)
        return csr_array(
            (
                np.concatenate([half, -half]),
                (np.concatenate([rows, rows]), np.concatenate([self.first, self.second])),
            ),
            shape=(n, len(self.items)),
        )

    @cached_property
    def _is_tie(self) -> Floats:
        return (self.score == 0.5).astype(float) if self.with_ties else np.zeros(len(self.score))

    def _shares(self, parameters: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """d, log of the sum, E[first won - second won], P(tie), each [N]."""
        d = self._design @ parameters[: len(self.items)]
        terms = [d, -d] + ([np.full_like(d, parameters[-1])] if self.with_ties else [])
        log_sum = np.logaddexp.reduce(terms, axis=0)
        tie = np.exp(parameters[-1] - log_sum) if self.with_ties else np.zeros_like(d)
        return d, log_sum, np.exp(d - log_sum) - np.exp(-d - log_sum), tie

    def loss(self, parameters: Floats, l2: float) -> float:
        """Minus the log posterior."""
        d, log_sum, _, _ = self._shares(parameters)
        u = parameters[: len(self.items)]
        log_likelihood = ((2 * self.score - 1) * d - log_sum).sum()
        if self.with_ties:
            log_likelihood += self._is_tie.sum() * parameters[-1]
        return float(l2 / 2 * (u**2).sum() - log_likelihood)

    def scores(self, parameters: Floats) -> "csr_array":
        """[N, parameters]: gradient of each answer's log-likelihood."""
        from scipy.sparse import csr_array, diags_array, hstack

        _, _, lead, tie = self._shares(parameters)
        own = diags_array(2 * self.score - 1 - lead) @ self._design
        if not self.with_ties:
            return csr_array(own)
        return csr_array(hstack([own, (self._is_tie - tie)[:, None]]))

    def gradient(self, parameters: Floats, l2: float) -> Floats:
        """[parameters] of the loss."""
        total = -np.asarray(self.scores(parameters).sum(0)).ravel()
        total[: len(self.items)] += l2 * parameters[: len(self.items)]
        return total

    def curvature(self, parameters: Floats, l2: float) -> "csr_array":
        """[parameters, parameters] of the loss: the answers' variances, and the prior."""
        from scipy.sparse import block_array, csr_array, diags_array

        _, _, lead, tie = self._shares(parameters)
        design = self._design
        main = design.T @ diags_array(1 - tie - lead**2) @ design
        main = main + l2 * diags_array(np.ones(len(self.items)))
        if not self.with_ties:
            return csr_array(main)
        cross = csr_array((design.T @ (-lead * tie))[:, None])
        last = csr_array([[(tie * (1 - tie)).sum()]])
        return csr_array(block_array([[main, cross], [cross.T, last]]))

    def groups(self) -> NDArray[np.int64]:
        """[I] number of the connected group of each item."""
        return _components(self.first, self.second, len(self.items), "weak")

    def is_bounded(self) -> bool:
        """Whether in every group each item is reached from each by a chain of wins or ties."""
        won = self.score >= 0.5
        lost = self.score <= 0.5
        winners = np.concatenate([self.first[won], self.second[lost]])
        losers = np.concatenate([self.second[won], self.first[lost]])
        strong = _components(winners, losers, len(self.items), "strong")
        return int(strong.max()) == int(self.groups().max())


def _components(
    first: NDArray[np.int64], second: NDArray[np.int64], items: int, connection: str
) -> NDArray[np.int64]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    graph = csr_array((np.ones(len(first)), (first, second)), shape=(items, items))
    found = connected_components(graph, directed=True, connection=connection)[1]
    return found.astype(np.int64)


def _read(comparisons: Iterable[Comparison], ties: Ties) -> _Data:
    # In a fixed order, so that sums do not depend on the order in which answers came.
    rows = sorted(
        (row for row in comparisons if not (ties == "drop" and row.score == 0.5)),
        key=lambda row: (str(row.first), str(row.second), row.score, str(row.prompt)),
    )
    if not rows:
        raise ValueError("ratings need at least one comparison")
    for row in rows:
        if row.first == row.second:
            raise ValueError(f"{row.first!r} is compared with itself")
        if row.score not in (0, 0.5, 1):
            raise ValueError(f"score of a comparison: got {row.score}, expected 0, 0.5 or 1")
    named = {item for row in rows for item in (row.first, row.second)}
    items = tuple(sorted(named, key=str))
    place = {item: i for i, item in enumerate(items)}
    prompts: dict[Hashable, int] = {}
    numbers = [
        prompts.setdefault(("alone", n) if row.prompt is None else ("of", row.prompt), len(prompts))
        for n, row in enumerate(rows)
    ]
    score = np.array([row.score for row in rows], float)
    return _Data(
        items=items,
        first=np.array([place[row.first] for row in rows]),
        second=np.array([place[row.second] for row in rows]),
        score=score,
        prompt=np.array(numbers),
        with_ties=ties == "davidson" and bool((score == 0.5).any()),
    )
