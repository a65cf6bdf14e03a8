"""`tastemaker fit-pairs`."""

from typing import Annotated, Literal

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def fit_pairs(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    guard: Annotated[
        Literal["off", "warn", "stop"] | None,
        typer.Option(
            "--guard",
            help="When held-out pairs show that it goes wrong: say so, or also stop and keep the "
            "best checkpoint. Short for guard.action=.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Teach a model the preferences of a pair set: DPO, or fine-tuning on the winners.

    For example: tastemaker fit-pairs RUN model=tiny-sdxl images_total=6000 -o RUN.
    """
    words = [*(words or ()), *([f"guard.action={guard}"] if guard else [])]
    run_stage(context, "fit_pairs", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
