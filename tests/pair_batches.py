"""Batches of pairs in float64, a denoiser that uses all it is given, its errors anew in numpy."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.objectives.dpo import ANCHOR
from tastemaker.objectives.protocol import PairBatch

SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
CELLS = 2 * 3 * 4


def schedule_of(prediction: str = "epsilon", zero: bool = False) -> DiscreteSchedule:
    return DiscreteSchedule.from_config(
        {**SDXL, "prediction_type": prediction, "rescale_betas_zero_snr": zero}
    )


def batch_of(count: int = 5, dtype: torch.dtype = torch.float64) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    winner, loser, noise = torch.randn(
        3, count, 2, 3, 4, generator=generator, dtype=torch.float64
    ).to(dtype)
    offset = torch.randn(count, 2, generator=generator, dtype=torch.float64).to(dtype)
    cond = torch.linspace(-1, 1, 2 * count, dtype=torch.float64).to(dtype)
    t = torch.tensor([0, 100, 500, 900, 998] * 13)[:count]
    label = torch.tensor([1.0, 0.5, 1.0, 0.9, 1.0] * 13, dtype=torch.float64)[:count]
    return PairBatch(winner, loser, noise, t, cond, label, offset)


def rows(batch: PairBatch, chosen: list[int]) -> PairBatch:
    count = len(batch.t)
    both = [*chosen, *(count + n for n in chosen)]
    fields = {
        "cond": batch.cond[both],
        **{n: getattr(batch, n)[chosen] for n in ("winner", "loser", "noise", "t", "label")},
    }
    offset = None if batch.offset is None else batch.offset[chosen]
    return dataclasses.replace(batch, offset=offset, **fields)


def swapped(batch: PairBatch) -> PairBatch:
    count = len(batch.t)
    cond = torch.cat([batch.cond[count:], batch.cond[:count]])
    return dataclasses.replace(batch, winner=batch.loser, loser=batch.winner, cond=cond)


def network(scale: Any) -> Any:
    """A denoiser that uses all it is given, sample by sample."""

    def denoise(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        steps = 0.001 * t.to(x_t.dtype)[:, None, None, None]
        return torch.tanh(scale * x_t) * cond.to(x_t.dtype)[:, None, None, None] + steps

    return denoise


POLICY, REFERENCE = network(1.3), {ANCHOR: network(0.8)}


def transcribed_errors(
    batch: PairBatch, schedule: DiscreteSchedule, scale: float, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors [2, B] as means, as sums, and the timestep's alpha_bar, anew in numpy."""
    means, sums = np.zeros((2, len(batch.t))), np.zeros((2, len(batch.t)))
    alpha_bar = np.array([schedule.alpha_bar[t].item() for t in batch.t])
    count = len(batch.t)
    for side, latents in enumerate((batch.winner, batch.loser)):
        for i, t in enumerate(batch.t.tolist()):
            ab, x0 = alpha_bar[i], latents[i].numpy()
            assert batch.offset is not None
            e = batch.noise[i].numpy() + offset * batch.offset[i].numpy()[:, None, None]
            x_t = math.sqrt(ab) * x0 + math.sqrt(1 - ab) * e
            target = {
                "epsilon": e,
                "v_prediction": math.sqrt(ab) * e - math.sqrt(1 - ab) * x0,
                "sample": x0,
            }[schedule.prediction_type]
            answer = np.tanh(scale * x_t) * batch.cond[side * count + i].item() + 0.001 * t
            means[side, i] = np.mean((answer - target) ** 2)
            sums[side, i] = np.sum((answer - target) ** 2)
    return means, sums, alpha_bar
