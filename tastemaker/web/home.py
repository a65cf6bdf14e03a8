"""The start page: everything that lies under the studio's folder."""

from fastapi import APIRouter, Response

from tastemaker.web.library import Library
from tastemaker.web.live import summary_of
from tastemaker.web.pages import Pages


def home_routes(library: Library, pages: Pages) -> APIRouter:
    """The route of the start page."""
    router = APIRouter()

    @router.get("/")
    def home() -> Response:
        kinds = ("collection", "run", "study", "samples")
        things = {kind: library.all(kind) for kind in kinds}
        runs = [run.path for run in things["run"]]
        # Samples inside of a run are in its gallery.
        things["samples"] = [
            one
            for one in things["samples"]
            if not any(one.path.is_relative_to(run) for run in runs)
        ]
        states = {run.id: summary_of(run.path, library.steps(run.path)) for run in things["run"]}
        return pages.page("home.html.j2", things=things, states=states, root=library.root)

    return router
