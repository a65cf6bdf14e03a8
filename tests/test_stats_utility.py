"""A utility from pairs: against plain logistic regression, and honest about new pictures."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

from tastemaker.records.vote import Vote
from tastemaker.stats.ranks import ranks
from tastemaker.stats.repeats import gold_accuracy, repeat_agreement
from tastemaker.stats.utility import (
    Answers,
    best_possible,
    choose_l2,
    fit_utility,
    folds_of,
    held_out_accuracy,
    rank_probabilities,
)
from tastemaker.training.quality import _edges


def world(seed: int, pictures: int = 300, answers: int = 1500, noise: float = 1.0):
    """Unit vectors with a linear taste, and noisy answers."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(pictures, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = 8 * vectors @ random.normal(size=16) / 2
    first = random.integers(pictures, size=answers)
    second = (first + random.integers(1, pictures, size=answers)) % pictures
    chance = 1 / (1 + np.exp((truth[second] - truth[first]) / noise))
    score = (random.random(answers) < chance).astype(float)
    return vectors.astype(np.float32), truth, Answers(first, second, score)


def test_the_fit_is_that_of_an_independent_transcription() -> None:
    vectors, _, answers = world(0, pictures=40, answers=200)
    l2 = 2.0
    x = vectors.astype(float)
    mean = x.mean(0)
    scale = np.sqrt(((x - mean) ** 2).mean())
    z = (x - mean) / scale

    def loss(w: np.ndarray) -> float:
        total = l2 / 2 * (w**2).sum()
        for a, b, s in zip(answers.first, answers.second, answers.score, strict=True):
            p = 1 / (1 + np.exp(-(z[a] - z[b]) @ w))
            total -= s * np.log(p) + (1 - s) * np.log(1 - p)
        return total

    w = minimize(loss, np.zeros(16), method="BFGS", options={"gtol": 1e-6}).x
    model = fit_utility(vectors, answers, l2)
    np.testing.assert_allclose(model(vectors), z @ w, atol=2e-4)
    assert model(vectors).mean() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="above 0"):
        fit_utility(vectors, answers, 0.0)


def test_turning_pairs_round_changes_nothing() -> None:
    vectors, _, answers = world(1, 60, 300)
    turned = Answers(answers.second, answers.first, 1 - answers.score)
    one, other = fit_utility(vectors, answers, 1.0), fit_utility(vectors, turned, 1.0)
    np.testing.assert_allclose(one(vectors), other(vectors), atol=1e-4)


def test_it_finds_the_taste_and_says_how_well() -> None:
    vectors, truth, answers = world(2)
    family = np.arange(len(vectors))
    random = np.random.default_rng(0)
    l2 = choose_l2(vectors, answers, family, random)
    model = fit_utility(vectors, answers, l2)
    assert spearmanr(model(vectors), truth).statistic > 0.95

    def fit(known: Answers):
        u = fit_utility(vectors, known, 1.0)(vectors)
        return lambda a, b: u[a] - u[b]

    blind = np.ones(len(answers), bool)
    held = held_out_accuracy(fit, answers, blind, family, random)
    assert held.both > 200
    assert held.one > 3 * held.both
    assert 0.75 < held.both_right / held.both < 0.97
    errors = model.errors(vectors, vectors.astype(float).mean(0))
    assert 0.02 < errors.mean() < 1.0


def test_answers_without_taste_are_not_predicted() -> None:
    """Held-out accuracy of noise is one half; that of the fit itself is far above."""
    vectors, _, answers = world(3, 100, 600)
    coin = np.random.default_rng(5).integers(0, 2, len(answers)).astype(float)
    noise = Answers(answers.first, answers.second, coin)

    def fit(known: Answers):
        u = fit_utility(vectors, known, 0.1)(vectors)
        return lambda a, b: u[a] - u[b]

    random = np.random.default_rng(0)
    family = np.arange(len(vectors))
    held = held_out_accuracy(fit, noise, np.ones(len(noise), bool), family, random)
    assert abs(held.one_right / held.one - 0.5) < 0.07
    assert choose_l2(vectors, noise, family, random) >= 10


def test_only_blind_pairs_are_counted_and_ties_are_not() -> None:
    vectors, _, answers = world(4, 50, 200)
    blind = np.zeros(200, bool)
    blind[:30] = True
    score = answers.score.copy()
    score[:10] = 0.5
    some = Answers(answers.first, answers.second, score)
    held = held_out_accuracy(
        lambda _: lambda a, b: np.ones(len(a)),
        some,
        blind,
        np.arange(50),
        np.random.default_rng(0),
    )
    assert held.one == 20
    assert 0 < held.both < 20
    # What calls all pictures alike is never right.
    alike = held_out_accuracy(
        lambda _: lambda a, b: np.zeros(len(a)),
        some,
        blind,
        np.arange(50),
        np.random.default_rng(0),
    )
    assert (alike.one_right, alike.one) == (0, 20)


def test_worse_copies_stay_with_their_picture() -> None:
    """A copy in the training set would tell of its held-out picture."""
    family = np.concatenate([np.arange(20), np.arange(20)])
    of = folds_of(family, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(of[:20], of[20:])
    assert np.bincount(of[:20]).tolist() == [5, 5, 5, 5]


def test_edges_give_the_same_ranks_as_the_scores() -> None:
    utility = np.random.default_rng(0).normal(size=237)
    for by in ("quantile", "width"):
        edges = _edges(utility, by)
        found = np.searchsorted(edges, utility, side="right")
        np.testing.assert_array_equal(found, ranks(utility, 10, by=by))


def test_rank_probabilities_are_ordinal_targets() -> None:
    edges = np.linspace(-4, 4, 9)
    sure = rank_probabilities(np.array([-9.0, 0.5, 9.0]), np.full(3, 1e-6), edges)
    assert sure.argmax(1).tolist() == [0, 5, 9]
    np.testing.assert_allclose(sure.sum(1), 1, atol=1e-6)
    unsure = rank_probabilities(np.array([0.5]), np.array([1.0]), edges)[0]
    assert unsure.argmax() == 5
    assert unsure[5] > unsure[4] > unsure[3] > unsure[0]


def test_best_possible_accuracy() -> None:
    assert best_possible(1.0) == 1.0
    assert best_possible(0.8**2 + 0.2**2) == pytest.approx(0.8)
    assert best_possible(0.4) == 0.5


def vote(n: int, choice: str, reason: str = "random", rater: str = "r", **other) -> Vote:
    values = {"id": f"v{n}-{choice}-{reason}-{rater}", "prompt": "", "a": f"a{n}", "b": f"b{n}"}
    return Vote(**values | {"left": "a"} | other, rater=rater, choice=choice, reason=reason)


def test_repeats_are_compared_with_the_first_answer_whatever_the_order_of_sides() -> None:
    votes = [vote(0, "a"), vote(1, "b"), vote(2, "tie"), vote(3, "a", rater="s")]
    votes += [vote(0, "b", "repeat", a="b0", b="a0"), vote(1, "a", "repeat")]
    votes += [vote(2, "a", "repeat"), vote(3, "a", "repeat", "r")]
    assert repeat_agreement(votes) == {"r": (1, 2)}
    assert repeat_agreement(votes, of=("random",)) == {"r": (1, 2)}
    close = [vote(0, "a", "active"), vote(0, "b", "repeat"), *votes]
    assert repeat_agreement(close, of=("random",)) == {"r": (1, 2)}
    assert repeat_agreement(close) == {"r": (1, 3)}
    gold = [vote(n, c, "gold") for n, c in enumerate(["a", "b", "tie", "skip"])]
    assert gold_accuracy(gold) == {"r": (1, 3)}
