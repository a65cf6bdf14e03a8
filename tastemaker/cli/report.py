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
    as_json: Json = False,
) -> None:
    """Write the report of finished runs: one self-contained HTML file each."""
    from tastemaker.report.page import write_report
    from tastemaker.store.rundir import RunDir

    session = get_session(context, as_json)
    for path in runs:
        if not RunDir(path).plan():
            raise InputError(
                path, "no run folder", "a folder that `tastemaker run` made", "Check the path."
            )
    pages = [write_report(path) for path in runs]
    if as_json:
        session.result({"reports": pages})
    else:
        for page in pages:
            session.say(str(page))
