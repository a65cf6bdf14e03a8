"""`tastemaker generate`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def generate(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate the pictures of a prompt set with a model.

    For example: tastemaker generate RUN model=tiny-sdxl -o RUN.
    """
    run_stage(context, "generate", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
