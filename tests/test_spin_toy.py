"""SPIN where it can be seen whole: points in the plane, a small network, one iteration."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tastemaker.objectives.dpo import ANCHOR, DPO, WinnerSFT
from tastemaker.objectives.protocol import PairBatch
from tests.pair_batches import schedule_of

SCHEDULE = schedule_of()
POINTS, STEPS, BATCH, LR = 1024, 50, 128, 2e-4


class Plane(nn.Module):
    """The noise in points `[B, 2, 1, 1]`, from the point and eight waves of the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        angle = math.pi * t.float()[:, None] / 1000 * torch.tensor([0.5, 1.0, 2.0, 4.0])
        return self.layers(torch.cat([x.flatten(1), angle.sin(), angle.cos()], 1)).view_as(x)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real(seed: int) -> Tensor:
    """Two round clouds beside each other."""
    centres = torch.tensor([[1.2, 0.4], [0.4, 1.2]])
    chosen = centres[torch.randint(0, 2, (POINTS,), generator=rng(seed))]
    points = chosen + 0.25 * torch.randn(POINTS, 2, generator=rng(seed + 1))
    return points.view(POINTS, 2, 1, 1)


@torch.no_grad()
def drawn(network: nn.Module, seed: int) -> Tensor:
    """DDIM in 40 steps."""
    x = torch.randn(POINTS, 2, 1, 1, generator=rng(seed))
    steps = torch.linspace(999, 0, 40).round().long()
    for number, t in enumerate(steps):
        now = SCHEDULE.alpha_bar[t].float()
        last = number + 1 == len(steps)
        then = torch.tensor(1.0) if last else SCHEDULE.alpha_bar[steps[number + 1]].float()
        noise = network(x, t.expand(POINTS), x)
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * noise
    return x


def distance(a: Tensor, b: Tensor) -> float:
    """Energy distance of two clouds: 0 where they are one distribution (Szekely, Rizzo 2013)."""
    a, b = a.flatten(1), b.flatten(1)
    within = torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    return float(2 * torch.cdist(a, b).mean() - within)


def fitted(
    start: nn.Module,
    objective: DPO | WinnerSFT,
    winners: Tensor,
    losers: Tensor,
    seed: int,
    steps: int = STEPS,
    lr: float = LR,
) -> nn.Module:
    """The network after some steps against where it started from."""
    network, draw = copy.deepcopy(start), rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    cond, label = torch.zeros(2 * BATCH), torch.ones(BATCH)
    for _ in range(steps):
        chosen = torch.randint(0, POINTS, (BATCH,), generator=draw)
        noise = torch.randn(BATCH, 2, 1, 1, generator=draw)
        t = torch.randint(0, 1000, (BATCH,), generator=draw)
        batch = PairBatch(winners[chosen], losers[chosen], noise, t, cond, label)
        terms = objective(network, {ANCHOR: start}, batch, SCHEDULE)
        optimizer.zero_grad()
        terms.per_sample.mean().backward()
        optimizer.step()
    return network


@pytest.fixture(scope="module")
def base() -> nn.Module:
    """A model of something broader than the real points."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Plane()
    broad = torch.randn(POINTS, 2, 1, 1, generator=rng(1))
    return fitted(network, WinnerSFT(), broad, broad, 2, steps=1500, lr=2e-3)


@pytest.mark.parametrize("seed", [100, 200, 300])
def test_one_iteration_comes_nearer_to_the_data_than_fine_tuning(base, seed: int) -> None:
    """Same real points, steps, rate and noise; the losers are the model's own."""
    winners, unseen = real(seed), real(seed + 10)
    own = drawn(base, seed + 20)
    spin = fitted(base, DPO(beta=5.0, convention="spin"), winners, own, seed)
    sft = fitted(base, WinnerSFT(), winners, own, seed)
    before, tuned, played = (
        distance(drawn(network, seed + 30), unseen) for network in (base, sft, spin)
    )
    assert played < 0.8 * tuned < 0.4 * before


def test_a_model_that_draws_like_the_data_has_nothing_to_win(base) -> None:
    """With losers from the winners' own distribution the points stay where they are."""
    own = drawn(base, 7)
    spin = fitted(base, DPO(beta=5.0, convention="spin"), drawn(base, 8), own, 9)
    moved = distance(drawn(spin, 10), drawn(base, 11))
    aside = distance(drawn(fitted(base, DPO(beta=5.0), real(12), own, 9), 10), drawn(base, 11))
    assert moved < 0.1 * aside
