"""`tastemaker fit`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def fit(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a model, whole or by LoRA, on cached latents.

    For example: tastemaker fit RUN model=tiny-sdxl lr=1e-4 images_total=6000 -o RUN.
    """
    run_stage(context, "fit", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
