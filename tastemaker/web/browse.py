"""The pages of collections: the browser with filters, verdicts, marks, and what-if."""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from tastemaker.errors import InputError, TastemakerError
from tastemaker.store.marks import FILE as MARKS
from tastemaker.web.browse_rows import Judged, Shelf, Wish, read_judged, read_shelf
from tastemaker.web.browser_pictures import for_browser
from tastemaker.web.curated import Curation, addresses_of, curations_of, readable, swept
from tastemaker.web.library import Library, Thing
from tastemaker.web.marking import Marking
from tastemaker.web.pages import Pages
from tastemaker.web.thumbs import Thumbnails, answer_of

MOST_ROWS = 400
_ORDERS = 16


class Wanted(BaseModel):
    """Which pictures, in which order."""

    model_config = ConfigDict(extra="forbid")

    q: Annotated[str, Field(max_length=500)] = ""
    sql: Annotated[str, Field(max_length=4000)] = ""
    sort: Annotated[str, Field(max_length=200)] = ""
    down: bool = True
    curation: int = -1
    verdict: Literal["", "kept", "dropped"] = ""
    rule: Annotated[str, Field(max_length=400)] = ""
    marked: Literal["", "keep", "reject", "none"] = ""
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 100

    def wish(self) -> Wish:
        """The same, as the rows understand it."""
        kept = {"kept": True, "dropped": False}.get(self.verdict)
        return Wish(self.q, self.sql, self.sort, self.down, kept, self.rule)


class Marked(BaseModel):
    """One mark, or with null none any more."""

    model_config = ConfigDict(extra="forbid")

    picture: Annotated[str, Field(max_length=200)]
    mark: Literal["keep", "reject"] | None = None


@dataclass
class _Open:
    stamp: object
    shelf: Shelf
    curations: list[Curation]
    judged: dict[int, Judged]
    orders: OrderedDict[object, Any]


class Shelves:
    """Collections in memory, read anew when their catalogue has changed."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.marking = Marking()
        self._open: dict[str, _Open] = {}
        self._lock = Lock()

    def thing(self, id_: str) -> Thing:
        """What an address means.

        Raises:
            HTTPException: 404.
        """
        thing = self.library.find(id_, "collection")
        if thing is None:
            raise HTTPException(404, "There is no such collection.")
        return thing

    def of(self, thing: Thing, is_new_visit: bool = False) -> _Open:
        """The collection as it is now; curations are looked for when a page is opened."""
        with self._lock:
            stamp = _stamp(thing.path)
            found = self._open.get(thing.id)
            if is_new_visit and found is not None and found.stamp == stamp:
                curations = curations_of(thing.path, self.library)
                if curations != found.curations:
                    found = _Open(stamp, found.shelf, curations, {}, OrderedDict())
                    self._open[thing.id] = found
            if found is None or found.stamp != stamp:
                curations = curations_of(thing.path, self.library)
                found = _Open(stamp, read_shelf(thing.path), curations, {}, OrderedDict())
                self._open[thing.id] = found
            return found

    def judged(self, found: _Open, number: int) -> Judged | None:
        """The verdicts of one of its curations."""
        if not 0 <= number < len(found.curations):
            return None
        with self._lock:
            if number not in found.judged:
                verdicts = found.curations[number].verdicts
                found.judged[number] = read_judged(verdicts, found.shelf)
            return found.judged[number]

    def order(self, found: _Open, wanted: Wanted, judged: Judged | None) -> Any:
        """Which pictures in which order; a page asks for the same again as it scrolls."""
        key = (wanted.wish(), wanted.curation)
        with self._lock:
            known = found.orders.get(key)
        if known is None:
            known = found.shelf.order(wanted.wish(), judged)
            with self._lock:
                found.orders[key] = known
                while len(found.orders) > _ORDERS:
                    found.orders.popitem(last=False)
        return known


def browse_routes(library: Library, pages: Pages, thumbs: Thumbnails) -> APIRouter:
    """The routes below `/c/ID`."""
    router = APIRouter()
    shelves = Shelves(library)
    _picture_routes(router, shelves, thumbs)
    _what_if_route(router, shelves)
    _mark_route(router, shelves)

    @router.get("/c/{id_}")
    def page(id_: str) -> Response:
        thing = shelves.thing(id_)
        settings = {"base": f"/c/{id_}"}
        # While the browser fetches what the page is made of, the catalogue is read.
        Thread(target=_prepare, args=(shelves, thing), daemon=True).start()
        return pages.page("browse.html.j2", settings=settings, name=thing.name, id=id_)

    @router.get("/c/{id_}/facts")
    def facts(id_: str) -> dict[str, Any]:
        thing = shelves.thing(id_)
        found = shelves.of(thing, is_new_visit=True)
        curations = []
        for number, one in enumerate(found.curations):
            judged = shelves.judged(found, number)
            rules = [{"rule": r, "count": n} for r, n in judged.rules] if judged else []
            kept = int(judged.kept.sum()) if judged else 0
            curations.append({"name": one.name, "kept": kept, "rules": rules})
        return {
            "total": found.shelf.count,
            "numbers": found.shelf.numbers,
            "addresses": addresses_of(thing.path),
            "curations": curations,
            "marks": shelves.marking.of(thing.path).counts,
            "file": str(thing.path / MARKS),
            "problems": [p] if (p := shelves.marking.of(thing.path).problem) else [],
        }

    @router.get("/c/{id_}/rows")
    def rows(id_: str, wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        thing = shelves.thing(id_)
        found = shelves.of(thing)
        judged = shelves.judged(found, wanted.curation)
        marks = shelves.marking.of(thing.path).given
        try:
            order = shelves.order(found, wanted, judged)
        except InputError as problem:
            raise HTTPException(400, readable(problem)) from problem
        if wanted.marked:
            order = order[found.shelf.marked(marks, wanted.marked)[order]]
        places = order[wanted.offset : wanted.offset + wanted.limit].tolist()
        lines = found.shelf.lines(places, wanted.wish(), judged)
        for line in lines:
            line["mark"] = marks.get(line["id"])
        return {"total": len(order), "rows": lines}

    return router


def _what_if_route(router: APIRouter, shelves: Shelves) -> None:
    @router.get("/c/{id_}/what-if")
    def what_if(id_: str, column: str, curation: int = -1) -> dict[str, Any]:
        thing = shelves.thing(id_)
        curations = shelves.of(thing).curations
        chosen = curations[curation] if 0 <= curation < len(curations) else None
        try:
            return swept(thing.path, chosen, column, shelves.library)
        except TastemakerError as problem:
            raise HTTPException(400, readable(problem)) from problem


def _mark_route(router: APIRouter, shelves: Shelves) -> None:
    @router.post("/c/{id_}/mark")
    def mark(id_: str, marked: Marked) -> dict[str, int]:
        thing = shelves.thing(id_)
        if marked.picture not in shelves.of(thing).shelf.places:
            raise HTTPException(404, "no such picture")
        return shelves.marking.give(thing.path, marked.picture, marked.mark)


def _picture_routes(router: APIRouter, shelves: Shelves, thumbs: Thumbnails) -> None:
    @router.get("/c/{id_}/one/{picture}")
    def one(id_: str, picture: str, curation: int = -1) -> dict[str, Any]:
        found = shelves.of(shelves.thing(id_))
        if picture not in found.shelf.places:
            raise HTTPException(404, "no such picture")
        told = found.shelf.whole(picture, shelves.judged(found, curation))
        return {name: _plain(value) for name, value in told.items()}

    @router.get("/c/{id_}/t/{picture}")
    def small(id_: str, picture: str) -> Response:
        return thumbs.answer(_path(shelves, id_, picture), key=picture)

    @router.get("/c/{id_}/p/{picture}")
    def whole(id_: str, picture: str) -> Response:
        path = _path(shelves, id_, picture)
        return answer_of(lambda: for_browser(path, max_side_px=4096))


def _path(shelves: Shelves, id_: str, picture: str) -> Path:
    shelf = shelves.of(shelves.thing(id_)).shelf
    if picture not in shelf.places:
        raise HTTPException(404, "no such picture")
    return shelf.path(picture)


def _prepare(shelves: Shelves, thing: Thing) -> None:
    with suppress(TastemakerError, HTTPException):
        shelves.of(thing)  # what is wrong is told to who asks for the rows


def _stamp(collection: Path) -> object:
    """What changes when pictures or columns come."""
    catalog = collection / "catalog"
    files = [catalog / "base" / "manifest.json", *sorted((catalog / "col").glob("*/manifest.json"))]
    return tuple((str(f), f.stat().st_mtime_ns) for f in files if f.exists())


def _plain(value: Any) -> Any:
    """JSON-ready: numbers that are none as null, long lists cut."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value[:64]]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
