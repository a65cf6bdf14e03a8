"""Which timesteps a pair can learn from, and how the tasks ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.records.draws import Draw


class TimestepDraws(Protocol):
    """How timesteps are drawn; `diffusion.timesteps.TimestepChoice` is one."""

    @property
    def among(self) -> Sequence[int]:
        """The timesteps that may be drawn, lowest first."""
        ...

    def __call__(self, draws: Sequence[Draw]) -> Tensor:
        """One timestep a draw, int64 [B] on the CPU."""
        ...


@dataclass(frozen=True)
class EvenDraws:
    """Every timestep of `among` exactly as often as another."""

    among: Sequence[int]

    def __call__(self, draws: Sequence[Draw]) -> Tensor:
        """One timestep a draw, int64 [B] on the CPU."""
        return torch.tensor([self.among[d.integer(len(self.among))] for d in draws])


def informative(schedule: DiscreteSchedule, among: Sequence[int] | None = None) -> tuple[int, ...]:
    """The timesteps with a signal: where alpha_bar is 0 both sides of a pair are the same noise.

    With one noise for winner and loser, the margin and its gradient are exactly 0 there and the
    loss is exactly ln 2: a wasted step. Of SDXL-Turbo's 249, 499, 749, 999 on a schedule of zero
    terminal SNR this leaves the first three; the public DPO codes draw all four.

    Args:
        schedule: of the model.
        among: what would be drawn else, such as a preset's own timesteps; None for all.

    Raises:
        ValueError: none is left.
    """
    last = schedule.last_informative
    left = tuple(t for t in (range(len(schedule)) if among is None else among) if t <= last)
    if not left:
        raise ValueError("no timestep with a signal is left for pairs")
    return left
