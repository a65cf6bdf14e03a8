"""Plain values to a strict configuration, and what is wrong with them in words."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tastemaker.errors import RecipeError
from tastemaker.recipe.names import did_you_mean, one_of
from tastemaker.recipe.yaml_text import Path

C = TypeVar("C", bound=BaseModel)

_ONE_FOR_MANY = {"tuple_type", "list_type", "set_type", "frozen_set_type"}

_PLAIN = {"an object": "keys and values", "a valid array": "a list", "a valid string": "text"}
"""Words of JSON, as people who write YAML call them."""


def build_config(
    cls: type[C], values: Mapping[str, Any], where: Callable[[Path], str]
) -> tuple[C | None, list[RecipeError]]:
    """Make a configuration. Strict: text is no number, 1 is not true.

    A single value where a list is asked for becomes a list of one, and a part that is given in part
    keeps the rest of its default.

    Args:
        cls: the class of the configuration.
        values: plain values.
        where: names a path inside `values` for messages.

    Returns:
        The configuration and no errors, or None and all errors.
    """
    values = _with_defaults(cls, values)
    try:
        return _validate(cls, values), []
    except ValidationError as error:
        values = _with_lists(values, error)
    try:
        return _validate(cls, values), []
    except ValidationError as error:
        wrong = [detail for detail in error.errors() if not _harmless(detail)]
    if not wrong:
        try:
            return _validate(cls, values, strict=False), []
        except ValidationError as error:
            wrong = error.errors()
    return None, [_translate(cls, detail, values, where) for detail in wrong]


def _validate(cls: type[C], values: Mapping[str, Any], strict: bool = True) -> C:
    # In JSON mode strictness still lets a list be a tuple and a text be a path.
    return cls.model_validate_json(json.dumps(values), strict=strict)


def _harmless(detail: Any) -> bool:
    """Behind a validator of a stage's own, strictness takes a list for no tuple; it is one."""
    return detail["type"] in _ONE_FOR_MANY and isinstance(detail["input"], list)


def _with_defaults(cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay parts over the defaults of their fields, where those are configurations themselves."""
    merged = dict(values)
    for name, field in cls.model_fields.items():
        given, default = values.get(name), field.default
        if not isinstance(given, dict) or not isinstance(default, BaseModel):
            continue
        tag = field.discriminator if isinstance(field.discriminator, str) else None
        if tag is not None and given.get(tag, getattr(default, tag)) != getattr(default, tag):
            continue
        own = {} if tag is None else {tag: getattr(default, tag)}
        own |= default.model_dump(mode="json", exclude_unset=True)
        merged[name] = _with_defaults(type(default), {**own, **given})
    return merged


def _with_lists(values: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    changed = json.loads(json.dumps(values))
    for detail in error.errors():
        path, holder = detail["loc"], changed
        if detail["type"] not in _ONE_FOR_MANY or isinstance(detail["input"], list):
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
    if detail["type"].startswith("union_tag"):
        return _wrong_tag(cls, detail, place)
    about = _about(cls, detail["loc"])
    if detail["type"] == "missing":
        return RecipeError(place, "nothing", "a value", f"Add the key. {about}".strip())
    got = repr(detail["input"])
    options = _quoted(detail.get("ctx", {}).get("expected", ""))
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
    message = _PLAIN.get(message, message)
    return f"a number {message}" if message.startswith(("greater", "less")) else message


def _wrong_tag(cls: type[BaseModel], detail: Any, place: str) -> RecipeError:
    tag = detail["ctx"]["discriminator"].strip("'")
    known = _quoted(detail["ctx"].get("expected_tags", "")) or [
        str(model.model_fields[tag].default) for model in _models_at(cls, detail["loc"])
    ]
    got = detail["ctx"].get("tag")
    todo = did_you_mean(str(got), known, f"Write {tag}: {known[0]}, for example.")
    return RecipeError(place, f"{tag}: {got}" if got else f"no {tag}", one_of(known), todo)


def _quoted(text: Any) -> list[str]:
    """`'a', 'b' or 'c'` -> a, b, c."""
    return re.findall(r"'([^']*)'", str(text))


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
    # A place in a list is no tag: `0 == False` would take any model with a switch for the answer.
    return isinstance(tag, str) and (
        model.__name__ == tag or any(f.default == tag for f in model.model_fields.values())
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
