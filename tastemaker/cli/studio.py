"""`tastemaker studio`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tastemaker.cli.serving import Browser, Host, HostNames, Port, Token, open_page
from tastemaker.cli.session import session as get_session

if TYPE_CHECKING:
    from tastemaker.web.rooms import Rooms


def studio(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder with runs, collections and studies.")
    ] = Path(),
    port: Port = None,
    host: Host = "127.0.0.1",
    token: Token = None,
    names: HostNames = None,
    is_opened: Browser = False,
) -> None:
    """Open the studio in a browser: collections, runs as they go on, galleries, ratings, studies.

    It answers on this machine only, unless --host says otherwise; then a token is needed, which is
    part of the address that is printed.
    """

    def started(_rooms: "Rooms", address: Callable[[str], str]) -> list[str]:
        return [f"Studio: {address('/')}"]

    open_page(
        get_session(context),
        root=folder,
        port=port,
        host=host,
        token=token,
        names=names,
        is_opened=is_opened,
        started=started,
    )
