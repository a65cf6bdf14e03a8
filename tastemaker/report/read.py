"""A run folder as a report sees it: what was planned, what is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.recipe.yaml_text import parse_yaml
from tastemaker.records.run import Manifest
from tastemaker.store.rundir import MANIFEST, RunDir, StepDir


@dataclass(frozen=True)
class StepFacts:
    """One step of the run.

    Attributes:
        name: its name in the recipe.
        stage: what it ran.
        key: hash of all that determines its outputs.
        path: its folder.
        config: its values in the resolved recipe.
        manifest: what it left; None when it is not finished.
    """

    name: str
    stage: str
    key: str
    path: Path
    config: Mapping[str, Any]
    manifest: Manifest | None

    def output(self, kind: str) -> Path | None:
        """Where an output lies, when it is there."""
        if self.manifest is None or kind not in self.manifest.outputs:
            return None
        path = self.path / self.manifest.outputs[kind]
        return path if path.exists() else None


@dataclass(frozen=True)
class RunFacts:
    """A run, finished or not.

    Attributes:
        path: the folder.
        facts: `run.json`.
        recipe_text: the resolved recipe.
        about: what the recipe says of itself.
        steps: in order.
        energy: what was measured -> joules, over all attempts of the planned steps.
    """

    path: Path
    facts: Mapping[str, Any]
    recipe_text: str
    about: str
    steps: tuple[StepFacts, ...]
    energy: Mapping[str, float] = field(default_factory=dict)

    def of_stage(self, *stages: str) -> list[StepFacts]:
        """Finished steps of some stages."""
        return [s for s in self.steps if s.stage in stages and s.manifest is not None]

    def find(self, value: object, *kinds: str) -> Path | None:
        """What a field of a step's configuration names: an earlier step's output, or a path."""
        if not isinstance(value, str):
            return None
        for step in self.steps:
            if step.name == value:
                return next((path for kind in kinds if (path := step.output(kind))), None)
        return _outside(Path(value).expanduser(), kinds)


def read_run(path: Path) -> RunFacts:
    """Read a run folder; parts that are missing or damaged are left out, never an error."""
    run = RunDir(path)
    text = run.recipe_path.read_text(encoding="utf-8") if run.recipe_path.exists() else ""
    recipe = _recipe(text)
    configs = {step.get("name"): step for step in recipe.get("steps", []) if isinstance(step, dict)}
    steps = tuple(
        StepFacts(
            step.name,
            step.stage,
            step.key,
            step.path,
            configs.get(step.name, {}),
            _finished(step),
        )
        for step in run.steps()
    )
    return RunFacts(
        Path(path), run.facts(), text, str(recipe.get("about", "")), steps, _energy(run, steps)
    )


def _energy(run: RunDir, steps: Sequence[StepFacts]) -> dict[str, float]:
    """Joules by what was measured, of the attempts at the steps that the plan has."""
    wanted = {(step.name, step.key[:12]) for step in steps}
    found: dict[str, float] = {}
    try:
        for event in run.events():
            joules = event.get("joules")
            known = (event.get("step"), event.get("key")) in wanted
            if event.get("kind") == "energy" and known and isinstance(joules, dict):
                for name, value in joules.items():
                    if isinstance(value, int | float):
                        found[str(name)] = found.get(str(name), 0.0) + value
    except TastemakerError:
        return {}
    return found


def _outside(path: Path, kinds: tuple[str, ...]) -> Path | None:
    """An output in another run's folder, in a step's folder, or the path itself."""
    if not path.exists():
        return None
    steps = [StepDir(path)] if (path / MANIFEST).exists() else list(reversed(RunDir(path).steps()))
    for step in steps:
        manifest = _finished(step)
        for kind in kinds:
            if manifest is not None and kind in manifest.outputs:
                return step.path / manifest.outputs[kind]
    return None if steps else path


def _recipe(text: str) -> dict[str, Any]:
    try:
        found = parse_yaml(text, "recipe.yaml").value
    except TastemakerError:
        return {}
    return found if isinstance(found, dict) else {}


def _finished(step: StepDir) -> Manifest | None:
    try:
        return step.finished()
    except TastemakerError:
        return None
