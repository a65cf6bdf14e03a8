"""`tastemaker cache-pairs`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def cache_pairs(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Encode both pictures of every pair into latents of one bucket, once.

    For example: tastemaker cache-pairs RUN model=tiny-sdxl -o RUN.
    """
    run_stage(
        context, "cache_pairs", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json
    )
