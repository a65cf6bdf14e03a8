"""Each value of a recipe and where it came from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from tastemaker.recipe.load import parts
from tastemaker.recipe.schema import Recipe, Step

Basis = Literal["stated", "chosen by us", "set by you", "input"]


@dataclass(frozen=True)
class Explained:
    """One value.

    Attributes:
        path: dotted, the step's name first.
        value: as plain JSON.
        origin: who set it: command line, argument, recipe, recipe seed, stage default.
        basis: whether a source states it, we chose it, the user set it, or it names an input.
        citation: where a source states it; empty otherwise.
        about: what it means.
    """

    path: str
    value: Any
    origin: str
    basis: Basis
    citation: str
    about: str


def explain(recipe: Recipe) -> list[Explained]:
    """All values of all steps, in order."""
    return [one for step in recipe.steps for one in _step(recipe, step)]


def _step(recipe: Recipe, step: Step) -> Iterator[Explained]:
    inputs = type(step.config).inputs
    for key, value, about, cited in _leaves(step.config, ""):
        origin = step.origin(key)
        path = f"{step.name}.{key}"
        if origin.kind == "stage default":
            # A citation of the whole does not cover what the recipe leaves to the stage.
            citation = recipe.stated.get(path, cited)
        else:
            citation = _citation(recipe, path)
        basis: Basis = "stated" if citation else "chosen by us"
        if origin.kind == "command line":
            basis, citation = "set by you", ""
        elif key.split(".")[0] in inputs:
            basis, citation = "input", ""
        yield Explained(path, value, str(origin), basis, citation, about)


def _leaves(config: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str, str]]:
    """(path, value, meaning, citation of the default); nested configurations are opened."""
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra
        cited = str(extra.get("stated", "")) if isinstance(extra, dict) else ""
        about = " ".join((field.description or "").split())
        yield from _plain_leaves(f"{prefix}{name}", plain[name], about, cited)


def _plain_leaves(
    path: str, value: Any, about: str, cited: str
) -> Iterator[tuple[str, Any, str, str]]:
    inside = parts(value)
    for key, part in inside.items():
        yield from _plain_leaves(f"{path}.{key}", part, about, cited)
    if not inside:
        yield path, value, about, cited


def _citation(recipe: Recipe, path: str) -> str:
    while path:
        if path in recipe.stated:
            return recipe.stated[path]
        path = path.rpartition(".")[0]
    return ""
