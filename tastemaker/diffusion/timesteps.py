"""Which noise level each sample is trained at."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tastemaker.records.draws import Draw


def timestep(draw: Draw, least: int, most: int) -> int:
    """One whole number, uniform over least..most, **both included**.

    A hard range, as in "SDXL is a slow learner" (no high-level noise), not a soft bias.

    Args:
        draw: key of the decision, by custom with purpose `timestep`.
        least: lowest timestep, 0 for none excluded.
        most: highest timestep, `len(schedule) - 1` for none excluded.

    Raises:
        ValueError: the range is empty or below 0.
    """
    if not 0 <= least <= most:
        raise ValueError(f"timestep range {least}..{most} is empty or below 0")
    return least + draw.integer(most - least + 1)


def timesteps(draws: Sequence[Draw], least: int, most: int) -> Int[Tensor, " B"]:
    """One timestep a draw, int64 [B] on the CPU; see `timestep`."""
    return torch.tensor([timestep(draw, least, most) for draw in draws], dtype=torch.int64)
