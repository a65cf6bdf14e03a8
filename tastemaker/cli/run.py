"""`tastemaker run`."""

import typer

from tastemaker.cli.options import DryRun, Json, Out, Pairs, RecipeName
from tastemaker.cli.session import session as get_session


def run(
    context: typer.Context,
    recipe: RecipeName,
    pairs: Pairs = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run all steps of a recipe and write the report; goes on where an earlier run stopped.

    For example: tastemaker run tiny/demo pictures=FOLDER. Steps that are done with the same inputs
    and values are skipped. The last line is the path of the report.
    """
    from tastemaker.cli.steps import do_steps, show_plan
    from tastemaker.recipe.load import load_recipe

    session = get_session(context, as_json)
    resolved = load_recipe(recipe, pairs or (), stages=session.table())
    if dry_run:
        show_plan(session, resolved, out)
        return
    steps = do_steps(session, resolved, out)
    from tastemaker.report.page import write_report

    assert session.run is not None
    page = write_report(session.run)
    if as_json:
        session.result({"run": session.run, "steps": steps, "report": page})
    else:
        session.say(str(page))
