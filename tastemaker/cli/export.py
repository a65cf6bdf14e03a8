"""`tastemaker export`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def export(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a trained model in a form that other programs load.

    For example: tastemaker export RUN model=tiny-sdxl -o RUN.
    """
    run_stage(context, "export", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
