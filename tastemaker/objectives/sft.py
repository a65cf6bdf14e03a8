"""Supervised fine-tuning: the weighted denoising error."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.diffusion.weighting import WEIGHTINGS, Weighting
from tastemaker.objectives.protocol import (
    BatchKind,
    Denoise,
    ErrorSpace,
    Latents,
    Needs,
    ReferenceKind,
    SingleBatch,
    Terms,
)


@dataclass(frozen=True)
class SFT:
    """The loss w(SNR_t) * mean over C, H, W of (prediction - target)^2.

    Ho et al. 2020, equation 14, with a weight. A batch with loss masks has the mean over the kept
    part alone, renormalised by its area (`diffusion.errors.per_image_mse`).

    Attributes:
        weighting: a name in `WEIGHTINGS`; bigASP uses `min_snr`.
        gamma: cap of `min_snr`; 5 in Hang et al. 2023 and bigASP.
        noise_offset: s in e <- e + s * N(0, 1) per channel; the target is the offset noise.
            0.1 in Emu, 0.0357 in "SDXL is a slow learner", 0 in bigASP.
        input_perturbation: p in x_t <- x_t(e + p * N(0, 1)) with the target left at e
            (Ning et al. 2023, "Input perturbation reduces exposure bias", algorithm 1).
    """

    weighting: Weighting = "min_snr"
    gamma: float = 5.0
    noise_offset: float = 0.0
    input_perturbation: float = 0.0

    name: ClassVar[str] = "sft"
    batch_kind: ClassVar[BatchKind] = "single"
    references: ClassVar[Mapping[str, ReferenceKind]] = MappingProxyType({})
    error_space: ClassVar[ErrorSpace] = "native"
    needs: ClassVar[Needs] = "errors"

    def __post_init__(self) -> None:
        """Refuse settings that would train nothing, or something else, without a word."""
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be in {list(WEIGHTINGS)}, got {self.weighting!r}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}")

    def __call__(
        self,
        policy: Denoise,
        references: Mapping[str, Denoise],
        batch: SingleBatch,
        schedule: DiscreteSchedule,
    ) -> Terms:
        """The weighted errors [B]; metric `mse`, the plain errors of the whole latents.

        The metric compares across weightings, and across runs with masks and without.

        Raises:
            ValueError: the batch lacks the normals that an offset or a perturbation needs.
        """
        del references
        target_noise, input_noise = self._noises(batch)
        x_t = schedule.add_noise(batch.x0, input_noise, batch.t)
        target = schedule.target(batch.x0, target_noise, batch.t)
        prediction = policy(x_t, batch.t, batch.cond)
        mse = per_image_mse(prediction, target)
        kept = mse if batch.weight is None else per_image_mse(prediction, target, batch.weight)
        return Terms(self.weight(batch.t, schedule).to(mse.dtype) * kept, {"mse": mse.detach()})

    def weight(self, t: Tensor, schedule: DiscreteSchedule) -> Tensor:
        """w(SNR_t), float64 [B]."""
        return WEIGHTINGS[self.weighting](schedule.snr(t), schedule.prediction_type, self.gamma)

    def _noises(self, batch: SingleBatch) -> tuple[Latents, Latents]:
        """The noise in the target and the noise in the input; the same unless perturbed."""
        noise = batch.noise
        if self.noise_offset:
            noise = noise + self.noise_offset * _asked(batch.offset, "offset")[:, :, None, None]
        if not self.input_perturbation:
            return noise, noise
        return noise, noise + self.input_perturbation * _asked(batch.perturbation, "perturbation")


def _asked(normals: Tensor | None, name: str) -> Tensor:
    if normals is None:
        raise ValueError(f"the objective asks for `{name}`, which the batch does not carry")
    return normals
