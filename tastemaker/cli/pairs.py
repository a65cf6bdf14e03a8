"""`tastemaker pairs`."""

import typer

from tastemaker.cli.options import DryRun, FromRecipe, Json, Out, Words
from tastemaker.cli.stage import run_stage


def pairs(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make pairs of a preferred and another picture, for preference training.

    For example, from the comparisons of a collection: tastemaker pairs collection=RUN -o RUN. From
    scored pictures: tastemaker pairs SAMPLES scores=RUN source.kind=scored source.scorer=NAME. From
    a file: tastemaker pairs file=PAIRS.jsonl source.kind=file. Other kinds are votes and self_play.
    Places without a name are generated pictures. Nothing is dropped without a reason on file;
    --dry-run tells counts, margins and examples.
    """
    run_stage(context, "pairs", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
