"""The gallery's pages: prompts by models, sorted by what differs, with marks to keep or reject."""

import csv
import io
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from tastemaker.errors import TastemakerError
from tastemaker.store.people import FILE as PEOPLE
from tastemaker.store.samples import SAMPLES
from tastemaker.web.browser_pictures import for_browser
from tastemaker.web.gallery_rows import Gallery, gallery_of
from tastemaker.web.library import Kind, Library, Thing, stamp_of
from tastemaker.web.marking import Marking
from tastemaker.web.pages import Pages
from tastemaker.web.sample_lines import Cell
from tastemaker.web.thumbs import Thumbnails, answer_of

MOST_ROWS = 200
_FRESH_SECONDS = 3.0
_KINDS: tuple[Kind, ...] = ("run", "study", "samples")

By = Literal["prompt", "gain", "loss", "apart", "people", "disagreement"]


class Marked(BaseModel):
    """One mark, or with null none any more."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=200)]
    prompt_id: Annotated[str, Field(max_length=1000)]
    index: Annotated[int, Field(ge=0)]
    mark: Literal["keep", "reject"] | None = None


class Wanted(BaseModel):
    """Which rows, in which order."""

    model_config = ConfigDict(extra="forbid")

    by: By = "prompt"
    scorer: str = ""
    a: int = 0
    b: int = 0
    q: str = ""
    category: str = ""
    marked: Literal["", "keep", "reject"] = ""
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


@dataclass
class _Kept:
    stamp: tuple[object, ...]
    made: float
    gallery: Gallery


class Galleries:
    """Galleries in memory, made anew when what they show has changed."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.marking = Marking()
        self._kept: dict[str, _Kept] = {}
        self._lock = Lock()

    def thing(self, id_: str) -> Thing:
        """What an address means.

        Raises:
            HTTPException: 404.
        """
        for kind in _KINDS:
            if (thing := self.library.find(id_, kind)) is not None:
                return thing
        raise HTTPException(404, "There are no such pictures.")

    def of(self, thing: Thing) -> Gallery:
        """The gallery of a run, a study or a sample set as it is now."""
        with self._lock:
            kept = self._kept.get(thing.id)
            if kept is not None and time.monotonic() - kept.made < _FRESH_SECONDS:
                return kept.gallery
            stamp = self._stamp(thing)
            if kept is None or kept.stamp != stamp:
                kept = _Kept(stamp, 0.0, gallery_of(thing, self.library))
                self._kept[thing.id] = kept
            kept.made = time.monotonic()
            return kept.gallery

    def _stamp(self, thing: Thing) -> tuple[object, ...]:
        files = [thing.path / "steps.json", thing.path / "events.jsonl", thing.path / SAMPLES]
        if thing.kind == "run":
            files += [step.path / "samples" / SAMPLES for step in self.library.steps(thing.path)]
        for study in self.library.all("study"):
            files += [study.path / f"{PEOPLE}{end}" for end in ("", "-wal")]
        return tuple(stamp_of(file) for file in files)


def gallery_routes(library: Library, pages: Pages, thumbs: Thumbnails) -> APIRouter:
    """The routes below `/gallery/ID`."""
    router = APIRouter(prefix="/gallery/{id_}")
    galleries = Galleries(library)

    def cell(id_: str, m: int, i: int, p: str) -> Cell:
        gallery = galleries.of(galleries.thing(id_))
        row = gallery.row_of(p, i)
        found = gallery.cells(row)[m] if row is not None and 0 <= m < len(gallery.models) else None
        # A study names its files wherever they lie; the files of a set stay in the set.
        if found is None or (gallery.pictures[m].folder and not library.holds(found.path)):
            raise HTTPException(404, "no such picture")
        return found

    @router.get("")
    def page(id_: str) -> Response:
        thing = galleries.thing(id_)
        settings = {"base": f"/gallery/{id_}"}
        # While the browser fetches what the page is made of, its rows are read.
        Thread(target=_prepare, args=(galleries, thing), daemon=True).start()
        return pages.page("gallery.html.j2", settings=settings, name=thing.name)

    @router.get("/facts")
    def facts(id_: str) -> dict[str, Any]:
        thing = galleries.thing(id_)
        gallery = galleries.of(thing)
        marks = galleries.marking.of(thing.path)
        return {
            "models": gallery.models,
            "scorers": [{"name": n, "lower": n in gallery.lower} for n in gallery.scores],
            "problems": [*gallery.problems, *([marks.problem] if marks.problem else [])],
            "marks": marks.counts,
            "categories": sorted({c for c in gallery.categories if c}),
            "total": len(gallery.keys),
            "voted": [list(pair) for pair in gallery.shares],
        }

    @router.get("/rows")
    def rows(id_: str, wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        thing = galleries.thing(id_)
        gallery = galleries.of(thing)
        last = max(len(gallery.models) - 1, 0)
        a, b = min(max(wanted.a, 0), last), min(max(wanted.b, 0), last)
        marks: dict[str, Any] = dict(galleries.marking.of(thing.path).given)
        where = _where(gallery, wanted, marks)
        order = gallery.order(wanted.by, wanted.scorer, a, b, where)
        some = order[wanted.offset : wanted.offset + wanted.limit]
        tables = _values(gallery, wanted.scorer, a, b)
        lines = [_line(gallery, int(row), tables, marks) for row in some]
        return {"total": len(order), "rows": lines}

    @router.get("/t")
    def small(id_: str, m: int, i: int, p: str) -> Response:
        return thumbs.answer(cell(id_, m, i, p).path)

    @router.get("/p")
    def whole(id_: str, m: int, i: int, p: str) -> Response:
        path = cell(id_, m, i, p).path
        return answer_of(lambda: for_browser(path, max_side_px=4096))

    _mark_routes(router, galleries)
    return router


def _mark_routes(router: APIRouter, galleries: Galleries) -> None:
    @router.post("/mark")
    def mark(id_: str, marked: Marked) -> dict[str, int]:
        thing = galleries.thing(id_)
        gallery = galleries.of(thing)
        if gallery.row_of(marked.prompt_id, marked.index) is None or (
            marked.model not in gallery.models
        ):
            raise HTTPException(404, "no such picture")
        name = mark_name(marked.model, marked.prompt_id, marked.index)
        return galleries.marking.give(thing.path, name, marked.mark)

    @router.get("/marks.{kind}")
    def export(id_: str, kind: Literal["jsonl", "csv"]) -> Response:
        thing = galleries.thing(id_)
        lines = _marked_lines(galleries.of(thing), dict(galleries.marking.of(thing.path).given))
        headers = {"content-disposition": f'attachment; filename="marks.{kind}"'}
        if kind == "jsonl":
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            return Response(text, media_type="application/jsonl", headers=headers)
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, ["model", "prompt_id", "sample_index", "file", "mark"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(lines)
        return Response(buffer.getvalue(), media_type="text/csv", headers=headers)


def mark_name(model: str, prompt_id: str, index: int) -> str:
    """What a picture is called in `marks.jsonl`."""
    return json.dumps([model, prompt_id, index], ensure_ascii=False)


def _named(name: str) -> tuple[str, str, int] | None:
    """The picture that a mark of `marks.jsonl` means; None where it means none of a gallery."""
    try:
        model, prompt, index = json.loads(name)
    except (ValueError, TypeError):
        return None
    is_one = isinstance(model, str) and isinstance(prompt, str) and isinstance(index, int)
    return (model, prompt, index) if is_one else None


def _where(gallery: Gallery, wanted: Wanted, marks: dict[str, Any]) -> np.ndarray:
    where = np.ones(len(gallery.keys), bool)
    if words := wanted.q.lower().split():
        pairs = zip(gallery.texts, gallery.keys, strict=True)
        texts = [f"{text} {key[0]}".lower() for text, key in pairs]
        where &= np.array([all(word in text for word in words) for text in texts], bool)
    if wanted.category:
        where &= np.array([c == wanted.category for c in gallery.categories], bool)
    if wanted.marked:
        named = [n for name, m in marks.items() if m == wanted.marked and (n := _named(name))]
        keys = {(prompt, index) for _, prompt, index in named}
        where &= np.array([key in keys for key in gallery.keys], bool)
    return where


def _prepare(galleries: Galleries, thing: Thing) -> None:
    with suppress(TastemakerError):
        galleries.of(thing)  # what is wrong is told to who asks for the rows


def _values(gallery: Gallery, scorer: str, a: int, b: int) -> dict[str, np.ndarray | None]:
    has_scores = scorer in gallery.scores
    sign = -1.0 if scorer in gallery.lower else 1.0
    return {
        "scores": sign * gallery.scores[scorer] if has_scores else None,
        "gain": gallery.difference(scorer, a, b) if has_scores else None,
        "people": gallery.preference(a, b),
        "disagreement": gallery.disagreement(scorer, a, b) if has_scores else None,
    }


def _line(
    gallery: Gallery, row: int, tables: dict[str, np.ndarray | None], marks: dict[str, Any]
) -> dict[str, Any]:
    prompt_id, index = gallery.keys[row]
    names = [mark_name(model, prompt_id, index) for model in gallery.models]
    scores, cells = tables["scores"], gallery.cells(row)
    return {
        "prompt_id": prompt_id,
        "index": index,
        "prompt": gallery.texts[row],
        "category": gallery.categories[row],
        "there": [cell is not None for cell in cells],
        "same": gallery.same_noise(row),
        "seed": next((str(c.seed) for c in cells if c and c.seed is not None), None),
        "scores": None if scores is None else [_number(value) for value in scores[row]],
        "gain": _at(tables["gain"], row),
        "people": _at(tables["people"], row),
        "disagreement": _at(tables["disagreement"], row),
        "marks": [marks.get(name) for name in names],
    }


def _at(table: np.ndarray | None, row: int) -> float | None:
    return None if table is None else _number(table[row])


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _marked_lines(gallery: Gallery, marks: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    for name, mark in marks.items():
        named = _named(name)
        if named is None:
            continue
        model, prompt_id, index = named
        row = gallery.row_of(prompt_id, index)
        if row is None or model not in gallery.models:
            continue
        cell = gallery.cells(row)[gallery.models.index(model)]
        file = cell.path if cell is not None else None
        line = {"model": model, "prompt_id": prompt_id, "sample_index": index}
        lines.append({**line, "file": file, "mark": mark})
    return lines
