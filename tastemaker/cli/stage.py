"""What all verbs of a single stage do: one step, in a run folder that may hold others."""

from pathlib import Path
from typing import Any

import typer

from tastemaker.cli.session import session as get_session


def run_stage(
    context: typer.Context,
    stage: str,
    words: list[str] | None,
    *,
    out: Path | None,
    recipe: str | None,
    dry_run: bool,
    as_json: bool,
    tell: bool = True,
) -> list[dict[str, Any]] | None:
    """Run one stage with inputs and values from the command line.

    Returns:
        The steps as plain values, or None after `--dry-run`; with `tell` their result has been
        printed.

    Raises:
        TastemakerError: the words do not fit the stage, or the work failed.
    """
    from tastemaker.cli.steps import do_steps, run_folder, show_plan
    from tastemaker.recipe.single import single_step

    session = get_session(context, as_json)
    one = single_step(stage, words or (), taken_from=recipe, stages=session.table())
    out = out if out is not None else Path("runs") / stage
    if dry_run:
        show_plan(session, one, out)
        return None
    steps = do_steps(session, one, out, grow=True)
    if tell and as_json:
        session.result({"run": run_folder(one, out), "steps": steps})
    elif tell:
        session.say(str(steps[-1]["path"]))
    return steps
