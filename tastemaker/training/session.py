"""One training run in one folder: resume, log, validate, save, until the images are used up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from tastemaker.objectives.protocol import Terms
from tastemaker.records.run import Visit
from tastemaker.store.checkpoints import CheckpointStore
from tastemaker.store.trainlog import TrainLog
from tastemaker.training.average import Average
from tastemaker.training.loop import Progress, Step, train
from tastemaker.training.lr import lr_course
from tastemaker.training.optimizer import build_optimizer
from tastemaker.training.order import DataOrder, Key
from tastemaker.training.settings import TrainingSettings
from tastemaker.training.state import Snapshot, capture, restore
from tastemaker.training.task import Task


@dataclass(frozen=True)
class Outcome:
    """What a finished fit tells its stage.

    Attributes:
        images: images seen, repeats counted.
        steps: optimiser steps.
        figures: the last validation figures.
    """

    images: int
    steps: int
    figures: Mapping[str, float]


def fit(
    task: Task,
    ids_by_bucket: Mapping[Key, Sequence[str]],
    settings: TrainingSettings,
    folder: Path,
    on_images: Callable[..., None],
    complete: Callable[[Sequence[Visit]], Sequence[Visit]] = tuple,
    expect: Callable[[Sequence[Visit]], None] = lambda visits: None,
) -> Outcome:
    """Train `task` to the end, from the newest checkpoint in `folder` if there is one.

    On return the task's modules hold the averaged weights when `ema_decay` is set, else the last
    ones.

    Args:
        task: model, data and objective.
        ids_by_bucket: sample ids by the size of their latents or pictures, see `DataOrder`.
        settings: how long, how fast.
        folder: gets `checkpoints/` and `log/`.
        on_images: called with the number of new images and figures to show.
        complete: adds to the visits of a whole step what only all of them together tell, before
            they are split over micro-batches and processes.
        expect: told before every step what it and the next ones visit, such as `ReadAhead.expect`.

    Raises:
        Diverged: the loss is not a number.
    """
    modules = task.modules()
    optimizer = build_optimizer(modules, settings.optimizer)
    average = Average(modules, settings.ema_decay) if settings.ema_decay else None
    checkpoints = CheckpointStore(folder / "checkpoints", keep=settings.keep_checkpoints)
    position = Progress()
    if found := checkpoints.latest():
        position, _ = restore(Snapshot(found.tensors, found.state), modules, optimizer, average)
    on_images(position.images)
    order = DataOrder(ids_by_bucket, settings.batch, settings.seed)
    figures: Mapping[str, float] = {}
    with TrainLog(folder / "log", resume_at=position.images) as log:
        if position.images == 0:
            figures = _validate(task, average)
            log.scalars(0, figures)
        for step in train(
            _with_autocast(task, settings.autocast),
            announced(lambda number: complete(order.step(number)), expect),
            optimizer,
            lr_at=lr_course(settings.lr_course, settings.images_total),
            images_total=settings.images_total,
            micro_batch=settings.batch
            if task.whole_batch
            else settings.micro_batch or settings.batch,
            clip_norm=settings.clip_norm,
            average=average,
            progress=position,
        ):
            last = step.images >= settings.images_total
            if last or _due(step, settings.log_every_images):
                log.scalars(step.images, {**step.figures, "lr": step.lr})
                on_images(len(step.ids), loss=step.loss)
            else:
                on_images(len(step.ids))
            if last or _due(step, settings.validate_every_images):
                figures = _validate(task, average)
                log.scalars(step.images, figures)
            if last or _due(step, settings.save_every_images):
                snapshot = capture(modules, optimizer, average, step.progress)
                checkpoints.save(step.steps, snapshot.tensors, snapshot.state)
            position = step.progress
    if average is not None:
        average.adopt()
    return Outcome(position.images, position.steps, figures or _validate(task, None))


def announced(
    step_of: Callable[[int], Sequence[Visit]],
    expect: Callable[[Sequence[Visit]], None],
    least: int = 64,
) -> Callable[[int], Sequence[Visit]]:
    """`step_of`, which also tells what is coming: the step, the next one, and `least` visits more.

    The last steps of a run announce a few visits that never come.
    """
    steps: dict[int, Sequence[Visit]] = {}

    def step(k: int) -> Sequence[Visit]:
        coming: list[Visit] = []
        for n in count(k):
            if n not in steps:
                steps[n] = step_of(n)
            coming += steps[n]
            if n > k and len(coming) >= len(steps[k]) + least:
                break
        for old in [n for n in steps if n < k]:
            del steps[old]
        expect(coming)
        return steps[k]

    return step


def _with_autocast(task: Task, autocast: str) -> Callable[[Sequence[Visit]], Terms]:
    """The task's terms, computed under autocast when that is asked for."""
    if autocast == "none":
        return task.terms
    device = next(p.device.type for m in task.modules().values() for p in m.parameters())

    def terms(visits: Sequence[Visit]) -> Terms:
        with torch.autocast(device, torch.bfloat16):
            return task.terms(visits)

    return terms


def _due(step: Step, every: int) -> bool:
    """True at the first step that reaches another multiple of `every` images."""
    return step.images // every > (step.images - len(step.ids)) // every


def _validate(task: Task, average: Average | None) -> Mapping[str, float]:
    modules = task.modules()
    modes = {name: module.training for name, module in modules.items()}
    for module in modules.values():
        module.eval()
    try:
        if average is None:
            return task.validate()
        with average.applied():
            return task.validate()
    finally:
        for name, module in modules.items():
            module.train(modes[name])
