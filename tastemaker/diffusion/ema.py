"""Exponential moving averages of weights, as pure functions on lists of tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_update(average: Sequence[Tensor], current: Sequence[Tensor], decay: float) -> None:
    """In place and in float32: average <- decay * average + (1 - decay) * current.

    Decay 1 leaves the average as it is, decay 0 copies, both bit for bit (the lerp form is exact at
    its ends). A decay of 0.9999 in half precision would never move: hence float32 only.

    Args:
        average: float32 tensors, changed in place.
        current: tensors of the same shapes, of any floating dtype.
        decay: in [0, 1].

    Raises:
        ValueError: lists of different length or shape, an average that is not float32, a bad decay.
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must lie in [0, 1], got {decay}")
    if [a.shape for a in average] != [c.shape for c in current]:
        raise ValueError("the average and the current tensors differ in number or shape")
    if any(a.dtype != torch.float32 for a in average):
        raise ValueError("an average is kept in float32")
    for a, c in zip(average, current, strict=True):
        a.lerp_(c.to(a.dtype), 1.0 - decay)


def warm_decay(decay: float, updates: int) -> float:
    """min(decay, (1 + n) / (10 + n)): early averages forget the starting point soon.

    The warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=...)`.

    Args:
        decay: the decay reached in the end.
        updates: n, the number of updates already made, from 0.
    """
    return min(decay, (1 + updates) / (10 + updates))
