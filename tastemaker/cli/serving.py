"""What the commands that open a page share: options, the check for packages, and the start."""

import webbrowser
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tastemaker.cli.session import Session
from tastemaker.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from tastemaker.web.rooms import Rooms

Port = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="N", min=0, max=65535, help="Default 8321 or the next free one; 0 any."
    ),
]
Host = Annotated[
    str,
    typer.Option("--host", help="Address to listen on; any but this machine's own needs a token."),
]
Token = Annotated[
    str | None,
    typer.Option("--token", help="Asked of every request; made where others can reach the page."),
]
HostNames = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="HOST", help="A further host name, as of a proxy before it."),
]
Browser = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
MinView = Annotated[
    int,
    typer.Option("--min-view-ms", min=0, help="Answers after a shorter look are not counted."),
]

PACKAGES = ("fastapi", "uvicorn", "jinja2")

Started = Callable[["Rooms", Callable[[str], str]], list[str]]
"""`started(rooms, address)`: lines to print; the first one is the page to open."""


def need_studio() -> None:
    """Check that the packages of the studio are installed.

    Raises:
        MissingExtra: one of them is not.
    """
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise MissingExtra(
            "studio",
            f"no package {' and no '.join(absent)}",
            "the packages of the studio",
            'Install them: pip install "tastemaker[studio]".',
        )


def open_page(
    session: Session,
    *,
    root: Path,
    port: int | None,
    host: str,
    token: str | None,
    names: list[str] | None,
    is_opened: bool,
    started: Started,
    only: Literal["booth"] | None = None,
    min_view_ms: int | None = None,
    rating: Mapping[str, Any] | None = None,
) -> None:
    """Serve pages until the user stops it.

    Raises:
        InputError: the folder is not there, or the address cannot be used.
        MissingExtra: the packages are not installed.
    """
    need_studio()
    from tastemaker.web.app import Settings
    from tastemaker.web.booth import MIN_VIEW_MS
    from tastemaker.web.serve import serve

    if not root.is_dir():
        raise InputError(root, "no folder", "a folder with runs or collections", "Check the path.")
    settings = Settings(
        root,
        host,
        token,
        tuple(names or ()),
        only,
        MIN_VIEW_MS if min_view_ms is None else min_view_ms,
        dict(rating or {}),
    )

    def begin(rooms: "Rooms", address: Callable[[str], str]) -> None:
        lines = started(rooms, address)
        for line in lines:
            session.say(line)
        session.say("Stop with Ctrl-C.")
        if is_opened:
            webbrowser.open(lines[0].split()[-1])

    serve(settings, port, begin)


def collection_in(path: Path) -> Path:
    """The collection that a path means: its folder, or that of a run or step that made one.

    Raises:
        InputError: there is none.
    """
    from tastemaker.web.library import steps_of

    inner = path / "collection"
    places = [path, inner, *(s.output("collection") for s in reversed(steps_of(path)))]
    for place in places:
        if place is not None and (place / "catalog" / "base" / "manifest.json").is_file():
            return place
    raise InputError(
        path,
        "no collection there",
        "a collection, or the run folder that made it",
        "Make one with `tastemaker collect PICTURES -o RUN`.",
    )
