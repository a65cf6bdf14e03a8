"""Run a recipe for a verb: check, plan or do, and print one short summary a step."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import typer

from tastemaker.cli.session import Session

if TYPE_CHECKING:
    from tastemaker.recipe.plan import PlannedStep
    from tastemaker.recipe.schema import Recipe
    from tastemaker.records.finding import Finding
    from tastemaker.records.run import Manifest
    from tastemaker.store.rundir import RunDir

_INDENT = " " * 6


def run_folder(recipe: "Recipe", out: Path | None) -> Path:
    """Where a recipe runs: the user's choice, or `runs/tiny-demo` for `tiny/demo`."""
    return out if out is not None else Path("runs") / recipe.name.replace("/", "-")


def do_steps(
    session: Session, recipe: "Recipe", out: Path | None, *, grow: bool = False
) -> list[dict[str, Any]]:
    """Check, then run; prints every step and returns them as plain values.

    Raises:
        InputError: the check found something; everything it found has been printed.
        TastemakerError: a step failed.
    """
    from tastemaker.recipe.check import check_recipe
    from tastemaker.recipe.content import run_contents
    from tastemaker.recipe.runner import StepSkipped, StepStarted, call_here, run_recipe
    from tastemaker.recipe.together import Lead
    from tastemaker.store.rundir import RunDir

    run = RunDir(run_folder(recipe, out))
    contents = run_contents(run)
    refuse(session, check_recipe(recipe, run, contents))
    session.run = run.path
    steps: list[dict[str, Any]] = []
    call = call_here if session.processes is None else Lead(session.processes)
    with run:
        # What an earlier attempt died of is no more true.
        (run.path / "error.log").unlink(missing_ok=True)
        for event in run_recipe(
            recipe, run, command=session.command(), contents=contents, grow=grow, call=call
        ):
            place = f"[{event.number}/{event.of}] {event.name}"
            if isinstance(event, StepStarted):
                session.say(f"{place}: {'goes on' if event.resumed else 'starts'} ({event.path})")
                continue
            skipped = isinstance(event, StepSkipped)
            tell_step(session, place, event.manifest, skipped)
            status = "skipped" if skipped else "done"
            manifest = asdict(event.manifest)
            steps.append({"step": event.name, "status": status, "path": event.path, **manifest})
    return steps


def refuse(session: Session, findings: "list[Finding]") -> None:
    """Print findings; stop when one of them is fatal.

    Raises:
        InputError: the first fatal finding; all others have been printed.
    """
    from tastemaker.errors import InputError

    fatal = [finding for finding in findings if finding.fatal]
    for finding in findings:
        if not fatal or finding is not fatal[0]:
            say_finding(session, finding)
    if fatal:
        problem = fatal[0].problem.removeprefix("got ")
        got, _, expected = problem.partition("; expected ")
        raise InputError(fatal[0].where, got, expected or "what the step can use", fatal[0].todo)


def say_finding(session: Session, finding: "Finding") -> None:
    """One finding in one line."""
    kind = "Error" if finding.fatal else "Warning"
    session.say(f"{kind}: {finding.where}: {finding.problem}. {finding.todo}")


def tell_step(session: Session, place: str, manifest: "Manifest", skipped: bool) -> None:
    """The summary of one step: time, counts by reason, figures."""
    from tastemaker.engine.progress import duration

    head = "done before, nothing to do" if skipped else f"done in {duration(manifest.seconds)}"
    session.say(f"{place}: {head}")
    for values in (manifest.counts, {} if skipped else _figures(manifest.results)):
        if values:
            shown = ", ".join(_counted(name, value) for name, value in values.items())
            session.say(fill(shown, 100, initial_indent=_INDENT, subsequent_indent=_INDENT))


def _counted(name: str, value: object) -> str:
    """`kept 12`; where the name ends in a number itself, `dropped: not in the first 3: 9`."""
    return f"{name}{':' if name[-1:].isdigit() else ''} {_short(value)}"


def _figures(results: Mapping[str, object]) -> dict[str, object]:
    """The plain numbers among the results, and what was chosen; the rest is for the report."""
    plain = {n: v for n, v in results.items() if isinstance(v, int | float) or n == "best"}
    return dict(list(plain.items())[:8])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def show_plan(session: Session, recipe: "Recipe", out: Path | None) -> None:
    """Print what a run would do; leaves with exit code 2 when it cannot be done as it is."""
    from tastemaker.recipe.content import run_contents
    from tastemaker.recipe.plan import make_plan
    from tastemaker.store.rundir import RunDir

    run = RunDir(run_folder(recipe, out))
    planned, problems = make_plan(recipe, run_contents(run))
    rows = []
    for one in planned:
        step = run.step(one.step.name, one.step.stage.name, one.key)
        begun = any(event["kind"] == "started" for event in step.events())
        status = "done" if step.finished() else "goes on" if begun else "to do"
        inputs = {
            name: getattr(value, "step", None) or str(getattr(value, "path", ""))
            for name, value in one.inputs.items()
        }
        rows.append(
            {
                "step": step.name,
                "stage": step.stage,
                "status": status,
                "key": one.key,
                "inputs": inputs,
                "preview": [] if status == "done" else preview_lines(one, run),
            }
        )
    if session.as_json:
        session.result({"run": run.path, "steps": rows, "problems": [str(e) for _, e in problems]})
    else:
        _say_plan(session, recipe, run, rows)
        for _, error in problems:
            session.say(f"Error: {error}")
    if problems:
        raise typer.Exit(2)


def _say_plan(session: Session, recipe: "Recipe", run: "RunDir", rows: list[Any]) -> None:
    session.say(f"{recipe.name} in {run.path} (nothing is done with --dry-run)")
    for number, row in enumerate(rows, start=1):
        inputs = ", ".join(f"{name}={value}" for name, value in row["inputs"].items())
        session.say(f"[{number}/{len(rows)}] {row['step']}: {row['status']}  {inputs}".rstrip())
        for line in row["preview"]:
            session.say(f"{_INDENT}{line}")


def previews(recipe: "Recipe", run: "RunDir") -> dict[str, list[str]]:
    """Step -> what it would do, in lines, for the steps that are not done and can tell."""
    from tastemaker.recipe.content import run_contents
    from tastemaker.recipe.plan import make_plan

    shown = {}
    for one in make_plan(recipe, run_contents(run))[0]:
        if run.step(one.step.name, one.step.stage.name, one.key).finished() is None:
            shown[one.step.name] = preview_lines(one, run)
    return {name: lines for name, lines in shown.items() if lines}


def preview_lines(one: "PlannedStep", run: "RunDir") -> list[str]:
    """What a stage says that it would do; nothing where its inputs are not there or are wrong."""
    from tastemaker.errors import InputError
    from tastemaker.recipe.check import known_inputs

    if one.step.stage.preview is None:
        return []
    try:
        return list(one.step.stage.preview(one.step.config, known_inputs(one, run)))
    except InputError:
        return []
