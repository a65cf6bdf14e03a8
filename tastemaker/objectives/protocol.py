"""What an objective is: a frozen configuration that turns a batch into one loss term a sample.

An objective knows `denoise`, never a model or a file, and draws nothing: all randomness comes in
the batch. It returns terms; **the trainer alone takes the mean**, over the global batch, so that no
result depends on the micro-batch or on the number of processes.

Axes: B samples, C channels, H and W latent height and width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from tastemaker.diffusion.schedule import DiscreteSchedule

Latents = Float[Tensor, "B C H W"]

Denoise = Callable[[Latents, Int[Tensor, " B"], Any], Latents]
"""(x_t, t, conditioning) -> prediction, in the space of the schedule's prediction type."""

BatchKind = Literal["single", "pair", "group", "whole"]
"""What a term depends on: its own sample, its pair, its group, or the whole batch."""

ReferenceKind = Literal["frozen", "ema", "iterate", "table"]
"""Frozen copy, moving average of the policy, an earlier iterate, or precomputed errors."""

ErrorSpace = Literal["native", "eps", "v", "x0"]
Needs = Literal["errors", "predictions"]


@dataclass(frozen=True)
class Terms:
    """What an objective returns.

    Attributes:
        per_sample: [B], float32 at least, with gradient; the loss is their global mean.
        metrics: name -> [B], without gradient; the trainer averages them the same way.
    """

    per_sample: Float[Tensor, " B"]
    metrics: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict)


@dataclass(frozen=True)
class SingleBatch:
    """Latents with everything that was drawn for them.

    Attributes:
        x0: clean latents [B, C, H, W].
        noise: standard normal [B, C, H, W].
        t: timesteps, int64 [B].
        cond: conditioning, passed on to `denoise` unread.
        offset: standard normal [B, C], asked for by a `noise_offset`.
        perturbation: standard normal [B, C, H, W], asked for by an `input_perturbation`.
        weight: loss masks [B, 1, H, W] from 0 to 1, each above 0 somewhere; None for none.
    """

    x0: Latents
    noise: Latents
    t: Int[Tensor, " B"]
    cond: Any = None
    offset: Float[Tensor, "B C"] | None = None
    perturbation: Latents | None = None
    weight: Float[Tensor, "B 1 H W"] | None = None


@dataclass(frozen=True)
class PairBatch:
    """Pairs of latents of one size with everything that was drawn for them.

    Noise, timestep and text are the pair's: both sides share them, else the margin would measure
    the difference of the draws.

    Attributes:
        winner: clean latents [B, C, H, W].
        loser: clean latents [B, C, H, W].
        noise: standard normal [B, C, H, W], for both sides.
        t: timesteps, int64 [B], for both sides; SNR > 0 at each.
        cond: conditioning of 2B rows, those of the winners first; passed on unread.
        label: [B], how surely the winner is the better one: 1, or 0.5 for a tie.
        offset: standard normal [B, C] for both sides, asked for by a `noise_offset`.
        reference_errors: native errors [2, B] of the reference, winners first, where they were
            computed before; None asks the reference itself.
        beta: [], the beta of this step where it is not a constant; None for the objective's own.
    """

    winner: Latents
    loser: Latents
    noise: Latents
    t: Int[Tensor, " B"]
    cond: Any
    label: Float[Tensor, " B"]
    offset: Float[Tensor, "B C"] | None = None
    reference_errors: Float[Tensor, "2 B"] | None = None
    beta: Float[Tensor, ""] | None = None


class Objective(Protocol):
    """An objective on a denoiser; all but the call is a declaration that the trainer reads."""

    @property
    def name(self) -> str:
        """Short name, as in recipes."""
        ...

    @property
    def batch_kind(self) -> BatchKind:
        """What one row of the batch is."""
        ...

    @property
    def references(self) -> Mapping[str, ReferenceKind]:
        """Name -> kind of each reference it wants; empty for none."""
        ...

    @property
    def error_space(self) -> ErrorSpace:
        """The space of its errors, without which weights and betas mean nothing."""
        ...

    @property
    def needs(self) -> Needs:
        """What it needs of references: errors can come from a table, predictions cannot."""
        ...

    def __call__(
        self,
        policy: Denoise,
        references: Mapping[str, Denoise],
        batch: Any,
        schedule: DiscreteSchedule,
    ) -> Terms:
        """One loss term and one value of each metric for every row of the batch."""
        ...
