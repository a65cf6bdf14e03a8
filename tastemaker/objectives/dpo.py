"""Direct preference optimisation of a denoiser on pairs, and its baseline on winners alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tastemaker.diffusion.errors import per_image_mse
from tastemaker.diffusion.precision import widen
from tastemaker.diffusion.schedule import DiscreteSchedule
from tastemaker.diffusion.weighting import Weighting
from tastemaker.objectives.auto_beta import NO_IPO, AutoBeta
from tastemaker.objectives.pairs import (
    CONVENTIONS,
    LINKS,
    Beta,
    Both,
    Convention,
    Link,
    PerPair,
    accuracy,
    guarded,
    link_loss,
    pair_margin,
    space_factor,
    winner_guard,
)
from tastemaker.objectives.protocol import (
    BatchKind,
    Denoise,
    ErrorSpace,
    Needs,
    PairBatch,
    ReferenceKind,
    SingleBatch,
    Terms,
)
from tastemaker.objectives.sft import SFT

ANCHOR = "anchor"
"""What the reference is called among `references`."""

Guard = Literal["none", "sdpo"]

Rows = Float[Tensor, "R C H W"]
"""2B rows of a pass over both sides, winners first."""


@dataclass(frozen=True)
class DPO:
    """Diffusion-DPO (Wallace et al. 2023, equation 14) as its authors coded it, and its relatives.

        L = -log sigmoid(-(beta / 2) [(e_w - r_w) - (e_l - r_l)])

    e and r are mean squared errors of policy and reference. Means, where the paper has squared
    norms, and no T: `convention` gives the other scales. With an EMA of the policy as the reference
    this is self-reward; with the last iterate as the reference and generated losers it is SPIN
    (Yuan et al. 2024, "Self-play fine-tuning of diffusion models", equation 4.9).

    Attributes:
        beta: strength of the pull to the reference; 5000 in the authors' SD1.5 launcher.
        convention: what beta is a factor of, a name in `CONVENTIONS`.
        link: from margin to loss, a name in `LINKS`.
        label_smoothing: share of labels believed to be wrong; above 0 this is conservative DPO.
        guard: `sdpo` scales the loser's gradient down where it would raise the winner's error.
        guard_mu: of `sdpo`; see `winner_guard`.
        error_space: where errors are taken; a beta means nothing without it.
        sft_weight: adds this times the winner's plain native error. "SDXL is a slow learner" adds
            DPO to the usual loss and does not state the weight. Of a tie both sides count half.
        noise_offset: s in e <- e + s N(0, 1) per channel, the same for both sides.
        auto_beta: makes beta follow the margins, from `beta` on; for references that move.
        reference: what the errors are compared with.
    """

    beta: float = 5000.0
    convention: Convention = "salesforce"
    link: Link = "logistic"
    label_smoothing: float = 0.0
    guard: Guard = "none"
    guard_mu: float = 0.9
    error_space: ErrorSpace = "native"
    sft_weight: float = 0.0
    noise_offset: float = 0.0
    auto_beta: AutoBeta | None = None
    reference: ReferenceKind = "frozen"

    name: ClassVar[str] = "dpo"
    batch_kind: ClassVar[BatchKind] = "pair"
    needs: ClassVar[Needs] = "errors"

    def __post_init__(self) -> None:
        """Refuse settings that would train nothing, or something else, without a word."""
        for field, known in (
            ("convention", tuple(CONVENTIONS)),
            ("link", tuple(LINKS)),
            ("guard", get_args(Guard)),
            ("error_space", get_args(ErrorSpace)),
            ("reference", get_args(ReferenceKind)),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be in {known}, got {getattr(self, field)!r}")
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if not 0.0 <= self.label_smoothing < 0.5:
            got = self.label_smoothing
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {got}")
        if not 0.0 <= self.guard_mu <= 1.0:
            raise ValueError(f"guard_mu must lie in [0, 1], got {self.guard_mu}")
        if self.auto_beta is not None and self.link == "ipo":
            raise ValueError(f"auto_beta with the link ipo: {NO_IPO}")
        if self.sft_weight < 0 or self.noise_offset < 0:
            raise ValueError("sft_weight and noise_offset must not be below 0")

    @property
    def references(self) -> Mapping[str, ReferenceKind]:
        """The one reference, `anchor`, and its kind."""
        return MappingProxyType({ANCHOR: self.reference})

    def __call__(
        self,
        policy: Denoise,
        references: Mapping[str, Denoise],
        batch: PairBatch,
        schedule: DiscreteSchedule,
    ) -> Terms:
        """One loss a pair [B], with metrics of each pair, without gradient.

        `winner_error`, `loser_error`, `reference_winner_error`, `reference_loser_error`: mean
        squared errors in the network's own space; `margin`: m in `error_space`; `logit`: beta u;
        `accuracy`: 1, 0, or 0.5 where there is nothing to choose; `beta`; with a guard
        `loser_scale`.

        Raises:
            ValueError: a timestep without signal (looked at on the CPU only, where no device would
                have to wait), or the batch lacks what is asked for.
        """
        refuse_silent(batch.t, schedule)
        x_t, t, target = noised_pair(batch, schedule, self.noise_offset)
        prediction = policy(x_t, t, batch.cond)
        errors = native_errors(prediction, target)
        anchor = self._reference_errors(references, batch, x_t, t, target).to(errors.dtype)
        metrics: dict[str, Tensor] = {}
        compared = errors
        if self.guard == "sdpo":
            residual = widen(prediction.detach()) - target
            winner, loser = residual.unflatten(0, (2, -1))
            scale = winner_guard(winner, loser, self.guard_mu)
            # A tie has no winner to be guarded.
            scale = torch.where(batch.label > 0.5, scale, torch.ones_like(scale))
            compared, metrics["loser_scale"] = guarded(errors, scale), scale
        beta = self.beta if batch.beta is None else batch.beta
        margin = self.margin(compared, anchor, batch.t, schedule)
        u = self.unit(batch.winner[0].numel(), schedule) * margin
        loss = link_loss(self.link, u, beta, batch.label, self.label_smoothing)
        if self.sft_weight:
            label = batch.label.to(errors.dtype)
            loss = loss + self.sft_weight * (label * errors[0] + (1.0 - label) * errors[1])
        return Terms(loss, _metrics(errors, anchor, margin, beta * u, batch.label, beta) | metrics)

    def margin(
        self, policy: Both, reference: Both, t: Tensor, schedule: DiscreteSchedule
    ) -> PerPair:
        """The margin m [B] in `error_space`, from native errors."""
        factor = space_factor(schedule.snr(t), schedule.prediction_type, self.error_space)
        return factor.to(policy.dtype) * pair_margin(policy, reference)

    def unit(self, cells: int, schedule: DiscreteSchedule) -> float:
        """The c in the margin's unit u = c m, for latents of C H W = `cells` numbers."""
        return CONVENTIONS[self.convention](cells, len(schedule))

    def judged(
        self,
        policy: Both,
        reference: Both,
        t: Tensor,
        label: PerPair,
        cells: int,
        schedule: DiscreteSchedule,
    ) -> dict[str, PerPair]:
        """`loss`, `margin` and `logit` [B] of errors that are known, as a validation wants them.

        With the constant `beta`, whatever the training's is by now, and without the SFT term, so
        that the figures of a run can be compared.
        """
        margin = self.margin(policy, reference, t, schedule)
        u = self.unit(cells, schedule) * margin
        loss = link_loss(self.link, u, self.beta, label, self.label_smoothing)
        return {"loss": loss, "margin": margin, "logit": self.beta * u}

    def _reference_errors(
        self,
        references: Mapping[str, Denoise],
        batch: PairBatch,
        x_t: Rows,
        t: Tensor,
        target: Rows,
    ) -> Both:
        if batch.reference_errors is not None:
            return batch.reference_errors
        if ANCHOR not in references:
            raise ValueError("a reference is needed, or errors that it gave before")
        with torch.no_grad():
            prediction = references[ANCHOR](x_t, t, batch.cond)
            return native_errors(prediction, target)


@dataclass(frozen=True)
class WinnerSFT:
    """Supervised fine-tuning on the winners: the baseline that DPO has to beat (`--sft` there).

    Losers and labels are not looked at; a tie's first picture counts as its winner.

    Attributes:
        weighting: as in `SFT`; the DPO authors' baseline is `plain`.
        gamma: as in `SFT`.
        noise_offset: as in `SFT`.
    """

    weighting: Weighting = "plain"
    gamma: float = 5.0
    noise_offset: float = 0.0

    name: ClassVar[str] = "sft_winners"
    batch_kind: ClassVar[BatchKind] = "pair"
    references: ClassVar[Mapping[str, ReferenceKind]] = MappingProxyType({})
    error_space: ClassVar[ErrorSpace] = "native"
    needs: ClassVar[Needs] = "errors"

    def __post_init__(self) -> None:
        """Refuse what `SFT` refuses."""
        self._single()

    def __call__(
        self,
        policy: Denoise,
        references: Mapping[str, Denoise],
        batch: PairBatch,
        schedule: DiscreteSchedule,
    ) -> Terms:
        """The weighted errors of the winners [B]; metric `winner_error`, the plain ones."""
        refuse_silent(batch.t, schedule)
        cond = batch.cond[: len(batch.t)]
        single = SingleBatch(batch.winner, batch.noise, batch.t, cond, batch.offset)
        terms = self._single()(policy, references, single, schedule)
        return Terms(terms.per_sample, {"winner_error": terms.metrics["mse"]})

    def judged(
        self,
        policy: Both,
        reference: Both,
        t: Tensor,
        label: PerPair,
        cells: int,
        schedule: DiscreteSchedule,
    ) -> dict[str, PerPair]:
        """`loss`, the winners' plain errors, and the `margin` [B], to be compared with DPO's."""
        del t, label, cells, schedule
        return {"loss": policy[0], "margin": pair_margin(policy, reference)}

    def _single(self) -> SFT:
        return SFT(self.weighting, self.gamma, self.noise_offset)


def noised_pair(
    batch: PairBatch, schedule: DiscreteSchedule, noise_offset: float = 0.0
) -> tuple[Rows, Tensor, Rows]:
    """Noised latents, timesteps and targets of 2B rows, winners first, for one pass over both."""
    noise = batch.noise
    if noise_offset:
        if batch.offset is None:
            raise ValueError("the objective asks for `offset`, which the batch does not carry")
        noise = noise + noise_offset * batch.offset[:, :, None, None]
    x0, noise = torch.cat([batch.winner, batch.loser]), torch.cat([noise, noise])
    t = torch.cat([batch.t, batch.t])
    return schedule.add_noise(x0, noise, t), t, schedule.target(x0, noise, t)


def native_errors(prediction: Rows, target: Rows) -> Both:
    """Mean squared errors [2, B] of 2B rows, winners first, in the network's own space."""
    return per_image_mse(prediction, target).unflatten(0, (2, -1))


def refuse_silent(t: Tensor, schedule: DiscreteSchedule) -> None:
    """Refuse timesteps on the CPU at which x_t says nothing of x0.

    With one noise for both sides, winner and loser are then the same input: margin and gradient are
    exactly 0, and the step is wasted (one in four of Turbo's, in the public codes).

    Raises:
        ValueError: alpha_bar is 0 at a timestep.
    """
    if t.device.type == "cpu" and int(t.max()) > schedule.last_informative:
        raise ValueError(
            f"timestep {int(t.max())} has alpha_bar 0: both sides of a pair are the same noise "
            f"there. Draw pairs up to {schedule.last_informative}."
        )


def _metrics(
    errors: Both, anchor: Both, margin: PerPair, logit: PerPair, label: PerPair, beta: Beta
) -> dict[str, Tensor]:
    margin = margin.detach()
    right = accuracy(margin)
    values = {
        "winner_error": errors[0],
        "loser_error": errors[1],
        "reference_winner_error": anchor[0],
        "reference_loser_error": anchor[1],
        "margin": margin,
        "logit": logit,
        "accuracy": torch.where(label == 0.5, torch.full_like(right, 0.5), right),
        "beta": torch.ones_like(margin) * beta,
    }
    return {name: value.detach() for name, value in values.items()}
