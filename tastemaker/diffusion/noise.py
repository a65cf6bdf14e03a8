"""Standard normal tensors, each from its own key and independent of the batch it lands in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tastemaker.records.draws import Draw


def noise(draw: Draw, shape: Sequence[int]) -> Tensor:
    """N(0, 1) of one sample, float32 on the CPU: [C, H, W] for latents, [C] for a noise offset."""
    return torch.from_numpy(draw.generator().standard_normal(tuple(shape), dtype=np.float32))


def batch_noise(draws: Sequence[Draw], shape: Sequence[int]) -> Tensor:
    """`noise` of every draw, stacked: float32 [B, *shape]."""
    return torch.stack([noise(draw, shape) for draw in draws])
