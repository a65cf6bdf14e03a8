"""Preference losses on pairs: margin x link x guard.

    margin   m = (r_w - e_w) - (r_l - e_l)            good is positive
    unit     u = c m                                  c by the convention of a public code
    link     loss = p f(u) + (1 - p) f(-u)            f logistic, IPO or hinge; p the label
    guard    e_l <- sg(e_l) + lambda (e_l - sg(e_l))  scales the loser's gradient, not its value

e and r are mean squared errors of policy and reference over C, H, W, for winner (w) and loser (l)
at one noise and timestep; sg stops the gradient. Methods differ in who the reference is and where
losers come from, not in this file.
Axes: B pairs, C channels, H and W latent height and width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tastemaker.diffusion.precision import widen
from tastemaker.diffusion.schedule import PredictionType
from tastemaker.objectives.protocol import ErrorSpace, Latents

PerPair = Float[Tensor, " B"]
Both = Float[Tensor, "2 B"]
"""Winners in the first row, losers in the second."""

Convention = Literal["salesforce", "diffusers_sd", "sum", "paper", "spin"]
Link = Literal["logistic", "ipo", "hinge"]
Beta = float | Float[Tensor, ""]


def _salesforce(cells: int, steps: int) -> float:
    """Half, on means: the code of the DPO paper's authors, diffusers' SDXL script, SDPO's code."""
    del cells, steps
    return 0.5


def _diffusers_sd(cells: int, steps: int) -> float:
    """One, on means: diffusers' SD script, whose beta is worth twice the same one elsewhere."""
    del cells, steps
    return 1.0


def _sum(cells: int, steps: int) -> float:
    """Half, on sums over C, H, W: the same beta is stronger for larger pictures."""
    del steps
    return 0.5 * cells


def _paper(cells: int, steps: int) -> float:
    """T |e|^2 with a squared norm, that is a sum (Wallace et al. 2023, equation 14, w = 1)."""
    return float(steps * cells)


CONVENTIONS: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "salesforce": _salesforce,
        "diffusers_sd": _diffusers_sd,
        "sum": _sum,
        "paper": _paper,
        # beta_t / (2 sigma_t^2) of SPIN's equation 4.9, constant in t and on means.
        "spin": _salesforce,
    }
)
"""Name in a recipe -> (C H W, T) -> c in the unit u = c m, so that a logit is beta u."""


def pair_margin(policy: Both, reference: Both) -> PerPair:
    """What the policy gained on winners, less that on losers: m = (r_w - e_w) - (r_l - e_l).

    Exactly 0 where policy and reference have the same errors. Exchanging winners and losers
    changes its sign and nothing else.
    """
    gained = reference - policy
    return gained[0] - gained[1]


def space_factor(
    snr: PerPair, prediction: PredictionType, space: ErrorSpace
) -> Float[Tensor, " B"]:
    """What a squared error in the network's own space is multiplied by to be one in `space`.

    At one x_t, |e|^2 = SNR |x0|^2 and |v|^2 = (SNR + 1) |x0|^2 (Salimans and Ho 2022, section 4),
    whatever the answer is, so that a margin moves between spaces without being computed anew.

    Args:
        snr: [B], above 0.
        prediction: the network's own space.
        space: where the margin is wanted; `native` gives ones.
    """
    if space == "native":
        return torch.ones_like(snr)
    on_x0 = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": torch.ones_like(snr)}
    wanted = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[space]
    return on_x0[wanted] / on_x0[prediction]


def logistic(u: PerPair, beta: Beta) -> PerPair:
    """-log sigmoid(beta u) (Wallace et al. 2023, equation 14); ln 2 at u = 0."""
    return -functional.logsigmoid(beta * u)


def ipo(u: PerPair, beta: Beta) -> PerPair:
    """(u - 1 / (2 beta))^2: stops pulling when the margin is there, where the logistic never does.

    Azar et al. 2024, "A general theoretical paradigm to understand learning from human
    preferences", equation 17. The loss is of the size 1 / beta^2: only an optimiser that does not
    mind the scale of gradients (Adam with a small epsilon) is at home with a large beta.
    """
    return (u - 1.0 / (2.0 * beta)).square()


def hinge(u: PerPair, beta: Beta) -> PerPair:
    """max(0, 1 - beta u), as in diffusers' SD script (there after SLiC, Zhao et al. 2023)."""
    return (1.0 - beta * u).clamp(min=0.0)


LINKS: Mapping[str, Callable[[PerPair, Beta], PerPair]] = MappingProxyType(
    {"logistic": logistic, "ipo": ipo, "hinge": hinge}
)
"""Name in a recipe -> (u [B], beta) -> loss [B] of a pair whose winner surely won."""


def link_loss(
    link: Link, u: PerPair, beta: Beta, label: PerPair, smoothing: float = 0.0
) -> PerPair:
    """The loss p f(u) + (1 - p) f(-u), p = (1 - s) label + s (1 - label), s the smoothing.

    With the logistic link and s > 0 this is conservative DPO (Mitchell 2023, "A note on DPO with
    noisy preferences and relationship to IPO"): its least value is at a finite logit,
    log((1 - s) / s). A tie has the label 0.5, pulls the margin to 0, and has no gradient there.

    Args:
        link: a name in `LINKS`.
        u: margins in the unit of the convention.
        beta: above 0.
        label: from 0 to 1; 1 where the winner surely won.
        smoothing: share of labels that are believed to be wrong, from 0 to 0.5.
    """
    p = ((1.0 - smoothing) * label + smoothing * (1.0 - label)).to(u.dtype)
    f = LINKS[link]
    return p * f(u, beta) + (1.0 - p) * f(-u, beta)


def winner_guard(winner: Latents, loser: Latents, mu: float) -> PerPair:
    """Scale of the loser's gradient with which, to first order, the winner's error does not rise.

        lambda = clip((1 - mu) <r_w, r_w> / <r_l, r_w>, 0, 1) where <r_l, r_w> > 0, else 1

    with the residuals r = prediction - target of the policy. A step against the gradient of
    e_w - lambda e_l, seen in the space of predictions, changes e_w by a negative multiple of
    <r_w, r_w> - lambda <r_l, r_w>. Diffusion-SDPO (Fu et al. 2025, arXiv:2511.03317); its code
    takes one lambda for all pairs of a micro-batch, ours is the pair's own, whatever its
    neighbours.

    Args:
        winner: r_w [B, C, H, W].
        loser: r_l [B, C, H, W].
        mu: from 0 (the winner's error may stand still) to 1 (losers have no gradient wherever the
            two pull the same way); 0.9 for SD1.5 and 0.6 for SDXL with DPO in its code.

    Returns:
        [B] in [0, 1], without gradient.
    """
    with torch.no_grad():
        r_w, r_l = widen(winner).flatten(1), widen(loser).flatten(1)
        own, shared = r_w.square().sum(dim=1), (r_l * r_w).sum(dim=1)
        together = shared > 0
        # The inner `where` keeps the quotient finite; its value is not used elsewhere.
        ratio = (1.0 - mu) * own / torch.where(together, shared, torch.ones_like(shared))
        return torch.where(together, ratio.clamp(0.0, 1.0), torch.ones_like(ratio))


def guarded(errors: Both, scale: PerPair) -> Both:
    """The same numbers, with the gradient of the losers' errors times `scale`."""
    loser = errors[1]
    fixed = loser.detach()
    return torch.stack([errors[0], fixed + scale * (loser - fixed)])


def accuracy(margin: PerPair) -> PerPair:
    """1 where the policy prefers the winner more than the reference does, 0.5 at no difference."""
    return 0.5 * (margin.sign() + 1.0)
