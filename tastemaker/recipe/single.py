"""A recipe of one step, from a command line or from the step of another recipe."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tastemaker.errors import RecipeError
from tastemaker.recipe.find import find_recipe, read_recipe
from tastemaker.recipe.load import resolve_recipe
from tastemaker.recipe.names import one_of
from tastemaker.recipe.schema import STEP_KEYS, Recipe
from tastemaker.recipe.stages import STAGES, StageTable, load_stage
from tastemaker.recipe.yaml_text import YamlText, dump_yaml, parse_yaml

_SOURCE = "command line"


def single_step(
    stage: str,
    words: Sequence[str],
    *,
    taken_from: str | None = None,
    stages: StageTable = STAGES,
) -> Recipe:
    """A recipe that runs one stage.

    Words are `key=value` pairs of the stage's configuration, `seed=N`, or places of inputs: several
    places go to the inputs in order; a single one (mostly a run folder) stands for every input
    that is required, no model and not given by name. An input that is a list takes all places,
    unless others are required and it is not.

    Args:
        stage: name of the stage.
        words: as typed.
        taken_from: a recipe whose step of this stage gives the values that are not typed.
        stages: the stages there are.

    Raises:
        RecipeError: something does not fit.
    """
    yaml = YamlText({"name": stage, "steps": [{"name": stage, "stage": stage}]}, {}, _SOURCE)
    if taken_from is not None:
        yaml = _taken_from(taken_from, stage)
    document = yaml.value
    step = document["steps"][0]
    pairs = [word for word in words if _is_pair(word)]
    places = [word for word in words if not _is_pair(word)]
    given = {pair.partition("=")[0].strip() for pair in pairs}
    inputs = load_stage(stage, stages).config
    step.update(_placed(stage, inputs, places, given, set(step)))
    _check_inputs(stage, step["name"], inputs, given | set(step))
    whole = {"seed", *document.get("arguments", {})}
    overrides = [
        pair if pair.partition("=")[0] in whole else f"{step['name']}.{pair}" for pair in pairs
    ]
    return resolve_recipe(yaml, _SOURCE, overrides, stages=stages)


def _is_pair(word: str) -> bool:
    """`lr=1e-4` is a pair; `./a=b`, `/a=b` and an existing file are places."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.replace(".", "").replace("_", "").isalnum() and key[0] != "."


def _placed(
    stage: str, config: Any, places: list[str], typed: set[str], in_recipe: set[str]
) -> dict[str, Any]:
    """Input field -> place or places; a required input that the recipe names gives way to one."""
    free = {
        field: kinds
        for field, kinds in config.inputs.items()
        if field not in typed
        and (field not in in_recipe or config.model_fields[field].is_required())
    }
    if not places:
        return {}
    data = [field for field, kinds in free.items() if "model" not in kinds.split("|")]
    needed = [field for field in data if _takes_place(config.model_fields[field])]
    lists = [f for f in needed or free if _is_list(config.model_fields[f].annotation)]
    if lists:
        return {lists[0]: places}
    if len(places) == 1:
        return dict.fromkeys(needed or data[:1] or list(free)[:1], places[0])
    if len(places) > len(free):
        raise RecipeError(
            f"tastemaker {stage}",
            f"{len(places)} places",
            f"at most {len(free)}: {', '.join(free) or 'its inputs are all given'}",
            "Write key=value for what is no input.",
        )
    return dict(zip(free, places, strict=False))


def _check_inputs(stage: str, step: str, config: Any, given: set[str]) -> None:
    needed = [name for name in config.inputs if config.model_fields[name].is_required()]
    lacking = [name for name in needed if name not in given]
    if lacking:
        kinds = config.inputs[lacking[0]].replace("|", " or ")
        raise RecipeError(
            f"recipe.{step}.{lacking[0]} (command line)",
            "nothing",
            f"the path of {kinds}",
            f"Write tastemaker {stage} PLACE, or {' and '.join(f'{n}=PLACE' for n in lacking)}.",
        )


def _takes_place(field: FieldInfo) -> bool:
    """Required, or marked so because it stands for what else would be required."""
    extra = field.json_schema_extra
    return field.is_required() or (isinstance(extra, dict) and extra.get("place") is True)


def _is_list(annotation: Any) -> bool:
    text = str(annotation)
    return text.startswith(("tuple[", "list[")) or any(_is_list(a) for a in get_args(annotation))


def _taken_from(reference: str, stage: str) -> YamlText:
    """A recipe's step of this stage as a recipe of its own, with the lines of its file."""
    path = find_recipe(reference)
    yaml = parse_yaml(read_recipe(path), path.name)
    value = yaml.value
    steps = value.get("steps") if isinstance(value, dict) else None
    steps = [step for step in steps or [] if isinstance(step, dict)]
    fitting = [step for step in steps if step.get("stage") == stage]
    if len(fitting) != 1:
        raise RecipeError(
            f"recipe '{reference}'",
            f"{len(fitting)} steps of stage {stage}",
            "one",
            f"Choose another recipe (its stages: {one_of(str(s.get('stage')) for s in steps)}).",
        )
    names = {step.get("name") for step in steps}
    # Its inputs are steps that are not here.
    step = {
        key: part
        for key, part in fitting[0].items()
        if key in STEP_KEYS or not (isinstance(part, str) and part in names)
    }
    text = dump_yaml(step)
    arguments = {
        name: about for name, about in (value.get("arguments") or {}).items() if f"${name}" in text
    }
    stated = {
        path: citation
        for path, citation in (value.get("stated") or {}).items()
        if path.startswith(f"{step['name']}.")
    }
    kept = {key: value[key] for key in ("name", "about", "seed") if key in value}
    document = {**kept, "arguments": arguments, "steps": [step], "stated": stated}
    own = ("steps", value["steps"].index(fitting[0]))
    lines = {
        ("steps", 0, *place[2:]) if place[:2] == own else place: line
        for place, line in yaml.lines.items()
        if place[:1] != ("steps",) or len(place) == 1 or place[:2] == own
    }
    return YamlText(document, lines, yaml.name)
