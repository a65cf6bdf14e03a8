"""What a run will do: every step with its inputs and its key, before anything is done."""

from collections.abc import Mapping
from dataclasses import dataclass

from tastemaker.errors import InputError
from tastemaker.recipe.content import ContentKeys
from tastemaker.recipe.inputs import find_input
from tastemaker.recipe.references import references
from tastemaker.recipe.schema import Recipe, Step
from tastemaker.records.run import Artefact
from tastemaker.store.hashing import hash_json
from tastemaker.store.rundir import RunDir, StepEntry


@dataclass(frozen=True)
class FromStep:
    """An input that an earlier step will leave."""

    step: str
    kinds: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class PlannedStep:
    """A step with its inputs and the key of its outputs.

    Attributes:
        step: the resolved step.
        inputs: name -> an artefact from outside, or what an earlier step leaves.
        key: hash of stage, version, configuration and the keys of the inputs.
    """

    step: Step
    inputs: Mapping[str, Artefact | FromStep]
    key: str

    def entry(self) -> StepEntry:
        """The step's line in the run folder."""
        name, stage = self.step.name, self.step.stage.name
        return StepEntry(name, stage, self.key, RunDir.step_path(name, self.key))


def make_plan(
    recipe: Recipe, contents: ContentKeys
) -> tuple[list[PlannedStep], list[tuple[str, InputError]]]:
    """Find the inputs and compute the key of every step.

    Returns:
        The plan, and what was not found: (place in the recipe, error). A step with a problem has a
        key that no finished step has.
    """
    planned: dict[str, PlannedStep] = {}
    problems: list[tuple[str, InputError]] = []
    for step in recipe.steps:
        inputs: dict[str, Artefact | FromStep] = {}
        missing = []
        for reference in references(step):
            earlier = planned.get(reference.value) if reference.may_be_a_step else None
            if earlier is not None:
                key = f"{earlier.key}:{'|'.join(reference.kinds)}"
                inputs[reference.name] = FromStep(reference.value, reference.kinds, key)
                continue
            try:
                inputs[reference.name] = find_input(reference, list(planned), contents)
            except InputError as error:
                problems.append((reference.where, error))
                missing.append(reference.name)
        planned[step.name] = PlannedStep(step, inputs, _key(step, inputs, missing))
    return list(planned.values()), problems


def _key(step: Step, inputs: Mapping[str, Artefact | FromStep], missing: list[str]) -> str:
    values = step.config.model_dump(mode="json")
    # An input counts by what it is, not by what it is called.
    own = {
        key: value
        for key, value in values.items()
        if key not in type(step.config).inputs and _changes_result(step, key)
    }
    keys = {name: artefact.key for name, artefact in inputs.items()}
    return hash_json(
        [step.stage.name, step.stage.version, _finite(own), keys, *([missing] if missing else [])]
    )


def _changes_result(step: Step, key: str) -> bool:
    """False for a field that says `json_schema_extra={"changes_result": False}`, like `workers`."""
    extra = type(step.config).model_fields[key].json_schema_extra
    return not isinstance(extra, dict) or extra.get("changes_result", True) is not False


def _finite(value: object) -> object:
    """Infinities as text, because a canonical JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
