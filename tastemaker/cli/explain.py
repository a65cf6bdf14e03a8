"""`tastemaker explain`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from tastemaker.cli.options import Json, Pairs, RecipeName
from tastemaker.cli.session import session as get_session

if TYPE_CHECKING:
    from tastemaker.recipe.explain import Explained


def explain(
    context: typer.Context, recipe: RecipeName, pairs: Pairs = None, as_json: Json = False
) -> None:
    """Print every value of a recipe and where it came from.

    A value is stated in a source (with the citation), chosen by us, set by you, or names an input.
    """
    from tastemaker.recipe.explain import explain as explain_recipe
    from tastemaker.recipe.load import load_recipe

    session = get_session(context, as_json)
    resolved = load_recipe(recipe, pairs or (), stages=session.table())
    values = explain_recipe(resolved)
    if as_json:
        rows = [asdict(value) for value in values]
        session.result({"recipe": resolved.name, "seed": resolved.seed, "values": rows})
        return
    session.say(f"{resolved.name}, seed {resolved.seed}")
    if resolved.about:
        session.say(" ".join(resolved.about.split()))
    for step in resolved.steps:
        session.say(f"\n{step.name} (stage {step.stage.name})")
        mine = [value for value in values if value.path.startswith(f"{step.name}.")]
        names = [value.path.removeprefix(f"{step.name}.") for value in mine]
        shown = [json.dumps(value.value, ensure_ascii=False) for value in mine]
        wide, deep = max(map(len, names), default=0), min(max(map(len, shown), default=0), 32)
        for name, text, value in zip(names, shown, mine, strict=True):
            session.say(f"  {name:<{wide}}  {text:<{deep}}  {_why(value)}")


def _why(value: "Explained") -> str:
    if value.basis == "stated":
        return f"stated: {value.citation}"
    return value.basis if value.basis == "set by you" else f"{value.basis} ({value.origin})"
