"""The precision in which the maths is done, whatever the model's own."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """The same values in float32 at least: half precisions are widened, float64 stays.

    Half precision would round away the small coefficients at both ends of a schedule, and the last
    digits of a mean of 65,536 squares, which preference margins are made of.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
