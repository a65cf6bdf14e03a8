"""Training an autoencoder on pictures held in memory.

Axes: B pictures, C colours or latent channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.noise import batch_noise
from tastemaker.models.autoencoder import Autoencoder, to_network_range
from tastemaker.objectives.autoencoder import Autoencoding, psnr
from tastemaker.objectives.protocol import Terms
from tastemaker.records.draws import Draw
from tastemaker.records.run import Visit


def dihedral(picture: Tensor, which: int) -> Tensor:
    """One of the eight symmetries of the square, `which` in 0..7, of a picture [C, H, W]."""
    turned = torch.rot90(picture, which % 4, dims=(1, 2))
    return turned.flip(2) if which >= 4 else turned


class AutoencoderTask:
    """Reconstruction of pictures, each seen in a random one of the square's eight symmetries."""

    whole_batch = False

    def __init__(
        self,
        vae: Autoencoder,
        pictures: Mapping[str, Tensor],
        objective: Autoencoding,
        *,
        seed: int,
        held_out: Sequence[str] = (),
    ) -> None:
        """Args: pictures: id -> uint8 [3, H, W]; held_out: ids that are only validated on."""
        self.vae, self.pictures, self.objective = vae, pictures, objective
        self.seed, self.held_out = seed, tuple(held_out)

    def modules(self) -> Mapping[str, nn.Module]:
        """The autoencoder."""
        return {"vae": self.vae}

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """Reconstruction and KL of each visit, with one latent sample."""
        pixels = torch.stack([self._augmented(visit) for visit in visits])
        posterior = _posterior(self.vae, to_network_range(pixels))
        draws = [Draw(self.seed, "latent", v.sample_id, v.visit) for v in visits]
        noise = batch_noise(draws, tuple(posterior.mean.shape[1:]))
        reconstruction = _decoded(self.vae, posterior.mean + posterior.std * noise)
        return self.objective(
            to_network_range(pixels), reconstruction, posterior.mean, posterior.logvar
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean squared error and PSNR of the held-out pictures, without latent noise.

        PSNR is in dB for values that span 2.
        """
        if not self.held_out:
            return {}
        pixels = to_network_range(torch.stack([self.pictures[i] for i in self.held_out]))
        shown = _decoded(self.vae, _posterior(self.vae, pixels).mean).clamp(-1, 1)
        mse = per_image_mse(shown, pixels)
        return {"validation/mse": float(mse.mean()), "validation/psnr_db": float(psnr(mse).mean())}

    def _augmented(self, visit: Visit) -> Tensor:
        which = Draw(self.seed, "symmetry", visit.sample_id, visit.visit).integer(8)
        return dihedral(self.pictures[visit.sample_id], which)


@torch.no_grad()
def latent_statistics(
    vae: Autoencoder, pictures: Sequence[Tensor], batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of each latent channel over pictures uint8 [3, H, W]."""
    means = [
        _posterior(vae, to_network_range(torch.stack(list(pictures[start : start + batch])))).mean
        for start in range(0, len(pictures), batch)
    ]
    latents = torch.cat(means).double()
    return latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))


def _posterior(vae: Autoencoder, pixels: Tensor) -> Any:
    """The Gaussian of raw latents that the encoder gives; diffusers' types do not say so."""
    return cast(Any, vae).encode(pixels).latent_dist


def _decoded(vae: Autoencoder, latents: Tensor) -> Tensor:
    return cast(Any, vae).decode(latents).sample
