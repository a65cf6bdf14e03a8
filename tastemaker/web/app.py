"""The application: which pages there are, who may see them, and how errors look."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from tastemaker.errors import InputError, TastemakerError
from tastemaker.web.booth import MIN_VIEW_MS, booth_routes
from tastemaker.web.browse import browse_routes
from tastemaker.web.browser_pictures import grey_square
from tastemaker.web.gallery import gallery_routes
from tastemaker.web.guard import Guard, is_loopback, own_names
from tastemaker.web.hall import hall_routes
from tastemaker.web.home import home_routes
from tastemaker.web.library import Library
from tastemaker.web.live import live_routes
from tastemaker.web.pages import Pages, wants_page
from tastemaker.web.rooms import Rooms
from tastemaker.web.thumbs import FOLDER, Thumbnails

MENU = {"Home": "/", "Runs": "/runs"}


@dataclass(frozen=True)
class Settings:
    """What a studio is made of.

    Attributes:
        root: the folder that it shows.
        host: the address that it listens on, which decides to which names it answers.
        token: what every request must carry; None asks for none.
        names: further host names.
        only: `booth`: nothing but the pages of raters and the list of them, so that nobody who is
            asked for a blind answer can look up what is what.
        min_view_ms: the shortest look that counts.
        rating: options of every rating, as of `open_rating`.
        thumbnails: where small pictures are kept.
    """

    root: Path
    host: str = "127.0.0.1"
    token: str | None = None
    names: tuple[str, ...] = ()
    only: Literal["booth"] | None = None
    min_view_ms: int = MIN_VIEW_MS
    rating: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Path | None = None


def make_app(settings: Settings) -> tuple[FastAPI, Rooms]:
    """The application, and the rooms that it opens.

    Raises:
        InputError: an address that others can reach needs a token.
    """
    if not is_loopback(settings.host) and not settings.token:
        raise InputError(
            "host",
            f"{settings.host} without a token",
            "a token where others can reach the server",
            "Give one with --token.",
        )
    library = Library(settings.root.resolve())
    rooms = Rooms(library, settings.rating)
    pages = Pages({} if settings.only else MENU)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if settings.only is None:
            Thread(target=_warm, daemon=True).start()
        yield
        rooms.close()

    app = FastAPI(
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.include_router(booth_routes(rooms, pages, settings.min_view_ms))
    app.include_router(hall_routes(rooms, pages))
    if settings.only is None:
        thumbs = Thumbnails(settings.thumbnails or settings.root / FOLDER)
        app.include_router(home_routes(library, pages))
        app.include_router(browse_routes(library, pages, thumbs))
        app.include_router(gallery_routes(library, pages, thumbs))
        app.include_router(live_routes(library, pages, thumbs))

    @app.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        return pages.file(name, bool(request.url.query))

    _tell_errors(app, pages)
    guard: dict[str, Any] = {
        "names": own_names(settings.host, settings.names),
        "token": settings.token,
        "any_address": settings.host in ("0.0.0.0", "::"),
    }
    app.add_middleware(Guard, **guard)
    return app, rooms


def _warm() -> None:
    """Load what the first page would wait for, while nobody waits yet."""
    for name in ("duckdb", "pyarrow.json", "pyarrow.parquet", "tastemaker.stages.curate"):
        import_module(name)
    grey_square()  # loads what reads and writes pictures


def _tell_errors(app: FastAPI, pages: Pages) -> None:
    def told(request: Request, status: int, text: str) -> Response:
        if wants_page(request):
            return pages.page("problem.html.j2", status, status=status, text=text)
        return JSONResponse({"error": text}, status)

    @app.exception_handler(AnyHTTPException)
    async def plain(request: Request, error: AnyHTTPException) -> Response:
        return told(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0] if error.errors() else {"loc": (), "msg": "not understood"}
        place = ".".join(map(str, first["loc"]))
        return told(request, 422, f"{place}: {first['msg']}")

    @app.exception_handler(TastemakerError)
    async def ours(request: Request, error: TastemakerError) -> Response:
        return told(request, 400 if isinstance(error, InputError) else 500, str(error))
