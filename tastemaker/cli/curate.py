"""`tastemaker curate`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def curate(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Judge a collection by rules and freeze a selection; every drop has a verdict.

    The input is a collection or the run folder that holds one: tastemaker curate RUN -o RUN.
    """
    run_stage(context, "curate", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
