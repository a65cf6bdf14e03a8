"""The training loop: a generator. The caller logs, validates, samples, saves and stops."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from tastemaker.errors import Diverged
from tastemaker.objectives.protocol import Terms
from tastemaker.records.run import Visit
from tastemaker.training.average import Average
from tastemaker.training.lr import LrAt
from tastemaker.training.order import rank_slice


class Share(NamedTuple):
    """The part of every step that one process of several does.

    Attributes:
        rank: number of the process.
        world: how many there are.
        add_up: makes each of these gradients the sum over all processes; every process calls it
            once in a step with gradients of the same shapes.
    """

    rank: int
    world: int
    add_up: Callable[[list[Tensor]], None]


@dataclass(frozen=True)
class Progress:
    """How far a run is: samples trained on, and optimizer steps done."""

    images: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Step:
    """One finished optimizer step; a number is copied from the device only when it is asked for.

    Attributes:
        steps: optimizer steps done, this one included (the first step has 1).
        images: samples seen by all processes, this step's included.
        lr: learning rate of the first parameter group in this step.
        visits: what the step trained on, in all processes together.
        terms: on the device, one number a sample of this process: `loss` and the objective's
            metrics, each [B]; without samples an empty `loss` alone.
        norm: on the device, the norm of the whole gradient before clipping.
    """

    steps: int
    images: int
    lr: float
    visits: tuple[Visit, ...]
    terms: dict[str, Tensor] = field(repr=False)
    norm: Tensor = field(repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples."""
        return tuple(visit.sample_id for visit in self.visits)

    @property
    def progress(self) -> Progress:
        """What a checkpoint after this step stores."""
        return Progress(self.images, self.steps)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Batch means of loss and metrics, and `grad_norm`: one copy from the device for all."""
        values = {name: term.mean() for name, term in self.terms.items()} | {"grad_norm": self.norm}
        numbers = torch.stack([value.float() for value in values.values()]).tolist()
        return dict(zip(values, numbers, strict=True))

    @property
    def loss(self) -> float:
        """Mean of the per-sample terms over the batch."""
        return self.figures["loss"]

    @property
    def grad_norm(self) -> float:
        """Norm of the whole gradient before clipping."""
        return self.figures["grad_norm"]


def train(
    terms_of: Callable[[Sequence[Visit]], Terms],
    step_of: Callable[[int], Sequence[Visit]],
    optimizer: torch.optim.Optimizer,
    *,
    lr_at: LrAt,
    images_total: int,
    micro_batch: int,
    clip_norm: float | None = None,
    average: Average | None = None,
    progress: Progress = Progress(),
    check_every: int | None = None,
    share: Share | None = None,
) -> Iterator[Step]:
    """Train until `images_total` samples were seen; the last batch is not cut, so more may be.

    The loss of a step is (1/B) sum over the B samples of the *whole* batch, whatever
    `micro_batch` and `share`: each part's sum is divided by B, never by its own length. B is the
    length of the batch that `step_of` gives, which may differ from step to step. Objectives whose
    terms depend on the other samples of the batch (`batch_kind` "whole") need micro_batch = batch,
    and one process.

    A term or a gradient norm that is not finite ends the run. On CPU this is looked at in every
    step before the weights change. On a device each look would stall it, so it is done every
    `check_every` steps (32) for all of them at once; weights may be spoilt meanwhile, which is why
    `training.state.capture` refuses weights that are not finite.

    Args:
        terms_of: samples -> per-sample terms [b] with a graph, and metrics [b].
        step_of: number of the step -> its batch; a pure function such as `DataOrder.step`.
        optimizer: its groups' `initial_lr` (else `lr`) is multiplied by `lr_at(images before the
            step)`.
        lr_at: see `training.lr`.
        images_total: samples to see in the whole run, those before `progress` included.
        micro_batch: most samples in one forward and backward pass.
        clip_norm: largest norm of the whole gradient; None does not clip.
        average: updated after every step.
        progress: where to go on.
        check_every: steps between looks for divergence; by default 1 on CPU, 32 elsewhere.
        share: when several processes train together; None is one process.

    Raises:
        Diverged: names the step and the samples.
        ValueError: terms are not one per sample.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if check_every is None:
        check_every = 1 if parameters[0].device.type == "cpu" else 32
    optimizer.zero_grad(set_to_none=True)
    images, unchecked = progress.images, []
    for number in count(progress.steps):
        if images >= images_total:
            break
        visits = tuple(step_of(number))
        own = visits if share is None else rank_slice(visits, share.rank, share.world)
        terms = _backward(terms_of, own, micro_batch, whole=len(visits))
        if share is not None:
            share.add_up(_all_gradients(parameters))
        if not own:
            terms["loss"] = torch.zeros(0, device=parameters[0].device)
        norm = _clip(parameters, clip_norm)
        unchecked.append(_Look(number + 1, own, terms["loss"], norm))
        if len(unchecked) >= check_every:
            _check(unchecked)
        factor = lr_at(images)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update()
        images += len(visits)
        yield Step(number + 1, images, optimizer.param_groups[0]["lr"], visits, terms, norm)
    _check(unchecked)


class _Look(NamedTuple):
    """What `_check` needs of a step."""

    step: int
    visits: tuple[Visit, ...]
    per_sample: Tensor
    grad_norm: Tensor


def _backward(
    terms_of: Callable[[Sequence[Visit]], Terms],
    visits: tuple[Visit, ...],
    micro_batch: int,
    whole: int,
) -> dict[str, Tensor]:
    """Add the gradient of these visits of a batch of `whole`; their terms (`loss`), metrics [B]."""
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(visits), micro_batch):
        some = visits[start : start + micro_batch]
        terms = terms_of(some)
        if terms.per_sample.shape != (len(some),):
            raise ValueError(
                f"terms of {len(some)} samples: got shape {tuple(terms.per_sample.shape)}"
            )
        if reserved := {"loss", "grad_norm"} & terms.metrics.keys():
            raise ValueError(f"metrics of an objective: {reserved} are names of the loop")
        (terms.per_sample.sum() / whole).backward()
        for name, values in {"loss": terms.per_sample, **terms.metrics}.items():
            parts.setdefault(name, []).append(values.detach())
    return {n: torch.cat(some) if len(some) > 1 else some[0] for n, some in parts.items()}


def _all_gradients(parameters: list[Tensor]) -> list[Tensor]:
    """The gradient of every trained parameter, zeros where this process had no sample for it."""
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [p.grad for p in parameters if p.grad is not None]


def _clip(parameters: list[Tensor], clip_norm: float | None) -> Tensor:
    """The gradient's norm before scaling down to `clip_norm` (Pascanu et al. 2013, alg. 1)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm


def _check(unchecked: list[_Look]) -> None:
    """Read all looks at once, and forget them."""
    looks = unchecked.copy()
    unchecked.clear()
    if not looks:
        return
    sums = torch.stack([look.per_sample.sum() + look.grad_norm for look in looks]).tolist()
    if all(map(isfinite, sums)):
        return
    for look in looks:
        finite = torch.isfinite(look.per_sample).tolist()
        ids = [v.sample_id for v, good in zip(look.visits, finite, strict=True) if not good]
        if ids:
            raise Diverged(
                f"step {look.step}: the loss of {', '.join(ids)} is not finite. "
                "Look at these samples; if they are sound, lower the learning rate "
                "and go on from the last checkpoint."
            )
        if not bool(torch.isfinite(look.grad_norm)):
            ids = [v.sample_id for v in look.visits]
            raise Diverged(
                f"step {look.step}: the gradient is not finite though the loss is; the batch was "
                f"{', '.join(ids)}. Lower the learning rate, or use a wider number format."
            )
