"""FID and KID beside independent transcriptions of their papers, and what they must not do."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from tastemaker.scorers.set_distance import SetDistance, set_distance_lines
from tastemaker.stats.feature_distance import frechet_distance, kernel_distance


def normal(rows: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width)) / width**0.5
    return (rng.normal(size=(rows, width)) @ mix) * scale + shift


def fid_of_the_paper(x: np.ndarray, y: np.ndarray) -> float:
    left, right = np.cov(x.T), np.cov(y.T)
    root = sqrtm(left @ right)
    means = x.mean(0) - y.mean(0)
    return float(means @ means + np.trace(left + right - 2 * np.real(root)))


def mmd_of_the_paper(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m = len(x)
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / (m * (m - 1))
    return within - 2 / m**2 * sum(k(a, b) for a in x for b in y)


@pytest.mark.parametrize("width", [1, 3, 12])
def test_frechet_distance_is_the_papers(width: int) -> None:
    x, y = normal(60, width, 0), normal(45, width, 1, scale=1.4, shift=0.3)
    if width == 1:
        expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    else:
        expected = fid_of_the_paper(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2.0) == pytest.approx(4.0 * width, rel=1e-9)


def test_frechet_distance_wants_more_pictures_than_numbers() -> None:
    x = normal(13, 12, 0)
    assert frechet_distance(x, x + 1) > 0
    with pytest.raises(ValueError, match="12 pictures for features of 12 numbers.*at least 13"):
        frechet_distance(x, x[:12])


def test_kernel_distance_is_the_papers() -> None:
    x, y = normal(20, 4, 0), normal(16, 4, 1, shift=0.5)
    found = kernel_distance(x, y, subsets=5, subset_size=6, seed=3)
    rng = np.random.default_rng(3)
    expected = [
        mmd_of_the_paper(x[rng.choice(20, 6, replace=False)], y[rng.choice(16, 6, replace=False)])
        for _ in range(5)
    ]
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.std == pytest.approx(np.std(expected, ddof=1), rel=1e-12)
    assert (found.subsets, found.subset_size) == (5, 6)


def test_kernel_distance_has_no_bias() -> None:
    """Over draws of one distribution its mean is zero, whatever the number of pictures."""
    found = [
        kernel_distance(normal(24, 6, 2 * n), normal(24, 6, 2 * n + 1), subsets=2).mean
        for n in range(400)
    ]
    error = np.std(found, ddof=1) / len(found) ** 0.5
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0
    assert kernel_distance(normal(24, 6, 0), normal(24, 6, 1, shift=2)).mean > 10 * np.std(found)


def test_subsets_are_smaller_than_the_sets_and_repeat_with_the_seed() -> None:
    x, y = normal(10, 3, 0), normal(7, 3, 1)
    assert kernel_distance(x, y).subset_size == 3
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    assert kernel_distance(x, y, seed=1) != kernel_distance(x, y, seed=2)
    for bad, message in (
        ((x[:3], y), "at least 4"),
        ((x, y[:, :2]), "one width"),
        ((x * np.nan, y), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_distance(*bad)


class Network:
    backbone = "net@1"

    def features(self, pictures: object) -> np.ndarray:
        raise NotImplementedError


def test_lines_say_what_could_not_be_had() -> None:
    real, many, few = normal(30, 8, 0), normal(20, 8, 1), normal(6, 8, 2)
    lines, notes = set_distance_lines(
        SetDistance(subsets=4), Network(), real, {"before": few, "after": many}, seed=0
    )
    kid, fid = lines
    assert (kid["name"], fid["name"], kid["backbone"], kid["real"]) == ("kid", "fid", "net@1", 30)
    assert set(kid["models"]) == {"before", "after"}
    assert set(fid["models"]) == {"after"}
    assert kid["models"]["before"]["pictures"] == 6
    assert kid["models"]["after"]["subset_size"] == 10
    assert notes == [
        "No Frechet distance of before: 6 pictures for features of 8 numbers: a Frechet distance "
        "needs more pictures than numbers, at least 9."
    ]
    only = set_distance_lines(SetDistance(fid=False), Network(), real, {"a": many}, seed=0)
    assert [line["name"] for line in only[0]] == ["kid"]
