"""How far two sets of pictures are from each other, from the features of a frozen network.

Both figures depend on the network, on its preprocessing and on how many pictures there are, so they
are compared only with figures of the same ones. They say nothing of a single picture, nor of texts.

Axes: features are `[N, D]` and `[M, D]`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUBSETS, SUBSET_SIZE = 100, 1000
"""Subsets of a kernel distance, and pictures in each: those of its authors' code."""


@dataclass(frozen=True)
class KernelDistance:
    """An estimate that has no bias, so it may fall below zero where the sets are alike.

    Attributes:
        mean: over subsets.
        std: over subsets (n - 1); it tells how much the choice of pictures matters, and it is no
            confidence interval: subsets share pictures.
        subsets: how many there were.
        subset_size: pictures of each set in one of them.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Squared 2-Wasserstein distance of two normal distributions fitted to the features (FID).

        |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

    Heusel et al. 2017, "GANs trained by a two time-scale update rule", equation 6. The trace of the
    root is taken from the eigenvalues of that symmetric product, which cannot become complex.

    Args:
        first: features of one set.
        second: of the other one.

    Raises:
        ValueError: a set has no more pictures than numbers in a feature: its covariance has no full
            rank, and the figure would tell of that rather than of the pictures.
    """
    x, y = _checked(first, second)
    for values in (x, y):
        if len(values) <= values.shape[1]:
            raise ValueError(
                f"{len(values)} pictures for features of {values.shape[1]} numbers: a Frechet "
                f"distance needs more pictures than numbers, at least {values.shape[1] + 1}"
            )
    means = x.mean(axis=0) - y.mean(axis=0)
    left, right = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    left, right = np.atleast_2d(left), np.atleast_2d(right)
    sizes, directions = np.linalg.eigh(left)
    root = (directions * np.sqrt(sizes.clip(min=0))) @ directions.T
    shared = np.linalg.eigvalsh(root @ right @ root).clip(min=0)
    found = means @ means + np.trace(left) + np.trace(right) - 2 * np.sqrt(shared).sum()
    return max(float(found), 0.0)


def kernel_distance(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, without bias (KID).

        1/(m(m-1)) sum_{i!=j} [k(x_i, x_j) + k(y_i, y_j)]  -  2/m^2 sum_{i,j} k(x_i, y_j)

    Binkowski et al. 2018, "Demystifying MMD GANs", section 4; the mean over random subsets of m.

    Args:
        first: features of one set.
        second: of the other one.
        subsets: how many are drawn.
        subset_size: pictures of each set in a subset; at most half of the smaller set (ours), since
            subsets that hold nearly everything hardly differ.
        seed: of the draws.

    Raises:
        ValueError: fewer than 4 pictures in a set, or features of two widths.
    """
    x, y = _checked(first, second)
    if min(len(x), len(y)) < 4:
        raise ValueError(f"{len(x)} and {len(y)} pictures: a kernel distance needs at least 4 each")
    size = min(subset_size, min(len(x), len(y)) // 2)
    rng = np.random.default_rng(seed)
    found = [
        _squared_mmd(
            x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)]
        )
        for _ in range(subsets)
    ]
    spread = float(np.std(found, ddof=1)) if subsets > 1 else 0.0
    return KernelDistance(float(np.mean(found)), spread, subsets, size)


def _squared_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The unbiased estimate for two sets of one size."""
    count, width = x.shape
    own = sum(
        kernel.sum() - np.trace(kernel)
        for kernel in ((x @ x.T / width + 1) ** 3, (y @ y.T / width + 1) ** 3)
    )
    across = ((x @ y.T / width + 1) ** 3).sum()
    return float(own / (count * (count - 1)) - 2 * across / count**2)


def _checked(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features [N, D] and [M, D] of one width; got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features that are not finite")
    return x, y
