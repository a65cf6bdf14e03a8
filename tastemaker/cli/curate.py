"""`tastemaker curate`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.options import (
    DryRun,
    EngineKind,
    FromRecipe,
    Json,
    Limit,
    Out,
    Words,
    Workers,
    engine_words,
)
from tastemaker.cli.session import session as get_session
from tastemaker.cli.stage import run_stage


def curate(
    context: typer.Context,
    words: Words = None,
    out: Out = None,
    recipe: FromRecipe = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="COLUMN=LOW:HIGH",
            help="How many pictures would be left along a threshold, with a plot; may be repeated.",
        ),
    ] = None,
    engine: EngineKind = None,
    workers: Workers = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure a collection, judge it by rules and freeze a selection; every drop has a verdict.

    The input is a collection or the run folder that holds one: tastemaker curate RUN -r RECIPE.
    The last lines are the paths of the report and of the step's folder. For example,
    --what-if sharpness=20:60 tells how many pictures other thresholds would leave.
    """
    words = [*(words or ()), *engine_words(engine, workers, limit)]
    steps = run_stage(
        context,
        "curate",
        words,
        out=out,
        recipe=recipe,
        dry_run=dry_run,
        as_json=as_json,
        tell=False,
    )
    if steps is None:
        return
    from tastemaker.report.curation_page import write_curation_page
    from tastemaker.report.what_if import sweep_table, write_what_if

    session = get_session(context, as_json)
    step = Path(steps[-1]["path"])
    swept = [write_what_if(step, text) for text in what_if or ()]
    page = write_curation_page(step)
    if as_json:
        found = [{"plot": one.plot, **one.figures()} for one in swept]
        session.result({"run": session.run, "steps": steps, "report": page, "what_if": found})
        return
    for one in swept:
        session.say(sweep_table(one))
        session.say(str(one.plot))
    session.say(str(page))
    session.say(str(step))
