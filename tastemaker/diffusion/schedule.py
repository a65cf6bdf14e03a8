"""Discrete noise schedules: what x_t is, what the network should predict, and the way back.

Axes: T timesteps, B samples, C channels, H and W latent height and width.
Notation: x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) e, with ab_t = alpha_bar[t], e ~ N(0, 1)
(Ho et al. 2020, "Denoising diffusion probabilistic models", equation 4).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tastemaker.diffusion.precision import widen
from tastemaker.errors import InputError

PredictionType = Literal["epsilon", "v_prediction", "sample"]

Latents = Float[Tensor, "B C H W"]
Steps = Int[Tensor, " B"]


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A variance-preserving schedule on T timesteps.

    Every method takes t as whole numbers [B] on the same device as `alpha_bar` (see `to`), works in
    float32 (float64 for float64 inputs) and returns that precision, whatever the model's own is.

    Attributes:
        alpha_bar: float64 [T], never rising, 0 <= alpha_bar < 1. The last value may be 0
            (zero terminal SNR).
        prediction_type: what the network predicts: the noise, v, or the clean sample.
    """

    alpha_bar: Float[Tensor, " T"]
    prediction_type: PredictionType = "epsilon"

    def __post_init__(self) -> None:
        """Refuse a table that no schedule has; one look at T numbers, on construction only."""
        ab = self.alpha_bar
        if ab.ndim != 1 or ab.dtype != torch.float64 or len(ab) == 0:
            raise ValueError(f"alpha_bar must be float64 [T], got {ab.dtype} {list(ab.shape)}")
        if not bool(((ab >= 0) & (ab < 1)).all()) or bool((ab.diff() > 0).any()):
            raise ValueError("alpha_bar must lie in [0, 1) and never rise")
        if self.prediction_type not in get_args(PredictionType):
            raise ValueError(f"unknown prediction type {self.prediction_type!r}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DiscreteSchedule":
        """The schedule that a diffusers `scheduler_config.json` describes.

        Understands `num_train_timesteps`, `beta_schedule`, `beta_start`, `beta_end`,
        `trained_betas`, `rescale_betas_zero_snr` and `prediction_type`, with the defaults of
        diffusers' DDPMScheduler. All other keys concern sampling only.

        Raises:
            InputError: the schedule is of a kind that this class cannot hold.
        """
        kind = str(config.get("_class_name", ""))
        if "FlowMatch" in kind or kind.startswith("EDM"):
            raise _unusable("_class_name", kind, "a discrete alpha_bar scheduler")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in get_args(PredictionType):
            raise _unusable("prediction_type", prediction, " | ".join(get_args(PredictionType)))
        schedule = cls(torch.cumprod(1.0 - _betas(config), dim=0), cast(PredictionType, prediction))
        rescale = config.get("rescale_betas_zero_snr")
        return schedule.rescale_zero_terminal() if rescale else schedule

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha_bar)

    @property
    def last_informative(self) -> int:
        """The highest t with SNR > 0; above it x_t says nothing of x0, so pairs stop here."""
        return int((self.alpha_bar > 0).nonzero().max())

    def to(self, device: torch.device | str) -> "DiscreteSchedule":
        """The same schedule with its table on another device, so that `t` there needs no copy."""
        return replace(self, alpha_bar=self.alpha_bar.to(device))

    def rescale_zero_terminal(self) -> "DiscreteSchedule":
        """Shift and scale sqrt(alpha_bar) so that the last SNR is exactly 0 and the first stays.

        Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed",
        algorithm 1:

            sqrt(ab_t) <- (sqrt(ab_t) - sqrt(ab_T)) * sqrt(ab_1) / (sqrt(ab_1) - sqrt(ab_T))

        The paper goes on to betas; we keep alpha_bar itself, which is exact at T.
        """
        root = self.alpha_bar.sqrt()
        first, last = root[0], root[-1]
        return replace(self, alpha_bar=((root - last) * (first / (first - last))).square())

    def snr(self, t: Steps) -> Float[Tensor, " B"]:
        """Signal-to-noise ratio ab_t / (1 - ab_t), float64 [B]; 0 where alpha_bar is 0.

        Kingma et al. 2021, "Variational diffusion models", equation 2.
        """
        ab = self.alpha_bar[t]
        return ab / (1.0 - ab)

    def add_noise(self, x0: Latents, noise: Latents, t: Steps) -> Latents:
        """x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) noise (Ho et al. 2020, equation 4)."""
        x0, noise = widen(x0), widen(noise)
        signal, spread = self._roots(t, x0)
        return signal * x0 + spread * noise

    def velocity(self, x0: Latents, noise: Latents, t: Steps) -> Latents:
        """The v target: sqrt(ab_t) noise - sqrt(1 - ab_t) x0.

        Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models",
        section 4 and appendix D.
        """
        x0, noise = widen(x0), widen(noise)
        signal, spread = self._roots(t, x0)
        return signal * noise - spread * x0

    def target(self, x0: Latents, noise: Latents, t: Steps) -> Latents:
        """What the network should have answered for x_t: the noise, v, or x0."""
        if self.prediction_type == "epsilon":
            return widen(noise)
        if self.prediction_type == "sample":
            return widen(x0)
        return self.velocity(x0, noise, t)

    def x0_from(self, prediction: Latents, x_t: Latents, t: Steps) -> Latents:
        """The clean sample that a prediction stands for.

            epsilon: (x_t - sqrt(1 - ab) e) / sqrt(ab)
            v:       sqrt(ab) x_t - sqrt(1 - ab) v
            sample:  itself

        Not finite for `epsilon` where alpha_bar is 0: pure noise determines no sample.
        """
        prediction, x_t = widen(prediction), widen(x_t)
        signal, spread = self._roots(t, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - spread * prediction) / signal
        if self.prediction_type == "v_prediction":
            return signal * x_t - spread * prediction
        return prediction

    def eps_from(self, prediction: Latents, x_t: Latents, t: Steps) -> Latents:
        """The noise that a prediction stands for.

        epsilon: itself
        v:       sqrt(1 - ab) x_t + sqrt(ab) v
        sample:  (x_t - sqrt(ab) x0) / sqrt(1 - ab)
        """
        prediction, x_t = widen(prediction), widen(x_t)
        signal, spread = self._roots(t, x_t)
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return spread * x_t + signal * prediction
        return (x_t - signal * prediction) / spread

    def _roots(self, t: Steps, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(ab_t) and sqrt(1 - ab_t), taken in float64, shaped [B, 1, 1, 1] for latents."""
        ab = self.alpha_bar[t].reshape(-1, *[1] * (like.ndim - 1))
        return ab.sqrt().to(like.dtype), (1.0 - ab).sqrt().to(like.dtype)


def _betas(config: Mapping[str, Any]) -> Float[Tensor, " T"]:
    """The betas of a diffusers configuration, float64 [T]."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64).square()
    if kind == "squaredcos_cap_v2":
        return _cosine_betas(count)
    raise _unusable("beta_schedule", kind, "linear | scaled_linear | squaredcos_cap_v2")


def _cosine_betas(count: int, most: float = 0.999) -> Float[Tensor, " T"]:
    """beta_t = min(1 - f(t+1)/f(t), 0.999), f(t) = cos^2(((t/T + 0.008) / 1.008) pi/2).

    Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", equation 17.
    """

    def f(t: int) -> float:
        return math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - f(t + 1) / f(t), most) for t in range(count)], dtype=torch.float64)


def _unusable(key: str, got: object, expected: str) -> InputError:
    return InputError(f"scheduler_config: {key}", got, expected, "Use another model.")
