"""From votes on pictures to a quality model, with what is needed to trust it or not.

Axes: K rows of embeddings (pictures first, then worse copies of some), N answers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from tastemaker.records.vote import Vote
from tastemaker.scorers.quality import LEVELS, QualityModel
from tastemaker.stats.ranks import By, ranks
from tastemaker.stats.repeats import gold_accuracy, repeat_agreement
from tastemaker.stats.utility import (
    Answers,
    HeldOut,
    Ints,
    best_possible,
    choose_l2,
    fit_utility,
    held_out_accuracy,
)
from tastemaker.stats.winrate import wilson
from tastemaker.training.pairwise_ranks import (
    PairwiseSettings,
    fit_comparer,
    fit_ranker,
    play_elo,
)

Method = Literal["utility", "pairwise"]

_SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True)
class Lesson:
    """What a model is trained on.

    Attributes:
        vectors: float32 [K, D].
        family: [K] which picture each row shows; worse copies share their picture's number.
        answers: among the rows, votes first, then the pairs of pictures and worse copies.
        blind: [N] which answers are to pairs that were drawn blindly.
        ranked: [M] rows of the pictures that ranks are quantiles of.
    """

    vectors: np.ndarray
    family: Ints
    answers: Answers
    blind: np.ndarray
    ranked: Ints


def lesson_of(
    votes: Sequence[Vote],
    ids: Sequence[str],
    vectors: np.ndarray,
    worse: Mapping[str, np.ndarray] = MappingProxyType({}),
    ranked: Collection[str] | None = None,
) -> Lesson:
    """Votes as rows of embeddings; skips, gold pairs and pictures without an embedding left out.

    Args:
        votes: that count.
        ids: the pictures.
        vectors: float32 [K, D], of the pictures.
        worse: picture -> embedding of a worse copy.
        ranked: pictures that ranks are quantiles of; None for all. The others teach as well.
    """
    place = {id_: number for number, id_ in enumerate(ids)}
    used = [
        v for v in votes if v.choice in _SCORE and v.reason != "gold" and {v.a, v.b} <= place.keys()
    ]
    copies = [id_ for id_ in worse if id_ in place]
    first = [place[v.a] for v in used] + [place[id_] for id_ in copies]
    second = [place[v.b] for v in used] + [len(ids) + n for n in range(len(copies))]
    score = [_SCORE[v.choice] for v in used] + [1.0] * len(copies)
    blind = [v.reason == "random" for v in used] + [False] * len(copies)
    rows = [vectors, *(worse[id_][None] for id_ in copies)]
    family = [*range(len(ids)), *(place[id_] for id_ in copies)]
    return Lesson(
        np.concatenate(rows).astype(np.float32),
        np.array(family, np.int64),
        Answers(np.array(first, np.int64), np.array(second, np.int64), np.array(score, float)),
        np.array(blind, bool),
        np.array([n for n, id_ in enumerate(ids) if ranked is None or id_ in ranked], np.int64),
    )


def train_utility(
    lesson: Lesson, facts: Mapping[str, Any], *, by: By, seed: int
) -> tuple[QualityModel, HeldOut, dict[str, Any]]:
    """The default: a linear utility; its ranks are those of the ranked pictures.

    Returns:
        The model, its accuracy on held-out pictures, and further figures.
    """

    def penalty(answers: Answers) -> float:
        return choose_l2(
            lesson.vectors, answers, lesson.family, np.random.default_rng([seed, len(answers)])
        )

    def margins(answers: Answers) -> Any:
        u = fit_utility(lesson.vectors, answers, penalty(answers))(lesson.vectors)
        return lambda first, second: u[first] - u[second]

    held = held_out_accuracy(
        margins, lesson.answers, lesson.blind, lesson.family, np.random.default_rng(seed)
    )
    l2 = penalty(lesson.answers)
    model = fit_utility(lesson.vectors, lesson.answers, l2)
    own = lesson.vectors[lesson.ranked]
    utility = model(own)
    arrays = {
        "w": model.weights,
        "b": np.array(model.bias),
        "mean": own.astype(np.float64).mean(0),
        "covariance": model.covariance,
        "edges": _edges(utility, by),
    }
    return QualityModel("utility", facts, arrays), held, {"l2": l2}


def train_pairwise(
    lesson: Lesson, facts: Mapping[str, Any], settings: PairwiseSettings, *, seed: int
) -> tuple[QualityModel, HeldOut, dict[str, Any]]:
    """The chain of bigASP. Returns as `train_utility` does."""
    vectors, answers = lesson.vectors, lesson.answers

    def margins(known: Answers) -> Any:
        comparer = fit_comparer(vectors, known, settings, seed)
        return lambda first, second: comparer.chances(vectors, first, second) - 0.5

    held = held_out_accuracy(
        margins, answers, lesson.blind, lesson.family, np.random.default_rng(seed)
    )
    comparer = fit_comparer(vectors, answers, settings, seed)
    random = np.random.default_rng([seed, 1])
    count = min(settings.elo_pictures, len(lesson.ranked))
    players = vectors[random.choice(lesson.ranked, count, replace=False)]
    ratings = play_elo(comparer, players, settings, seed)
    arrays = fit_ranker(players, ratings, settings, seed, LEVELS)
    figures = {
        "elo_pictures": count,
        "elo_low": float(ratings.min()),
        "elo_high": float(ratings.max()),
        "inconsistent_when_swapped": comparer.inconsistent(vectors, answers.first, answers.second),
    }
    return QualityModel("ranks", facts, arrays), held, figures


def trust(votes: Sequence[Vote], held: HeldOut) -> dict[str, Any]:
    """How good the model is, beside how good anything could be: for the report.

    Both are of blind pairs, so that they can be compared. Intervals are Wilson's over answers.
    Answers share pictures, so they are a little too narrow.
    """
    repeats = repeat_agreement(votes, of=("random",))
    same, again = (sum(pair[n] for pair in repeats.values()) for n in range(2))
    return {
        "accuracy_both_new": _share(held.both_right, held.both),
        "accuracy_one_new": _share(held.one_right, held.one),
        "repeat_consistency": _share(same, again),
        "best_possible_accuracy": best_possible(same / again) if again else None,
        "repeats": {rater: _share(*pair) for rater, pair in sorted(repeats.items())},
        "gold": {rater: _share(*pair) for rater, pair in sorted(gold_accuracy(votes).items())},
    }


def _share(right: int, total: int) -> dict[str, Any] | None:
    if total == 0:
        return None
    found = wilson(right, total)
    return {"value": found.estimate, "low": found.low, "high": found.high, "n": total}


def _edges(utility: np.ndarray, by: By) -> np.ndarray:
    """Where ranks begin: with `searchsorted(..., "right")` they are those of `stats.ranks`."""
    rank = ranks(utility, LEVELS, by=by)
    edges = np.empty(LEVELS - 1)
    for level in range(1, LEVELS):
        above = utility[rank >= level]
        edges[level - 1] = above.min() if len(above) else np.nextafter(utility.max(), np.inf)
    return edges
