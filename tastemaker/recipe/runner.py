"""Run the steps of a recipe: skip what is done, do the rest, leave a manifest after each."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tastemaker.errors import Interrupted, RecipeError, TastemakerError
from tastemaker.recipe.content import ContentKeys, run_contents
from tastemaker.recipe.facts import machine, versions
from tastemaker.recipe.grow import grown
from tastemaker.recipe.load import resolved_text
from tastemaker.recipe.plan import FromStep, PlannedStep, make_plan
from tastemaker.recipe.schema import Recipe
from tastemaker.recipe.stages import Stage
from tastemaker.records.config import Config
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.energy import joules_between, read_energy, visible_gpus
from tastemaker.store.hashing import hash_bytes
from tastemaker.store.rundir import RunDir, StepDir


@dataclass(frozen=True)
class StepStarted:
    """A step begins, or goes on where an earlier attempt stopped.

    Attributes:
        name: the step.
        number: its place, from 1.
        of: how many steps there are.
        stage: what it runs.
        path: its folder.
        resumed: whether an earlier attempt has been here.
    """

    name: str
    number: int
    of: int
    stage: str
    path: Path
    resumed: bool


@dataclass(frozen=True)
class StepDone:
    """A step is finished."""

    name: str
    number: int
    of: int
    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class StepSkipped:
    """A step had been finished before, with the same inputs and configuration."""

    name: str
    number: int
    of: int
    path: Path
    manifest: Manifest


StepEvent = StepStarted | StepDone | StepSkipped

Call = Callable[[Stage, Config, Mapping[str, Artefact], StepDir], Manifest]
"""How the work of a stage is done."""


def call_here(
    stage: Stage, config: Config, inputs: Mapping[str, Artefact], step: StepDir
) -> Manifest:
    """Do the work in this process alone."""
    return stage.run(config, inputs, step)


def run_recipe(
    recipe: Recipe,
    run: RunDir,
    *,
    command: Sequence[str] = (),
    contents: ContentKeys | None = None,
    grow: bool = False,
    call: Call = call_here,
) -> Iterator[StepEvent]:
    """Do every step of a recipe that is not done, in order; yield what happens.

    The run folder must have been entered (`with RunDir(path) as run`), which holds its lock.

    Args:
        recipe: the resolved recipe.
        run: where to work.
        command: what the user typed, for the record and for the message after Ctrl-C.
        contents: hashes of inputs, when some are known already.
        grow: keep the steps that the folder has from earlier recipes, and add these.
        call: does the work of each stage, such as `together.Lead`.

    Raises:
        RecipeError: an input is not there; further ones are its notes.
        Interrupted: Ctrl-C.
        TastemakerError: a step failed; a note names the step.
    """
    contents = contents or run_contents(run)
    planned, problems = make_plan(recipe, contents)
    if problems:
        first, *others = [error for _, error in problems]
        for other in others:
            first.add_note(str(other))
        raise first
    contents.save()
    text = resolved_text(recipe)
    entries = [one.entry() for one in planned]
    if grow:
        text, entries = grown(run, text, entries)
    run.save_recipe(text)
    run.save_plan(entries)
    facts = _facts(recipe, text, command, run.facts())
    run.save_facts(facts)
    run.event("run", recipe=recipe.name, command=list(command))
    done: dict[str, StepDir] = {}
    for number, one in enumerate(planned, start=1):
        name, stage = one.step.name, one.step.stage.name
        step = run.step(name, stage, one.key)
        done[name] = step
        manifest = step.finished()
        if manifest is not None:
            step.event("skipped")
            yield StepSkipped(name, number, len(planned), step.path, manifest)
            continue
        resumed = any(event["kind"] == "started" for event in step.events())
        yield StepStarted(name, number, len(planned), stage, step.path, resumed)
        manifest = _run_step(one, step, done, command, call)
        yield StepDone(name, number, len(planned), step.path, manifest)
    run.save_facts(_facts(recipe, text, command, facts) | {"started": facts["started"]})
    run.event("run finished")


def _run_step(
    one: PlannedStep,
    step: StepDir,
    done: Mapping[str, StepDir],
    command: Sequence[str],
    call: Call,
) -> Manifest:
    before = step.seconds_so_far()
    step.path.mkdir(parents=True, exist_ok=True)
    step.event("started", stage=step.stage)
    start, energy = time.monotonic(), read_energy()
    try:
        inputs = {name: _artefact(value, name, step, done) for name, value in one.inputs.items()}
        manifest = call(one.step.stage, one.step.config, inputs, step)
        seconds = round(before + time.monotonic() - start, 3)
        manifest = step.finish(replace(manifest, stage=step.stage, seconds=seconds))
    except KeyboardInterrupt:
        step.event("interrupted")
        again = f": {shlex.join(command)}" if command else ""
        raise Interrupted(
            f"Stopped in step '{step.name}'. What was finished is kept; the same command goes on "
            f"from there{again}"
        ) from None
    except Exception as error:
        # The log may be what cannot be written; the error itself matters more.
        with contextlib.suppress(TastemakerError):
            step.event("failed", error=f"{type(error).__name__}: {error}")
        error.add_note(f"This was in step '{step.name}' ({step.stage}).")
        raise
    finally:
        joules = joules_between(energy, read_energy(), visible_gpus())
        if joules:
            with contextlib.suppress(TastemakerError):
                step.event("energy", joules=joules)
    step.event("finished", seconds=manifest.seconds, counts=manifest.counts)
    return manifest


def _artefact(
    value: Artefact | FromStep, name: str, step: StepDir, done: Mapping[str, StepDir]
) -> Artefact:
    if isinstance(value, Artefact):
        return value
    source = done[value.step]
    manifest = source.finished()
    outputs = manifest.outputs if manifest is not None else {}
    for kind in value.kinds:
        if kind in outputs:
            return replace(source.output(kind), key=value.key)
    raise RecipeError(
        f"recipe.{step.name}.{name}",
        f"the step '{value.step}', which left {', '.join(outputs) or 'nothing'}",
        f"a step that leaves {' or '.join(value.kinds)}",
        "Name another step.",
    )


def _facts(
    recipe: Recipe, text: str, command: Sequence[str], before: Mapping[str, Any]
) -> dict[str, Any]:
    here = machine()
    # The device is only known once a step has loaded torch; a run that only skips keeps it.
    device = here["device"] or before.get("machine", {}).get("device")
    return {
        "recipe": recipe.name,
        "recipe_hash": hash_bytes(text.encode()),
        "source": recipe.source,
        "overrides": list(recipe.overrides),
        "command": list(command),
        "seed": recipe.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": {**here, "device": device},
    }
