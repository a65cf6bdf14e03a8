"""Plain values to a strict configuration, and what is wrong with them in words."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tastemaker.errors import RecipeError
from tastemaker.recipe.names import did_you_mean, one_of
from tastemaker.recipe.yaml_text import Path

C = TypeVar("C", bound=BaseModel)

_ONE_FOR_MANY = {"tuple_type", "list_type", "set_type", "frozen_set_type"}


def build_config(
    cls: type[C], values: Mapping[str, Any], where: Callable[[Path], str]
) -> tuple[C | None, list[RecipeError]]:
    """Make a configuration; a single value where a list is asked for becomes a list of one.

    Strict: text is no number, 1 is not true.

    Args:
        cls: the class of the configuration.
        values: plain values.
        where: names a path inside `values` for messages.

    Returns:
        The configuration and no errors, or None and all errors.
    """
    try:
        return _validate(cls, values), []
    except ValidationError as error:
        first = error
    try:
        return _validate(cls, _with_lists(values, first)), []
    except ValidationError as error:
        return None, [_translate(cls, detail, values, where) for detail in error.errors()]


def _validate(cls: type[C], values: Mapping[str, Any]) -> C:
    # In JSON mode strictness still lets a list be a tuple and a text be a path.
    return cls.model_validate_json(json.dumps(values), strict=True)


def _with_lists(values: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    changed = json.loads(json.dumps(values))
    for detail in error.errors():
        path, holder = detail["loc"], changed
        if detail["type"] not in _ONE_FOR_MANY or isinstance(detail["input"], dict):
            continue
        for part in path[:-1]:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and path[-1] in holder:
            holder[path[-1]] = [holder[path[-1]]]
    return changed


def _translate(
    cls: type[BaseModel],
    detail: Any,
    values: Mapping[str, Any],
    where: Callable[[Path], str],
) -> RecipeError:
    path = _real_path(detail["loc"], values, detail["type"])
    place = where(path)
    if detail["type"] == "extra_forbidden":
        known = field_names(cls, detail["loc"][:-1])
        return RecipeError(
            place, "an unknown key", one_of(known), did_you_mean(str(path[-1]), known, "Remove it.")
        )
    about = _about(cls, detail["loc"])
    if detail["type"] == "missing":
        return RecipeError(place, "nothing", "a value", f"Add the key. {about}".strip())
    got = repr(detail["input"])
    options = [option for option in _literals(detail) if isinstance(option, str)]
    todo = did_you_mean(str(detail["input"]), options, about or "Correct the value.")
    return RecipeError(place, got if len(got) < 80 else got[:77] + "...", _expected(detail), todo)


def _real_path(loc: Path, values: Any, kind: str) -> Path:
    """The location without pydantic's names of union members."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        inside = (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        )
        if inside:
            values = values[part]  # type: ignore[index,call-overload]
            path.append(part)
        elif number == len(loc) - 1 and kind in ("missing", "extra_forbidden"):
            path.append(part)
    return tuple(path)


def _expected(detail: Any) -> str:
    message: str = detail["msg"]
    for start in ("Input should be ", "Value error, ", "Input "):
        message = message.removeprefix(start)
    return f"a number {message}" if message.startswith(("greater", "less")) else message


def _literals(detail: Any) -> Iterable[Any]:
    text = detail.get("ctx", {}).get("expected", "") or detail.get("ctx", {}).get(
        "expected_tags", ""
    )
    return text.replace(" or ", ", ").replace("'", "").split(", ") if text else ()


def field_names(cls: type[BaseModel], path: Path) -> list[str]:
    """The keys that are allowed at a path inside a configuration."""
    return sorted({name for model in _models_at(cls, path) for name in model.model_fields})


def _about(cls: type[BaseModel], loc: Path) -> str:
    for model in _models_at(cls, loc[:-1]):
        field = model.model_fields.get(str(loc[-1])) if loc else None
        if field is not None and field.description:
            return f"It means: {' '.join(field.description.split())}"
    return ""


def _models_at(cls: type[BaseModel], path: Path) -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [cls]
    for part in path:
        tagged = [model for model in models if _answers_to(model, part)]
        inner = [
            found
            for model in models
            if part in model.model_fields
            for found in _models_in(model.model_fields[str(part)].annotation)
        ]
        models = inner or tagged or models
    return models


def _answers_to(model: type[BaseModel], tag: str | int) -> bool:
    return model.__name__ == tag or any(f.default == tag for f in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
