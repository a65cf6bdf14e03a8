"""`tastemaker evaluate`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def evaluate(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score generated pictures and compare models, with intervals.

    For example: tastemaker evaluate RUN -o RUN.
    """
    run_stage(context, "evaluate", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
