"""A finished curate step as its report sees it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.records.run import Manifest
from tastemaker.report.read import RunFacts, StepFacts, read_run
from tastemaker.store.rundir import StepDir

SUMMARY = "curation.json"
_COLLECTION = "collection"


@dataclass(frozen=True)
class CuratedStep:
    """A finished curation.

    Attributes:
        run: the run that it belongs to.
        step: the step itself.
        manifest: what it left.
        summary: `curation.json`.
        collection: the folder of its pictures, where that is still there.
    """

    run: RunFacts
    step: StepFacts
    manifest: Manifest
    summary: Mapping[str, Any]
    collection: Path | None


def read_curated(path: Path) -> CuratedStep:
    """Read the folder of a finished curate step.

    A step that its run folder does not list any more, because the recipe was changed, is read too;
    of its configuration nothing is known then.

    Raises:
        InputError: it is no finished curate step, or one of an older version.
    """
    path = Path(path)
    step = _step_of(path)
    run = _run_of(path)
    for one in run.steps:
        if one.path.resolve() == path.resolve():
            step = one
    manifest = step.manifest
    summary = _summary(path)
    if manifest is None or manifest.stage not in ("", "curate") or summary is None:
        raise InputError(
            path,
            "no finished curation with its figures",
            f"the folder of a curate step with manifest.json and {SUMMARY}",
            "Run `tastemaker curate` again.",
        )
    return CuratedStep(run, step, manifest, summary, collection_of(run, step))


def collection_of(run: RunFacts, step: StepFacts) -> Path | None:
    """The folder of the collection that a step worked on, where that is still there.

    A step may say itself where it lies, relative to its own folder, which still holds after both
    were moved together; else the recipe's word for it is looked up.
    """
    told = step.manifest.results.get(_COLLECTION) if step.manifest else None
    if isinstance(told, str) and (step.path / told).is_dir():
        return step.path / told
    value = step.config.get(_COLLECTION)
    found = run.find(value, _COLLECTION)
    if found is None and isinstance(value, str) and Path(value).name == run.path.resolve().name:
        # The path of the run itself, as it was seen from another folder.
        made = run.of_stage("collect")
        return made[-1].output(_COLLECTION) if made else None
    return found


def run_of_collection(collection: Path | None) -> RunFacts | None:
    """The run that made a collection, which knows where its pictures came from."""
    if collection is None:
        return None
    run = _run_of(collection.resolve().parent)
    return run if run.steps else None


def _run_of(step: Path) -> RunFacts:
    """The run of a step's folder `RUN/steps/NAME/KEY`; an empty one where it lies elsewhere."""
    folders = step.resolve().parents
    if len(folders) > 2 and folders[1].name == "steps" and (folders[2] / "steps.json").exists():
        return read_run(folders[2])
    return RunFacts(step, {}, "", "", ())


def _step_of(path: Path) -> StepFacts:
    manifest = StepDir(path).finished()
    key = manifest.key if manifest else ""
    return StepFacts(path.resolve().parent.name, "curate", key, path, {}, manifest)


def _summary(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
