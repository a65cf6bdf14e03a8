"""Options that several verbs share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="RUN", help="Run folder; default runs/NAME."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A packaged recipe such as tiny/demo, or a file.")
]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Arguments of the recipe, seed=N, or any value as step.key=value.",
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT|KEY=VALUE",
        help="Inputs (a run folder or path) and values of the stage, for example lr=1e-4.",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PICTURES|KEY=VALUE",
        help="Folders, tars, Parquet files or demo:openmoji, and values such as where.split=tune.",
    ),
]
Collection = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|KEY=VALUE",
        help="The run folder with the collection, and values such as where.split=tune or "
        "'rules=[{rule: captioned}]'.",
    ),
]
FromRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", metavar="RECIPE", help="Take the values from this recipe's step."
    ),
]
EngineKind = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="pool|ray", help="Where the work is done: processes here, or Ray."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Worker processes or actors; 0 is this process."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", help="Only the first N pictures (of a source), as a trial."
    ),
]


def engine_words(engine: str | None, workers: int | None, limit: int | None) -> list[str]:
    """What `--engine`, `--workers` and `--limit` say, as `key=value` of a stage."""
    given = {"engine.kind": engine, "engine.workers": workers, "limit": limit}
    return [f"{key}={value}" for key, value in given.items() if value is not None]
