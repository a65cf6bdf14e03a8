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

    Nothing is run. Where pictures and model are there, the texts that training would read first
    are shown, with the lengths that batches are padded to. Exit code 2 when the recipe cannot run
    as it is.
    """
    from tastemaker.cli.steps import previews, run_folder, say_finding
    from tastemaker.recipe.check import check_recipe
    from tastemaker.recipe.load import load_recipe
    from tastemaker.store.rundir import RunDir

    session = get_session(context, as_json)
    resolved = load_recipe(recipe, pairs or (), stages=session.table())
    run = RunDir(run_folder(resolved, out))
    findings = check_recipe(resolved, run)
    shown = previews(resolved, run)
    fatal = any(finding.fatal for finding in findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        told = {"recipe": resolved.name, "ready": not fatal, "findings": found}
        session.result({**told, "previews": shown})
    else:
        for step, lines in shown.items():
            session.say(f"{step}:")
            for line in lines:
                session.say(f"    {line}")
        for finding in findings:
            say_finding(session, finding)
        ready = "is not ready to run" if fatal else "is ready to run"
        count = len(resolved.steps)
        steps = "1 step" if count == 1 else f"{count} steps"
        session.say(f"{resolved.name} {ready}: {steps} checked.")
    return 2 if fatal else 0
