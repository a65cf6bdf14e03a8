"""The one way in which a prediction error becomes a number.

Axes: B samples, C channels, H and W latent height and width.
"""

from jaxtyping import Float
from torch import Tensor

from tastemaker.diffusion.precision import widen


def per_image_mse(a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """e_i = mean over C, H, W of (a_i - b_i)^2, one number a sample.

    Subtracted, squared and averaged in float32 (float64 for float64 inputs).

    Raises:
        ValueError: the shapes differ; broadcasting here would hide a wrong batch.
    """
    if a.shape != b.shape:
        raise ValueError(f"errors need equal shapes, got {list(a.shape)} and {list(b.shape)}")
    return (widen(a) - widen(b)).square().flatten(1).mean(dim=1)
