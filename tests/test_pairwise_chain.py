"""bigASP's chain against plain numbers: its networks, its augmentations, its Elo, its ten ranks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from tastemaker.records.vote import Vote
from tastemaker.scorers.quality import QualityModel
from tastemaker.stats.utility import Answers, held_out_accuracy
from tastemaker.training import pairwise_ranks
from tastemaker.training.corruption import corrupted
from tastemaker.training.pairwise_ranks import (
    PairwiseSettings,
    fit_comparer,
    fit_ranker,
    play_elo,
)
from tastemaker.training.quality import lesson_of, train_utility

SMALL = PairwiseSettings(
    samples=3000, batch=50, hidden=24, lr=3e-3, weight_decay=0.1, elo_rounds=12, neighbours=0.0
)


def vectors(count: int = 30, width: int = 6) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(count, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def answers(x: np.ndarray, count: int = 200) -> Answers:
    """The first number of a picture is how good it is."""
    random = np.random.default_rng(1)
    first = random.integers(len(x), size=count)
    second = (first + random.integers(1, len(x), size=count)) % len(x)
    return Answers(first, second, (x[first, 0] > x[second, 0]).astype(float))


def normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


@pytest.fixture(scope="module")
def comparer() -> pairwise_ranks.Comparer:
    x = vectors()
    return fit_comparer(x, answers(x), SMALL, seed=0)


def test_a_pair_is_two_normed_pictures_one_after_the_other(comparer) -> None:
    x = vectors()
    norm, _, hidden, _, _, last = comparer.network
    a, b, w1, b1, w2, b2 = (
        value.detach().double().numpy()
        for value in (norm.weight, norm.bias, hidden.weight, hidden.bias, last.weight, last.bias)
    )
    assert w1.shape == (24, 12)
    first, second = np.divmod(np.arange(900), 30)
    chances = comparer.chances(x, first, second)
    wins = comparer.wins(comparer.halves(x), first, second)
    for n in range(0, 900, 7):
        pair = np.concatenate([normed(x[i].astype(float), a, b) for i in (first[n], second[n])])
        logits = w2 @ gelu(w1 @ pair + b1) + b2
        wanted = 1 / (1 + math.exp(logits[1] - logits[0]))
        assert chances[n] == pytest.approx(wanted, abs=1e-5)
        if abs(wanted - 0.5) > 1e-4:
            assert wins[n] == (wanted > 0.5)
    known = answers(x)
    right = (comparer.chances(x, known.first, known.second) > 0.5) == (known.score > 0.5)
    assert right.mean() > 0.8


def test_every_pair_is_seen_in_both_orders_and_half_of_a_batch_is_rounded(monkeypatch) -> None:
    x = vectors()
    known = answers(x, 20)
    known.score[0] = 0.5
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    real = torch.nn.functional.cross_entropy
    inputs: list[torch.Tensor] = []

    def network(*sizes: Any) -> Any:
        made = real_network(*sizes)
        made.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        return made

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((inputs[-1].numpy(), target.numpy()))
        return real(logits, target)

    real_network = pairwise_ranks._network
    monkeypatch.setattr(pairwise_ranks, "_network", network)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", loss)
    fit_comparer(x, known, SMALL, seed=0)
    wanted = {}
    for a, b, s in zip(known.first, known.second, known.score, strict=True):
        wanted[x[a].tobytes() + x[b].tobytes()] = (s, 1 - s)
        wanted[x[b].tobytes() + x[a].tobytes()] = (1 - s, s)
    found = set()
    for batch, target in seen:
        half = len(batch) // 2
        assert (batch[:half] == batch[:half].astype(np.float16)).all()
        for pair, told in zip(batch[half:], target[half:], strict=True):
            assert wanted[pair.tobytes()] == tuple(told.tolist())
            found.add(pair.tobytes())
    assert found == set(wanted)
    assert len(seen) == SMALL.samples // len(seen[0][0])


def test_elo_is_played_in_circles_with_the_likelier_winner(comparer) -> None:
    x = vectors()
    ratings = [1500.0] * len(x)
    random = np.random.default_rng(5)
    for _ in range(SMALL.elo_rounds):
        circle = random.permutation(len(x)).tolist()
        moved = [0.0] * len(x)
        for place, a in enumerate(circle):
            b = circle[(place + 1) % len(x)]
            chance = comparer.chances(x, np.array([a]), np.array([b]))[0]
            gain = 10 * ((chance > 0.5) - 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400)))
            moved[a] += gain
            moved[b] -= gain
        ratings = [old + new for old, new in zip(ratings, moved, strict=True)]
    found = play_elo(comparer, x, SMALL, seed=5)
    np.testing.assert_allclose(found, ratings, rtol=1e-12)
    assert found.mean() == pytest.approx(1500)


def test_a_rank_is_the_likeliest_of_ten_and_its_targets_are_the_networks(tmp_path) -> None:
    x = vectors(120)
    ratings = 1500 + 300 * x[:, 0].astype(float)
    settings = SMALL.model_copy(update={"samples": 40_000})
    arrays = fit_ranker(x, ratings, settings, seed=0)
    QualityModel("ranks", {"column": "e"}, arrays).save(tmp_path)
    model = QualityModel.read(tmp_path)
    utility, error, targets = model.judge(x)
    for n in range(0, 120, 11):
        hidden = gelu(
            arrays["w1"] @ normed(x[n].astype(float), arrays["norm_w"], arrays["norm_b"])
            + arrays["b1"]
        )
        logits = arrays["w2"] @ hidden + arrays["b2"]
        wanted = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(targets[n], wanted, rtol=1e-5, atol=1e-7)
        mean = sum(k * p for k, p in enumerate(wanted))
        assert utility[n] == pytest.approx(mean, rel=1e-6)
        spread = math.sqrt(sum((k - mean) ** 2 * p for k, p in enumerate(wanted)))
        assert error[n] == pytest.approx(spread, rel=1e-5)
    # Equal widths from the least to the highest rating, as the source has it.
    width = (ratings.max() - ratings.min()) / 10
    wanted = np.minimum((ratings - ratings.min()) // width, 9)
    found = np.array([row["rank"] for row in model.rows(x)])
    assert spearmanr(found, wanted).statistic > 0.85


def test_worse_copies_are_blurred_or_compressed() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)
    again = corrupted(pixels, np.random.default_rng(1))
    np.testing.assert_array_equal(again, corrupted(pixels, np.random.default_rng(1)))
    blurred = 0
    for seed in range(40):
        worse = corrupted(pixels, np.random.default_rng(seed))
        assert worse.shape == pixels.shape
        assert worse.dtype == np.uint8
        detail = np.abs(np.diff(worse.astype(float), axis=0)).mean()
        blurred += detail < 45
        assert detail < np.abs(np.diff(pixels.astype(float), axis=0)).mean()
    assert 12 <= blurred <= 28
    # A large picture is blurred by the source's own radius: a grain of noise is gone.
    large = np.asarray(Image.fromarray(pixels).resize((1024, 1024), Image.Resampling.NEAREST))
    assert corrupted(large, np.random.default_rng(0)).shape == large.shape


def votes(x: np.ndarray, count: int = 150) -> list[Vote]:
    known = answers(x, count)
    return [
        Vote(f"v{n}", "", f"p{a}", f"p{b}", "a", "r", "a" if s else "b")
        for n, (a, b, s) in enumerate(zip(known.first, known.second, known.score, strict=True))
    ]


def test_no_picture_and_none_of_its_copies_is_on_both_sides_of_a_split() -> None:
    x = vectors()
    ids = [f"p{n}" for n in range(len(x))]
    worse = {id_: x[n] * 0.9 for n, id_ in enumerate(ids[:12])}
    lesson = lesson_of(votes(x), ids, x, worse)
    assert lesson.answers.score[-12:].tolist() == [1.0] * 12
    assert not lesson.blind[-12:].any()
    asked = {"both": 0, "one": 0}

    def fit(known: Answers):
        trained = set(lesson.family[np.concatenate([known.first, known.second])].tolist())

        def margins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            is_new = [
                [picture not in trained for picture in lesson.family[side].tolist()]
                for side in (first, second)
            ]
            both = np.array(is_new[0]) & np.array(is_new[1])
            asked["both"] += int((both & lesson.blind).sum())
            asked["one"] += int((np.array(is_new[0]) & lesson.blind).sum())
            # Wrong wherever a picture of the fold has been trained on.
            right = np.where(lesson.answers.score > 0.5, 1.0, -1.0)
            return np.where(np.array(is_new[0]), right, -right)

        return margins

    held = held_out_accuracy(
        fit, lesson.answers, lesson.blind, lesson.family, np.random.default_rng(0)
    )
    assert held.one_right == held.one == 150
    assert 0 < held.both == held.both_right <= asked["both"]


def test_ranks_are_of_the_selection_and_all_votes_teach() -> None:
    x = vectors(60)
    ids = [f"p{n}" for n in range(len(x))]
    upper = {id_ for n, id_ in enumerate(ids) if x[n, 0] > 0}
    whole = lesson_of(votes(x), ids, x)
    some = lesson_of(votes(x), ids, x, ranked=upper)
    assert len(some.answers) == len(whole.answers) == 150
    model, _, _ = train_utility(some, {}, by="quantile", seed=0)
    other, _, _ = train_utility(whole, {}, by="quantile", seed=0)
    np.testing.assert_allclose(model.arrays["w"], other.arrays["w"], rtol=1e-9)
    ranks = {id_: row["rank"] for id_, row in zip(ids, model.rows(x), strict=True)}
    counts = np.bincount([ranks[i] for i in upper], minlength=10)
    assert counts.max() - counts.min() <= 1
    assert np.mean([ranks[i] for i in ids if i not in upper]) < 2
