"""`tastemaker collect`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def collect(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Gather pictures and what is known of them into a collection.

    Inputs are folders or sources such as demo:openmoji: tastemaker collect PICTURES -o RUN.
    """
    run_stage(context, "collect", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
