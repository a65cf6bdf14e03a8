"""What a recipe is: as a file (strict models), and as resolved for a run (frozen records)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from tastemaker.recipe.stages import Stage, StageTable, load_stage
from tastemaker.records.config import Config

STEP_KEYS = ("name", "stage")
"""Keys of every step; a stage's configuration with a field `name` gets the step's."""


class Argument(Config):
    """A value that a user may set by name on the command line."""

    default: Any = None
    """Taken when the user sets nothing; without a default the argument must be set."""
    about: str = ""
    """What it is, in a few words."""

    @property
    def required(self) -> bool:
        """Whether the user must set it."""
        return "default" not in self.model_fields_set


class RecipeFile(Config):
    """The keys of a recipe file."""

    name: str = Field(min_length=1)
    """Name of the recipe, for example `tiny/demo`."""
    about: str = ""
    """What it does, in a paragraph."""
    seed: int = Field(default=0, ge=0)
    """Seed of every step that has a `seed` and does not state its own."""
    arguments: dict[str, Argument] = {}
    """What a user may set by name: `tastemaker run RECIPE name=value`."""
    steps: list[dict[str, Any]] = Field(min_length=1)
    """The steps in order; each has a name, a stage and the stage's own keys."""
    stated: dict[str, str] = {}
    """Dotted path of a value -> where a source states it; all other values are chosen by us."""


OriginKind = Literal["command line", "argument", "recipe", "recipe seed", "stage default"]


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: who set it.
        note: the argument's name, for kind `argument`.
    """

    kind: OriginKind
    note: str = ""

    def __str__(self) -> str:
        """In words."""
        return f"{self.kind} '{self.note}'" if self.note else self.kind


def origin_of(origins: Mapping[str, Origin], path: str) -> Origin:
    """The origin of the nearest listed path at or above `path`, else the stage's default."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return Origin("stage default")


@dataclass(frozen=True)
class Step:
    """One resolved step.

    Attributes:
        name: unique in the recipe.
        stage: what it runs.
        config: the stage's complete configuration.
        origins: dotted path in the configuration -> where the value came from; a path that is not
            listed has the origin of the nearest listed path above it, else it is a stage default.
        where: place in the recipe file, for messages.
    """

    name: str
    stage: Stage
    config: Config
    origins: Mapping[str, Origin]
    where: str

    def origin(self, path: str) -> Origin:
        """Where the value at a dotted path came from."""
        return origin_of(self.origins, path)


@dataclass(frozen=True)
class Recipe:
    """A recipe with all its values: arguments are filled in, overrides applied, steps checked.

    Attributes:
        name: its name.
        about: what it does.
        seed: the run's seed.
        steps: in order.
        stated: dotted path -> where a source states the value.
        source: the file it came from, or `command line`.
        overrides: what the user set, as written.
    """

    name: str
    about: str
    seed: int
    steps: tuple[Step, ...]
    stated: Mapping[str, str] = field(default_factory=dict)
    source: str = "command line"
    overrides: tuple[str, ...] = ()


def json_schema(table: StageTable) -> dict[str, Any]:
    """JSON Schema of recipe files, for editors.

    Any value of a step may also be `$name`, the name of an argument.
    """
    schema = RecipeFile.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    variants = []
    for name in sorted(table):
        step = load_stage(name, table).config.model_json_schema()
        for key, value in step.pop("$defs", {}).items():
            definitions[f"{name}.{key}"] = _refs(value, name)
        step = _refs(step, name)
        for key, value in step.get("properties", {}).items():
            step["properties"][key] = {
                "anyOf": [value, {"type": "string", "pattern": r"^\$[^$]"}],
                **{k: v for k, v in value.items() if k in ("description", "default")},
            }
        step["properties"] = {
            "name": {"type": "string", "description": "For later steps to refer to."},
            "stage": {"const": name, "description": step.pop("description", "")},
            **step.get("properties", {}),
        }
        step["required"] = [*STEP_KEYS, *(k for k in step.get("required", ()) if k != "seed")]
        step["title"] = f"{name} step"
        variants.append(step)
    schema["properties"]["steps"]["items"] = {"oneOf": variants}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Recipe"}


def _refs(value: Any, stage: str) -> Any:
    """References with their stage's name, because two stages may call different things alike."""
    if isinstance(value, dict):
        return {key: _refs(part, stage) for key, part in value.items()}
    if isinstance(value, list):
        return [_refs(part, stage) for part in value]
    if isinstance(value, str) and value.startswith("#/$defs/"):
        return value.replace("#/$defs/", f"#/$defs/{stage}.")
    return value
