"""Everything that can fail before the first step, all at once."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tastemaker.errors import InputError, TastemakerError
from tastemaker.recipe.content import ContentKeys, run_contents
from tastemaker.recipe.plan import FromStep, PlannedStep, make_plan
from tastemaker.recipe.references import PICTURES
from tastemaker.recipe.schema import Recipe
from tastemaker.records.config import Config
from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Artefact
from tastemaker.store.rundir import RunDir, StepDir

_LEAST_FREE = 200 * 2**20
_LITTLE_FREE = 2 * 2**30


def check_recipe(recipe: Recipe, run: RunDir, contents: ContentKeys | None = None) -> list[Finding]:
    """What is wrong, fatal or not, with the inputs, the steps and the place of a run.

    Steps that are finished in the run folder are not checked again.
    """
    planned, problems = make_plan(recipe, contents or run_contents(run))
    findings = [_finding(place, error) for place, error in problems]
    findings += _place(run.path)
    for one in planned:
        step = run.step(one.step.name, one.step.stage.name, one.key)
        if step.finished() is None:
            pictures = list(_pictures(one))
            place = f"recipe.{one.step.name}."
            unfound = bool(pictures) or any(where.startswith(place) for where, _ in problems)
            findings += [*pictures, *_stage(one, run, unfound)]
    return worst_first(findings)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, the fatal ones first, else in the order of the steps."""
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.fatal)


def forecast_recipe(
    recipe: Recipe, run: RunDir, contents: ContentKeys | None = None
) -> tuple[dict[str, Forecast], list[Finding]]:
    """What the steps that are not done will take, and what is wrong with that.

    It may take seconds, because networks are looked at in full size.

    Returns:
        Step -> its forecast, for those that have one; their findings, and whether the disk holds
        what all of them write.
    """
    planned, _ = make_plan(recipe, contents or run_contents(run))
    by_name = {one.step.name: one for one in planned}
    forecasts: dict[str, Forecast] = {}
    findings: list[Finding] = []
    for one in planned:
        name, stage = one.step.name, one.step.stage
        if stage.forecast is None or run.step(name, stage.name, one.key).finished() is not None:
            continue
        known = known_inputs(one, run)
        place = f"recipe.{name}"
        coming = _coming(one, by_name, known)
        try:
            told = stage.forecast(*_on_base(one, by_name, known, run), coming)
        except TastemakerError:
            # The check has said what is wrong with what it needs.
            continue
        forecasts[name] = told
        findings += [_in_step(finding, place) for finding in told.findings]
    return forecasts, worst_first([*findings, *_disk(forecasts, run.path)])


def _on_base(
    one: PlannedStep,
    planned: Mapping[str, PlannedStep],
    known: Mapping[str, Artefact],
    run: RunDir,
) -> tuple[Config, Mapping[str, Artefact]]:
    """The step's configuration and known inputs, with a model that can be looked at.

    A model that an earlier step has yet to train has the networks, and the licence, of the one that
    this step starts from.
    """
    base = one
    while "model" not in known and isinstance(trained := base.inputs.get("model"), FromStep):
        base = planned[trained.step]
        there = known_inputs(base, run)
        known = {**known, **({"model": there["model"]} if "model" in there else {})}
    model = base.step.config.model_dump().get("model")
    if base is one or model is None:
        return one.step.config, known
    return one.step.config.model_copy(update={"model": model}), known


def _coming(
    one: PlannedStep, planned: Mapping[str, PlannedStep], known: Mapping[str, Artefact]
) -> dict[str, Config]:
    """The configurations of the earlier steps that have yet to make an input, by its name."""
    return {
        name: planned[value.step].step.config
        for name, value in one.inputs.items()
        if isinstance(value, FromStep) and name not in known
    }


def _disk(forecasts: Mapping[str, Forecast], path: Path) -> Iterator[Finding]:
    wanted = {
        f"{step}: {what}": size
        for step, told in forecasts.items()
        for what, size in told.disk_bytes.items()
    }
    there = _existing(path)
    total, free = sum(wanted.values()), shutil.disk_usage(there).free
    if total <= free:
        return
    largest = sorted(wanted.items(), key=lambda pair: -pair[1])[:4]
    parts = ", ".join(f"{what} {size / 2**30:.1f} GiB" for what, size in largest)
    yield Finding(
        str(path),
        f"the run may write {total / 2**30:.1f} GiB ({parts}), but {free / 2**30:.1f} GiB are free",
        "Free some space, choose another disk with -o, or lower keep_checkpoints.",
    )


def _in_step(finding: Finding, place: str) -> Finding:
    # Two steps may lack the same model: a place without its step is none.
    own = finding.where.startswith(place)
    return finding if own else replace(finding, where=f"{place}: {finding.where}")


def _finding(place: str, error: InputError) -> Finding:
    where = place if str(error.where) == place else f"{place}: {error.where}"
    return Finding(where, f"got {error.got}; expected {error.expected}", error.todo)


def _place(path: Path) -> Iterator[Finding]:
    there = _existing(path)
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding(str(path), f"{there} cannot be written", "Choose another run folder with -o.")
        return
    free = shutil.disk_usage(there).free
    if free < _LITTLE_FREE:
        yield Finding(
            str(path),
            f"only {free / 2**20:.0f} MiB are free there",
            "Free some space, or choose another disk with -o.",
            fatal=free < _LEAST_FREE,
        )


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(f for f in (path.absolute(), *path.absolute().parents) if f.exists())


def _pictures(one: PlannedStep) -> Iterator[Finding]:
    from tastemaker.store.sources import open_source

    for name, artefact in one.inputs.items():
        if not isinstance(artefact, Artefact) or artefact.kind != PICTURES:
            continue
        place = f"recipe.{one.step.name}.{name}"
        try:
            if open_source(str(artefact.path)).count() == 0:
                yield Finding(
                    place, f"{artefact.path} holds no pictures", "Name a folder with pictures."
                )
        except InputError as error:
            yield _finding(place, error)


def _stage(one: PlannedStep, run: RunDir, unfound: bool) -> Iterator[Finding]:
    check = one.step.stage.check
    if check is None:
        return
    place = f"recipe.{one.step.name}"
    try:
        for finding in check(one.step.config, known_inputs(one, run)):
            yield _in_step(finding, place)
    except InputError as error:
        # A stage that stumbles over an input that is not there says nothing new.
        if not unfound:
            yield _finding(place, error)
    except TastemakerError as error:
        yield Finding(place, str(error), "Correct this first.")


def known_inputs(one: PlannedStep, run: RunDir) -> dict[str, Artefact]:
    """The inputs of a step that are there: from outside, or left by a finished step."""
    known: dict[str, Artefact] = {}
    finished = {step.name: step for step in run.steps()}
    for name, value in one.inputs.items():
        if isinstance(value, Artefact):
            known[name] = value
            continue
        artefact = _finished_output(value, finished.get(value.step))
        if artefact is not None:
            known[name] = artefact
    return known


def _finished_output(value: FromStep, step: StepDir | None) -> Artefact | None:
    if step is None or not value.key.startswith(f"{step.key}:"):
        return None
    manifest = step.finished()
    kinds = [kind for kind in value.kinds if manifest is not None and kind in manifest.outputs]
    return step.output(kinds[0]) if kinds else None
