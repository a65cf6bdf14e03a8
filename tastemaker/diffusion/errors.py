"""The one way in which a prediction error becomes a number.

Axes: B samples, C channels, H and W latent height and width.
"""

from jaxtyping import Float
from torch import Tensor

from tastemaker.diffusion.precision import widen


def per_image_mse(
    a: Float[Tensor, "B C H W"],
    b: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "B 1 H W"] | None = None,
) -> Float[Tensor, " B"]:
    """e_i = mean over C, H, W of (a_i - b_i)^2, one number a sample.

    With a weight w (a loss mask), renormalised by the kept area, so that a sample does not count
    less because a part of it is masked:

        e_i = sum over C, H, W of w_i (a_i - b_i)^2 / (C * sum over H, W of w_i)

    Weights of 1 everywhere give the same bits as none. Subtracted, squared and averaged in float32
    (float64 for float64 inputs).

    Args:
        a: for example predictions.
        b: for example targets.
        weight: from 0 (masked) to 1, the same for all channels; above 0 somewhere in each sample,
            or else its error is NaN.

    Raises:
        ValueError: the shapes differ; broadcasting here would hide a wrong batch.
    """
    if a.shape != b.shape:
        raise ValueError(f"errors need equal shapes, got {list(a.shape)} and {list(b.shape)}")
    errors = (widen(a) - widen(b)).square()
    if weight is None:
        return errors.flatten(1).mean(dim=1)
    if weight.shape != (a.shape[0], 1, *a.shape[2:]):
        got = f"{list(weight.shape)} for errors of {list(a.shape)}"
        raise ValueError(f"weights need a number for each latent cell, got {got}")
    # Of mean 1: a mask of ones is exactly 1, and multiplying by that changes no bit.
    weight = weight.to(errors.dtype)
    weight = weight / weight.mean(dim=(1, 2, 3), keepdim=True)
    return (weight * errors).flatten(1).mean(dim=1)
