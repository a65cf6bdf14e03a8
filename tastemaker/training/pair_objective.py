"""What a step of preference training minimises, as recipes say it."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tastemaker.errors import InputError
from tastemaker.records.config import Config
from tastemaker.training.objective import AnyTimesteps, UniformTimesteps

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from tastemaker.models.family import Family
    from tastemaker.models.twins import Rounding
    from tastemaker.objectives.auto_beta import AutoBeta
    from tastemaker.objectives.dpo import DPO, WinnerSFT
    from tastemaker.training.divergence import DivergenceRules
    from tastemaker.training.reference import Reference


class FrozenModel(Config):
    """The model that training starts from, unchanged."""

    kind: Literal["frozen"] = "frozen"
    how: Literal["auto", "adapters_off", "copy"] = "auto"
    """`copy` is a second denoiser; `adapters_off` is the trained one without its adapters, which
    needs no memory; `auto` takes that one where adapters are trained. The result is the same."""
    offload: Literal["none", "step", "stream", "cpu"] = Field(
        default="none", json_schema_extra={"changes_result": False}
    )
    """Where a copy is kept: on the device; in main memory and moved for each pass, whole (`step`)
    or module by module (`stream`); or in main memory and computed there (`cpu`)."""
    half: bool = False
    """Keep a copy's products in bf16: half the memory. Exact where `precision` is bf16, and not
    accepted elsewhere; with bf16-weights a copy is always as the trained network is."""


class Iterate(FrozenModel):
    """The last iterate of self-play, which is also what this round starts from."""

    kind: Literal["iterate"] = "iterate"


class EmaModel(Config):
    """The moving average of what is trained: self-reward."""

    kind: Literal["ema"] = "ema"
    decay: float = Field(default=0.9995, ge=0, le=1)
    """Per step; 1 is a frozen reference, with 0 every margin is 0 and nothing holds the model back.
    "SDXL is a slow learner" does not state its value; ours."""


class ErrorTable(Config):
    """Errors of a frozen reference, computed before the first step unless they are given."""

    kind: Literal["table"] = "table"
    draws: int = Field(default=4, ge=1)
    """Draws of noise, timestep and text for each pair, used again and again. Ours."""


AnyReference = Annotated[FrozenModel | Iterate | EmaModel | ErrorTable, Field(discriminator="kind")]
"""A reference by its `kind`."""


class FollowingBeta(Config):
    """A beta that follows the size of the margins, for references that move."""

    gradient: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the largest gradient that a pair of average margin keeps; 0.2 is SimpleTuner's."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Of the average of margins, per step. Ours."""
    least: float = Field(default=1.0, gt=0)
    """Beta is never below this. Ours."""
    most: float = Field(default=1e6, gt=0)
    """Beta is never above this. Ours."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "FollowingBeta":
        if self.most < self.least:
            raise ValueError(f"least is {self.least}, above most, {self.most}")
        return self

    def open(self) -> "AutoBeta":
        """The rule itself."""
        from tastemaker.objectives.auto_beta import AutoBeta

        return AutoBeta(**self.model_dump())


class DivergenceGuard(Config):
    """What to do when errors on held-out pairs show that training goes wrong; limits are ours."""

    action: Literal["off", "warn", "stop"] = "warn"
    """`warn` says so; `stop` also ends the run where the alarm is a stop."""
    warn_rise: float = Field(default=0.02, gt=0)
    """Warn when both errors are above the start model's by this share."""
    stop_rise: float = Field(default=0.25, gt=0)
    """Stop when the winners' error is above it by this share."""
    warn_logit: float = Field(default=6.0, gt=0)
    """Warn from this mean logit on, and from as much below zero."""
    stop_logit: float = Field(default=30.0, gt=0)
    """Stop from this mean logit on, and from as much below zero."""
    patience: int = Field(default=2, ge=1)
    """Validations in a row that must say so."""

    @model_validator(mode="after")
    def _warns_before_it_stops(self) -> "DivergenceGuard":
        if self.warn_rise > self.stop_rise or self.warn_logit > self.stop_logit:
            raise ValueError("a warning must come before a stop")
        return self

    def open(self) -> "DivergenceRules":
        """The rules themselves."""
        from tastemaker.training.divergence import DivergenceRules

        return DivergenceRules(**self.model_dump(exclude={"action"}))


class PairTimesteps(Config):
    """What objectives on pairs share."""

    timesteps: AnyTimesteps = UniformTimesteps()
    """Which noise levels are trained, as in `fit`; never one that is pure noise."""

    @field_validator("timesteps", mode="before")
    @classmethod
    def _uniform_is_the_kind(cls, value: Any) -> Any:
        """A range alone is uniform, as in `timesteps: {most: 799}`."""
        return {"kind": "uniform", **value} if isinstance(value, dict) else value


class DpoObjective(PairTimesteps):
    """Prefer winners to losers more than a reference does (Wallace et al. 2023)."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(default=5000.0, gt=0)
    """Pull towards the reference: 5000 in the DPO authors' SD1.5 launcher; SPIN has 2000, then
    5000. Smaller allows more change."""
    convention: Literal["salesforce", "diffusers_sd", "sum", "paper", "spin"] = "salesforce"
    """What beta is a factor of: half the margin of means (the DPO authors' code, diffusers' SDXL
    script, SPIN), the whole margin (diffusers' SD script: halve beta to move here), half the margin
    of sums, or the paper's T times sums."""
    link: Literal["logistic", "ipo", "hinge"] = "logistic"
    """From margin to loss: DPO's, IPO's (Azar et al. 2024), or the hinge of diffusers' script."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of labels believed to be wrong; above 0 is conservative DPO (Mitchell 2023)."""
    guard: Literal["none", "sdpo"] = "none"
    """`sdpo` scales the loser's gradient down where it would raise the winner's error
    (arXiv:2511.03317)."""
    guard_mu: float = Field(default=0.9, ge=0, le=1)
    """Of `sdpo`, larger is safer: 0.9 for SD1.5 and 0.6 for SDXL in its code."""
    error_space: Literal["native", "eps", "v", "x0"] = "native"
    """Where errors are taken. Beta means nothing without it; published betas are for noise."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Adds this times the winner's plain error. "SDXL is a slow learner" adds the two losses and
    does not state the weight."""
    noise_offset: float = Field(default=0.0, ge=0)
    """A random shift of each channel's noise, the same for both sides."""
    reference: AnyReference = FrozenModel()
    """The model that errors are compared with: `frozen`, `iterate`, `ema` or `table`."""
    auto_beta: FollowingBeta | None = None
    """Let beta follow the margins, from `beta` on; not with the link `ipo`, whose margins would
    shrink to 0."""

    @field_validator("reference", mode="before")
    @classmethod
    def _frozen_is_the_kind(cls, value: Any) -> Any:
        """Settings alone are a frozen reference's, as in `reference: {how: copy}`."""
        return {"kind": "frozen", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _beta_has_something_to_follow(self) -> "DpoObjective":
        if self.auto_beta is not None and self.link == "ipo":
            raise ValueError("auto_beta: not with link ipo, whose margins would shrink to 0")
        return self

    def open(self) -> "DPO":
        """The objective itself."""
        from tastemaker.objectives.dpo import DPO

        given = self.model_dump(exclude={"kind", "reference", "auto_beta", "timesteps"})
        following = None if self.auto_beta is None else self.auto_beta.open()
        return DPO(**given, auto_beta=following, reference=self.reference.kind)


class WinnerObjective(PairTimesteps):
    """Fine-tuning on the winners of pairs alone: the baseline of DPO."""

    kind: Literal["sft_winners"] = "sft_winners"
    weighting: Literal["plain", "min_snr", "soft_min_snr", "debiased", "p2"] = "plain"
    """As in `sft`; the DPO authors' baseline is `plain`."""
    gamma: float = Field(default=5.0, gt=0)
    """As in `sft`."""
    noise_offset: float = Field(default=0.0, ge=0)
    """As in `sft`."""

    def open(self) -> "WinnerSFT":
        """The objective itself."""
        from tastemaker.objectives.dpo import WinnerSFT

        return WinnerSFT(**self.model_dump(exclude={"kind", "timesteps"}))


def open_reference(
    config: FrozenModel | Iterate | EmaModel | ErrorTable,
    family: "Family",
    precision: str = "fp32",
    sources: "Mapping[str, torch.Tensor] | None" = None,
    *,
    other: "nn.Module | None" = None,
    goes_on: bool = False,
) -> "Reference | None":
    """The reference of a run, made after the adapters and before any checkpoint is read.

    Args:
        config: its kind.
        family: the model as training starts from it, its trained weights unfrozen.
        precision: of training, `fp32`, `bf16`, `bf16-weights` or `fp16`.
        sources: of an EMA, `Precision.trained`, where the network holds rounded weights; it may
            also be told later (`Reference.prepare`).
        other: the denoiser of another model, which takes the place of what training starts from.
        goes_on: whether the adapters have been trained before, so that the model without them is
            not what training starts from.

    Returns:
        None for a table.

    Raises:
        InputError: `adapters_off` where that is not the reference, or `half` where passes are
            wider.
    """
    from tastemaker.models.adapters import has_lora
    from tastemaker.training.reference import (
        AdaptersOff,
        EmaReference,
        FrozenReference,
        StartAdapters,
    )

    if isinstance(config, ErrorTable):
        return None
    if isinstance(config, EmaModel):
        return EmaReference(family, config.decay, sources)
    adapted = has_lora(family)
    reason = ""
    if not adapted:
        reason = "whole weights are trained"
    elif other is not None:
        reason = "the reference is another model"
    elif goes_on:
        reason = "training starts from adapters, which the reference has too"
    if config.how == "adapters_off" and reason:
        raise InputError(
            "objective.reference.how",
            f"adapters_off, but {reason}",
            "copy or auto",
            "Use `how: copy`, with `offload` where the device is too small for two models.",
        )
    if adapted and other is None and config.how != "copy":
        return StartAdapters(family) if goes_on else AdaptersOff(family)
    if config.half and not precision.startswith("bf16"):
        raise InputError(
            "objective.reference.half",
            f"a bf16 copy with precision {precision}",
            "precision bf16",
            "Leave out `half`: the copy would not be the model that training starts from.",
        )
    rounding: Rounding = "products" if config.half else "none"
    if precision == "bf16-weights":
        rounding = "weights"
    return FrozenReference(
        family, other, rounding=rounding, offload=config.offload, kind=config.kind
    )
