"""`tastemaker collect`."""

import typer

from tastemaker.cli.options import (
    DryRun,
    EngineKind,
    FromRecipe,
    Json,
    Limit,
    Out,
    Sources,
    Workers,
    engine_words,
)
from tastemaker.cli.stage import run_stage


def collect(
    context: typer.Context,
    words: Sources = None,
    out: Out = None,
    recipe: FromRecipe = None,
    engine: EngineKind = None,
    workers: Workers = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Gather pictures and what is known of them into a collection.

    Sources are folders of pictures with captions beside them, metadata.jsonl or .csv, kohya's
    folders, Parquet files, webdataset tars, Pick-a-Pic, or demo:openmoji; told by their content.

    For example: tastemaker collect PICTURES -o RUN. Done again, it reads only what is new or has
    changed. The last line is the path of the step's folder.
    """
    words = [*(words or ()), *engine_words(engine, workers, limit)]
    run_stage(context, "collect", words, out=out, recipe=recipe, dry_run=dry_run, as_json=as_json)
