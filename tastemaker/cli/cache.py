"""`tastemaker cache`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def cache(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Encode the selected pictures into latents, once.

    For example: tastemaker cache RUN model=tiny-sdxl -o RUN.
    """
    run_stage(context, "cache", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
