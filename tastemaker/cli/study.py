"""`tastemaker study`: its verbs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tastemaker.cli.serving import Browser, Host, HostNames, MinView, Port, Token, open_page
from tastemaker.cli.session import session as get_session
from tastemaker.cli.study_plan import export, import_, new, report

if TYPE_CHECKING:
    from tastemaker.web.rooms import Rooms

study = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Let people compare models blind: make a study, serve it, report what they said.",
)
for _name, _verb in (("new", new), ("report", report), ("export", export), ("import", import_)):
    study.command(_name)(_verb)


@study.command("serve")
def serve(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")],
    rater: Annotated[
        list[str] | None,
        typer.Option("--rater", metavar="NAME", help="Make or show this rater's link; repeat it."),
    ] = None,
    port: Port = None,
    host: Host = "127.0.0.1",
    token: Token = None,
    names: HostNames = None,
    min_view_ms: MinView = 300,
    is_opened: Browser = False,
) -> None:
    """Serve a study's blind pages. Each rater has a link of their own, which keeps their place.

    Nothing but these pages is served, so nobody can look up which picture is whose. The first line
    is the owner's page, with everybody's links and progress.
    """

    def started(rooms: "Rooms", address: Callable[[str], str]) -> list[str]:
        room = rooms.open(folder, "study")
        lines = [f"Owner's page: {address(f'/rate/{room.thing.id}')}"]
        for name in rater or ():
            lines.append(f"{name}: {address(room.link(room.enter(name)))}")
        return lines

    open_page(
        get_session(context),
        root=folder,
        port=port,
        host=host,
        token=token,
        names=names,
        is_opened=is_opened,
        started=started,
        only="booth",
        min_view_ms=min_view_ms,
    )
