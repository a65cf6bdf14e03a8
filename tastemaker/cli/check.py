"""`tastemaker check`."""

from dataclasses import asdict

import typer

from tastemaker.cli.options import Json, Out, Pairs, RecipeName
from tastemaker.cli.session import session as get_session


def check(
    context: typer.Context,
    recipe: RecipeName,
    pairs: Pairs = None,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Find everything that can fail before the first step: recipe, pictures, models, disk.

    Nothing is run. Exit code 2 when the recipe cannot run as it is.
    """
    from tastemaker.cli.steps import run_folder, say_finding
    from tastemaker.recipe.check import check_recipe
    from tastemaker.recipe.load import load_recipe
    from tastemaker.store.rundir import RunDir

    session = get_session(context, as_json)
    resolved = load_recipe(recipe, pairs or (), stages=session.table())
    findings = check_recipe(resolved, RunDir(run_folder(resolved, out)))
    fatal = any(finding.fatal for finding in findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        session.result({"recipe": resolved.name, "ready": not fatal, "findings": found})
    else:
        for finding in findings:
            say_finding(session, finding)
        ready = "is not ready to run" if fatal else "is ready to run"
        count = len(resolved.steps)
        steps = "1 step" if count == 1 else f"{count} steps"
        session.say(f"{resolved.name} {ready}: {steps} checked.")
    return 2 if fatal else 0
