"""`tastemaker report`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.options import Json
from tastemaker.cli.session import session as get_session
from tastemaker.errors import InputError


def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the page that compares several runs goes; default FIRST/compared.html.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of runs: one self-contained HTML file each, and one that compares several.

    The first of several runs is what the others are compared with.
    """
    from tastemaker.report.page import write_report
    from tastemaker.store.rundir import RunDir

    session = get_session(context, as_json)
    for path in runs:
        if not RunDir(path).plan():
            raise InputError(
                path, "no run folder", "a folder that `tastemaker run` made", "Check the path."
            )
    if out is not None and (len(runs) < 2 or out.is_dir()):
        got = "a folder" if len(runs) > 1 else "one run"
        raise InputError(
            f"--out {out}", got, "a file, and several runs", "Name the page, or leave it out."
        )
    pages = [write_report(path) for path in runs]
    compared = None
    if len(runs) > 1:
        from tastemaker.report.runs_page import write_runs_page

        compared = write_runs_page(runs, out)
    if as_json:
        session.result({"reports": pages, **({"compared": compared} if compared else {})})
        return
    for page in [*pages, *([compared] if compared else [])]:
        session.say(str(page))
