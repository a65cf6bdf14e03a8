"""bigASP's chain of quality models: which of two pictures, then Elo, then ten ranks.

Source: bigASP, an SDXL fine-tuned on 1.44 million pictures. Its first network takes both pictures
at once, its second one alone; Elo makes a score of the first one's answers, and the second learns
the score. Kept because the source used it: the utility of `stats.utility` is better on every
measured set and needs no Elo (docs/rating.md).

Axes: K pictures, D numbers of an embedding, N answers, R ranks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tastemaker.records.config import Config
from tastemaker.stats.ranks import ranks
from tastemaker.stats.utility import Answers, Floats, Ints

if TYPE_CHECKING:
    import torch


class PairwiseSettings(Config):
    """Of the two networks and of Elo; bigASP's own values, but for what is called ours."""

    samples: int = Field(default=20_000, ge=1)
    """Pairs that each network is trained on, repeats counted (ours: bounds the time; the source
    has 100,000)."""
    batch: int = Field(default=512, ge=1)
    """Pairs of a step."""
    lr: float = Field(default=2e-4, gt=0)
    """Highest learning rate of the one-cycle course."""
    weight_decay: float = Field(default=2.0, ge=0)
    """Of AdamW."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """After the hidden layer."""
    hidden: int = Field(default=3072, ge=1)
    """Width of the first network's hidden layer; the second one has half of it."""
    elo_pictures: int = Field(default=8192, ge=2)
    """Pictures that Elo is played with, at most."""
    elo_rounds: int = Field(default=512, ge=1)
    """Rounds in which each picture meets one other (ours; the source has 8,192)."""
    elo_k: float = Field(default=10.0, gt=0)
    """Most that one game moves a rating; ratings start at 1500, and 400 are odds of 10 to 1."""
    neighbours: float = Field(default=0.7, ge=0)
    """Standard deviation, in ranks, of the target around a picture's rank (ours); 0 is the source's
    one rank."""


@dataclass(frozen=True)
class Comparer:
    """The first network."""

    network: Any

    def chances(self, vectors: np.ndarray, first: Ints, second: Ints) -> Floats:
        """[N] P(first is better)."""
        import torch

        with torch.no_grad():
            x = torch.from_numpy(vectors)
            logits = self.network(torch.stack([x[first], x[second]], 1))
            return logits.softmax(1)[:, 0].double().numpy()

    def halves(self, vectors: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
        """[K, hidden] what each picture adds to the hidden layer as the first, and as the second.

        That layer is linear in both pictures, so that a game costs no more than its activation.
        """
        import torch

        norm, _, hidden, *_ = self.network
        with torch.no_grad():
            first, second = hidden.weight.chunk(2, 1)
            x = norm(torch.from_numpy(vectors))
            return x @ first.T + hidden.bias, x @ second.T

    def wins(
        self, halves: tuple["torch.Tensor", "torch.Tensor"], first: Ints, second: Ints
    ) -> np.ndarray:
        """[N] Whether the first is likelier to be better, from `halves`."""
        import torch

        _, _, _, activation, _, last = self.network
        with torch.no_grad():
            logits = last(activation(halves[0][first] + halves[1][second]))
            return (logits[:, 0] > logits[:, 1]).numpy()

    def inconsistent(self, vectors: np.ndarray, first: Ints, second: Ints) -> float:
        """Share of pairs whose winner changes when the sides are swapped."""
        one = self.chances(vectors, first, second) > 0.5
        other = self.chances(vectors, second, first) > 0.5
        return float((one == other).mean())


def fit_comparer(
    vectors: np.ndarray, answers: Answers, settings: PairwiseSettings, seed: int
) -> Comparer:
    """Train the first network: LayerNorm, both sides one after the other, hidden layer, 2 logits.

    Every pair is seen in both orders, half of each batch is rounded to float16, a tie has the
    target 1/2, 1/2.

    Args:
        vectors: float32 [K, D].
        answers: among them.
        settings: see there.
        seed: of weights, order and dropout.
    """
    import torch

    width = vectors.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(width, 2 * width, settings.hidden, 2, settings.dropout)
        x = torch.from_numpy(vectors)
        first = torch.from_numpy(np.concatenate([answers.first, answers.second]))
        second = torch.from_numpy(np.concatenate([answers.second, answers.first]))
        score = torch.from_numpy(np.concatenate([answers.score, 1 - answers.score])).float()
        target = torch.stack([score, 1 - score], 1)

        def inputs(rows: "torch.Tensor") -> "torch.Tensor":
            return torch.stack([x[first[rows]], x[second[rows]]], 1)

        _train(network, inputs, target, settings)
    return Comparer(network)


def play_elo(
    comparer: Comparer, vectors: np.ndarray, settings: PairwiseSettings, seed: int
) -> Floats:
    """[K] ratings after all rounds; in each, everybody meets the next of a random circle.

    The result of a game is 1 or 0 by whichever is likelier, not the probability, as in the source.
    """
    random = np.random.default_rng(seed)
    ratings = np.full(len(vectors), 1500.0)
    halves = comparer.halves(vectors)
    for _ in range(settings.elo_rounds):
        circle = random.permutation(len(vectors))
        first, second = circle, np.roll(circle, -1)
        won = comparer.wins(halves, first, second)
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        moved = settings.elo_k * (won - expected)
        np.add.at(ratings, first, moved)
        np.add.at(ratings, second, -moved)
    return ratings


def fit_ranker(
    vectors: np.ndarray, ratings: Floats, settings: PairwiseSettings, seed: int, levels: int = 10
) -> dict[str, np.ndarray]:
    """Train the second network on ranks of equal width between the least and the highest rating.

    Returns:
        Weights by the names of `scorers.quality`.
    """
    import torch

    rank = ranks(ratings, levels, by="width")
    places = np.arange(levels)
    if settings.neighbours > 0:
        weights = np.exp(-(((places - rank[:, None]) / settings.neighbours) ** 2) / 2)
    else:
        weights = (places == rank[:, None]).astype(float)
    target = torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()
    width = vectors.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        half = max(1, settings.hidden // 2)
        network = _network(width, width, half, levels, settings.dropout)
        x = torch.from_numpy(vectors)[:, None]
        _train(network, lambda rows: x[rows], target, settings)
    norm, _, first, _, _, last = network
    named = {
        "norm_w": norm.weight,
        "norm_b": norm.bias,
        "w1": first.weight,
        "b1": first.bias,
        "w2": last.weight,
        "b2": last.bias,
    }
    return {name: value.detach().double().numpy() for name, value in named.items()}


def _network(width: int, wide: int, hidden: int, outputs: int, dropout: float) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Flatten(),
        nn.Linear(wide, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )


def _train(network: Any, inputs: Any, target: "torch.Tensor", settings: PairwiseSettings) -> None:
    import torch

    batch = min(settings.batch, len(target))
    steps = max(2, settings.samples // batch)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(target), (batch,), generator=torch.default_generator)
        x = inputs(rows)
        # As stored embeddings are rounded, so may those be that it is asked about.
        x = torch.cat([x[: batch // 2].half().float(), x[batch // 2 :]])
        loss = torch.nn.functional.cross_entropy(network(x), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.step()
    network.eval()
