"""Training of an autoencoder of pictures: reconstruction, edges, and a small pull to N(0, 1).

Axes: B pictures, C channels (3 for pixels), H and W height and width, of pixels or of latents.
Pixels lie in [-1, 1].
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.precision import widen
from tastemaker.objectives.protocol import BatchKind, Terms

Pictures = Float[Tensor, "B C H W"]
Latents = Float[Tensor, "B Z h w"]

LEAST_MSE = 1e-10
"""PSNR is cut at 106 dB, so that a perfect picture does not make a mean infinite."""


@dataclass(frozen=True)
class Autoencoding:
    """distance(x, y) + edge_weight * edges(x, y) + kl_weight * KL, per picture.

    Latent diffusion (Rombach et al. 2022, section 3.1 and appendix G) without the perceptual and
    adversarial terms, which need networks we do not ship; the edge term stands in for them (ours).

    Attributes:
        distance: `l1` (as the source), `smooth_l1` or `mse`, averaged over C, H, W.
        smooth_below: difference under which `smooth_l1` is quadratic (ours).
        edge_weight: weight of the L1 distance of neighbour differences; 0 for none (ours).
        kl_weight: weight of the KL term. The source has 1e-6 on a sum; ours is a mean, so that it
            means the same at every size of picture.
    """

    distance: Literal["l1", "smooth_l1", "mse"] = "l1"
    smooth_below: float = 0.05
    edge_weight: float = 0.0
    kl_weight: float = 1e-6

    name: ClassVar[str] = "autoencoding"
    batch_kind: ClassVar[BatchKind] = "single"

    def __call__(
        self, pixels: Pictures, reconstruction: Pictures, mean: Latents, logvar: Latents
    ) -> Terms:
        """Terms [B]; metrics `mse`, `psnr` (dB for the range [-1, 1]), `kl` (nats an element).

        Args:
            pixels: [B, 3, H, W] in [-1, 1].
            reconstruction: the decoder's answer, same shape, not clipped.
            mean: [B, Z, h, w] of the posterior.
            logvar: [B, Z, h, w], its log variance, already clamped by the model.
        """
        kl = kl_to_standard_normal(mean, logvar)
        terms = self.distances(pixels, reconstruction) + self.kl_weight * kl
        if self.edge_weight:
            terms = terms + self.edge_weight * edge_distance(pixels, reconstruction)
        mse = per_image_mse(pixels, reconstruction).detach()
        return Terms(terms, {"mse": mse, "psnr": psnr(mse), "kl": kl.detach()})

    def distances(self, x: Pictures, y: Pictures) -> Float[Tensor, " B"]:
        """The chosen distance of each picture, averaged over C, H, W in float32."""
        if self.distance == "mse":
            return per_image_mse(x, y)
        x, y = widen(x), widen(y)
        if self.distance == "l1":
            each = (x - y).abs()
        else:
            each = functional.smooth_l1_loss(y, x, beta=self.smooth_below, reduction="none")
        return each.flatten(1).mean(dim=1)


def kl_to_standard_normal(mean: Latents, logvar: Latents) -> Float[Tensor, " B"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over the latent elements.

        (mean^2 + exp(logvar) - 1 - logvar) / 2

    Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix B, divided by the number of
    latent elements.
    """
    mean, logvar = widen(mean), widen(logvar)
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).mean(dim=1)


def edge_distance(x: Pictures, y: Pictures) -> Float[Tensor, " B"]:
    """Mean |dh(x) - dh(y)| + mean |dw(x) - dw(y)| with forward differences dh, dw.

    The gradient difference loss (Mathieu et al. 2016, "Deep multi-scale video prediction beyond
    mean square error", section 3.3), but with signed differences: they also punish an edge of the
    wrong direction. Height and width must be at least 2.
    """
    difference = widen(x) - widen(y)
    down = difference.diff(dim=2).abs().flatten(1).mean(dim=1)
    across = difference.diff(dim=3).abs().flatten(1).mean(dim=1)
    return down + across


def psnr(mse: Float[Tensor, " B"], peak: float = 2.0) -> Float[Tensor, " B"]:
    """10 log10(peak^2 / mse) in dB; peak is the width of the range, 2 for [-1, 1]."""
    return 10.0 * torch.log10(peak**2 / mse.clamp(min=LEAST_MSE))
