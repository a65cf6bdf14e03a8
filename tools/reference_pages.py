"""Write the pages of the docs that are made from the code: commands, stages, packaged recipes.

`make fmt` calls it; a test fails when a page is older than the code.
"""

import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
_MOST_CHOICES = 5
_TAGS = ("| `kind` |", "| `name` |", "| `rule` |")
START, END = "<!-- {name}: written by tools/reference_pages.py -->", "<!-- end -->"


def stages_page() -> str:
    """Every stage with every key of its configuration."""
    from tastemaker.recipe.stages import STAGES, load_stage

    lines = [
        "# Stages",
        "",
        "What a step of a recipe can do, with every key that it takes. Made from the code: each",
        "text is the docstring under a field. An *input* names an earlier step, a path or a model.",
        "",
    ]
    for name in STAGES:
        stage = load_stage(name, STAGES)
        module = sys.modules[stage.config.__module__]
        about = re.sub(r"^Stage: ", "", (module.__doc__ or "").strip().splitlines()[0])
        lines += [f"## {name}", "", about[0].upper() + about[1:], "", _prose(stage.config), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [*_rows(stage.config, "", stage.config.inputs), ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Made from the code: the same texts as `tastemaker COMMAND --help`. Exit codes are those",
        "of [Run folders](run-folder.md#exit-codes).",
        "",
    ]
    for path, command in all_commands():
        context = command.context_class(command, info_name=" ".join(path))
        usage = [*path, *command.collect_usage_pieces(context)]
        lines += [f"## {' '.join(path)}", "", "```", " ".join(usage), "```", ""]
        lines += [_plain_help(command.help or ""), ""]
        rows = [
            _parameter_row(p, context) for p in command.params if not getattr(p, "hidden", False)
        ]
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def all_commands() -> list[tuple[tuple[str, ...], Any]]:
    """Every command that is not hidden, by the words that call it."""
    from tastemaker.cli.app import app

    return list(_commands(typer.main.get_command(app), ("tastemaker",)))


def recipes_table() -> str:
    """The packaged recipes: name, purpose, arguments."""
    from tastemaker.recipe.yaml_text import parse_yaml

    folder = REPOSITORY / "tastemaker" / "recipes"
    lines = ["| recipe | what it does | arguments |", "|---|---|---|"]
    for path in sorted(folder.rglob("*.yaml")):
        recipe = parse_yaml(path.read_text(), path.name).value
        arguments = ", ".join(
            f"`{name}`" + ("" if "default" in (about or {}) else " (must be given)")
            for name, about in (recipe.get("arguments") or {}).items()
        )
        name = path.relative_to(folder).with_suffix("").as_posix()
        lines.append(f"| `{name}` | {_cell(recipe.get('about', ''))} | {arguments} |")
    return "\n".join(lines)


def recipes_page() -> str:
    """The page on recipes, written by hand, with the list of packaged ones in its place."""
    return _between((DOCS / "recipes.md").read_text(), "packaged recipes", recipes_table())


def curation_page() -> str:
    """The page on collections, written by hand, with operations and rules in their places."""
    from tastemaker.curation.rules import AnyRule
    from tastemaker.scorers.operations import AnyOperation

    text = (DOCS / "curation.md").read_text()
    for name, union in (("operations", AnyOperation), ("rules", AnyRule)):
        content = "\n".join(line for model in models_in(union) for line in _choice(model))
        text = _between(text, name, content.strip())
    return text


PAGES = {
    "stages.md": stages_page,
    "commands.md": commands_page,
    "recipes.md": recipes_page,
    "curation.md": curation_page,
}
"""Page -> what writes it."""


def _between(text: str, name: str, content: str) -> str:
    start = START.format(name=name)
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(END)
    return f"{before}{start}\n\n{content}\n\n{END}{after}"


def _choice(model: type[BaseModel]) -> Iterator[str]:
    """One operation or rule: what it is, what it takes and what it gives."""
    yield from (f"### {_discriminator(model)}", "", _prose(model), "")
    keys = [row for row in _rows(model, "") if not row.startswith(_TAGS)]
    if keys:
        yield from ("| key | type | default | meaning |", "|---|---|---|---|", *keys, "")
    values = getattr(model, "FIELDS", {})
    if values:
        named = ", ".join(f"`{name}` ({kind})" for name, kind in values.items())
        yield from (f"Values: {named}.", "")


def _rows(
    model: type[BaseModel], prefix: str, inputs: dict[str, str] | None = None
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = models_in(field.annotation)
        kind = (
            f"input: {inputs[name]}" if inputs and name in inputs else _type_name(field.annotation)
        )
        yield f"| `{key}` | {kind} | {_default(field)} | {_cell(field.description or '')} |"
        if len(nested) > _MOST_CHOICES:
            continue  # they have a page of their own
        for inner in nested:
            choice = _discriminator(inner)
            label = f"{key} ({choice})." if len(nested) > 1 and choice else f"{key}."
            yield from _rows(inner, label)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside a type: one for a group of keys, several for a choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _discriminator(model: type[BaseModel]) -> str | None:
    for name in ("kind", "rule"):
        if name in model.model_fields:
            return str(model.model_fields[name].default)
    return None


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        parts = [_type_name(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is typing.Annotated:
        return _type_name(get_args(annotation)[0])
    if origin in (tuple, list):
        inside = dict.fromkeys(_type_name(p) for p in get_args(annotation) if p is not Ellipsis)
        return f"list of {' and '.join(inside)}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "keys and values" if origin is dict else "group"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", "value"))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        return f"`{kind}`" if kind else "below"
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return f"`{[_shown(part) for part in value]}`"
    return f"`{value}`"


def _shown(part: Any) -> Any:
    return _discriminator(type(part)) if isinstance(part, BaseModel) else part


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        if not child.hidden:
            yield from _commands(child, (*path, name))


def _parameter_row(parameter: Any, context: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = [f"`{name}`" for name in names]
    if parameter.param_type_name == "argument":
        shown = [f"`{(parameter.metavar or parameter.name.upper()).replace('|', '` or `')}`"]
    elif parameter.metavar:
        shown[-1] = f"`{names[-1]} {parameter.metavar}`"
    default = parameter.get_default(context)
    empty = default is None or default is False or default in ((), [], "") or callable(default)
    value = "*required*" if parameter.required else ("" if empty else f"`{default}`")
    return f"| {', '.join(shown)} | {value} | {_cell(parameter.help or '')} |"


def _plain_help(text: str) -> str:
    """Help text as Markdown: rich's markup goes, the marks of verbatim blocks become fences."""
    text = re.sub(r"\[/?[a-z ]+\]", "", text.replace("\f", ""))
    return re.sub(r"\x08\n((?:.+\n?)+)", lambda m: f"```\n{m[1].rstrip()}\n```\n", text).strip()


def _prose(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write what has changed."""
    for name, write in PAGES.items():
        path, text = DOCS / name, write().rstrip() + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stderr.write(f"wrote docs/{name}\n")


if __name__ == "__main__":
    main()
