"""The `tastemaker` command: its verbs, and how errors reach the user."""

import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tastemaker import __version__
from tastemaker.cli import (
    cache,
    cache_pairs,
    check,
    collect,
    curate,
    doctor,
    evaluate,
    explain,
    export,
    fit,
    fit_pairs,
    generate,
    pairs,
    prompts,
    rate,
    refresh,
    report,
    run,
    schema,
    studio,
    study,
)
from tastemaker.cli.launch import follow_first, launched, lead
from tastemaker.cli.session import Session
from tastemaker.errors import InputError, TastemakerError

if TYPE_CHECKING:
    from tastemaker.recipe.stages import Stage


def _flowing(text: str) -> str:
    """Paragraphs as single lines: the terminal breaks them where it ends."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")).strip()


app = typer.Typer(
    help="Teach a text-to-image model your taste, and prove that it learned it.",
    epilog="Start with: tastemaker run tiny/demo. Exit codes: 0 done, 1 the work failed, "
    "2 the input or recipe is wrong, 130 stopped by you.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verbs, _panel in (
    ((run.run, check.check, explain.explain, report.report), "Recipes"),
    (
        (
            collect.collect,
            curate.curate,
            cache.cache,
            refresh.refresh,
            fit.fit,
            fit_pairs.fit_pairs,
            generate.generate,
            evaluate.evaluate,
            pairs.pairs,
            cache_pairs.cache_pairs,
            export.export,
        ),
        "Single stages",
    ),
    ((rate.rate, studio.studio), "People"),
    ((prompts.prompts, doctor.doctor, schema.schema), "Help"),
):
    for _verb in _verbs:
        app.command(rich_help_panel=_panel, help=_flowing(_verb.__doc__ or ""))(_verb)
app.add_typer(study.study, name="study", rich_help_panel="People")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tastemaker {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main(
    words: Sequence[str] | None = None, *, stages: "Mapping[str, str | Stage] | None" = None
) -> int:
    """Run one command line.

    Args:
        words: what follows `tastemaker`; by default the process's own.
        stages: other stages than the package's, for tests.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if words is None else words)
    # On import it tells of a kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    session = Session(words, stages)
    if (processes := launched()) is None:
        return _command(words, session)
    if processes.rank:
        return follow_first(processes, session.table())
    session.processes = processes
    return lead(processes, lambda: _command(words, session))


def _command(words: list[str], session: Session) -> int:
    """Run the command of this process; the exit code."""
    try:
        code = app(words, obj=session, prog_name="tastemaker", standalone_mode=False)
    except TastemakerError as error:
        return _tell(error, session)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Stopped. What was finished is kept; the same command goes on.", err=True)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        show = getattr(error, "show", None)
        if callable(show):
            show()
            return int(getattr(error, "exit_code", 2))
        return _tell_unexpected(error, session)
    return code if isinstance(code, int) else 0


def _tell(error: TastemakerError, session: Session) -> int:
    typer.echo(f"Error: {error}", err=True)
    for note in getattr(error, "__notes__", ()):
        # A traceback from a worker process is for the log.
        if "\n" not in note:
            typer.echo(f"  {note}", err=True)
    if session.as_json:
        details = {"kind": type(error).__name__, "message": str(error)}
        if isinstance(error, InputError):
            parts = {"where": error.where, "got": error.got, "expected": error.expected}
            details |= {name: str(part) for name, part in parts.items()} | {"todo": error.todo}
        session.result({"error": details})
    return error.exit_code


def _tell_unexpected(error: Exception, session: Session) -> int:
    text = "".join(traceback.format_exception(error))
    place = "the lines above"
    if session.run is not None and session.run.is_dir():
        log = session.run / "error.log"
        try:
            log.write_text(text, encoding="utf-8")
            place = str(log)
        except OSError:
            typer.echo(text, err=True)
    else:
        typer.echo(text, err=True)
    typer.echo(
        f"Error: something unforeseen: {type(error).__name__}: {error}. What was finished is kept. "
        f"This is a defect of Tastemaker: please report it with {place}.",
        err=True,
    )
    if session.as_json:
        session.result({"error": {"kind": type(error).__name__, "message": str(error)}})
    return 1
