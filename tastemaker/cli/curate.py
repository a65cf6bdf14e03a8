"""`tastemaker curate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.options import (
    Collection,
    DryRun,
    EngineKind,
    FromRecipe,
    Json,
    Limit,
    Out,
    Workers,
    engine_words,
)
from tastemaker.cli.session import session as get_session
from tastemaker.cli.stage import run_stage


def curate(
    context: typer.Context,
    words: Collection = None,
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

    For example: tastemaker curate RUN -o RUN -r my_rules.yaml, or with the rules as text. A second
    input is an earlier selection: only its pictures are judged. Done again, it measures only what
    is new. The last lines are the paths of the report and of the step's folder.

    With --what-if sharpness=20:60 it tells how many pictures other thresholds would leave.
    """
    session = get_session(context, as_json)
    _check_what_if(what_if or ())
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


def _check_what_if(texts: Sequence[str]) -> None:
    """Refuse a slip of the pen before the work begins, which may take hours.

    Raises:
        InputError: a text is no sweep.
    """
    if texts:
        from tastemaker.curation.what_if import parse_sweep

        for text in texts:
            parse_sweep(text, [text.partition("=")[0].strip()])
