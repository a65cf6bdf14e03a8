"""The page of one rater: pairs, pictures without names, and votes that arrive exactly once.

A page addresses an answer by the id of the pair as it was first given and the number of times that
the rater has taken an answer to it back. Taking back is idempotent, so the same request may come
twice, late, or from two tabs, and changes nothing the second time.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from tastemaker import __version__
from tastemaker.engine.ballot import next_pairs, progress
from tastemaker.errors import InputError
from tastemaker.records.ballot import Rater, Shown
from tastemaker.records.vote import Choice
from tastemaker.web.browser_pictures import for_browser
from tastemaker.web.pages import Pages
from tastemaker.web.rooms import Room, Rooms
from tastemaker.web.thumbs import answer_of

MIN_VIEW_MS = 300
"""Shorter looks are not counted (ours): nobody judges two pictures in less."""

BREAK_MINUTES = 20
"""After so long at a stretch the page suggests a break (ours)."""

MOST_PAIRS = 24
"""A page may hold so many pairs at one time, so that a script cannot lease them all."""

MOST_AGAIN = 40
"""So often an answer to one pair can be taken back (ours)."""

_Word = Annotated[str, Field(max_length=64)]


class Entry(BaseModel):
    """One line of a page's queue."""

    model_config = ConfigDict(extra="forbid")

    key: _Word
    id: _Word
    again: int = Field(default=0, ge=0, le=MOST_AGAIN)
    answer: Literal["left", "right", "tie", "both_bad", "skip"] | None = None
    seconds: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)
    viewport: Annotated[str, Field(max_length=40)] = ""


class Entries(BaseModel):
    """A queue, oldest first."""

    model_config = ConfigDict(extra="forbid")

    entries: list[Entry] = Field(max_length=100)


def booth_routes(rooms: Rooms, pages: Pages, min_view_ms: int = MIN_VIEW_MS) -> APIRouter:
    """The routes below `/r/ROOM/TOKEN`."""
    router = APIRouter(prefix="/r/{room_id}/{token}")

    def who(room_id: str, token: str) -> tuple[Room, Rater]:
        found = rooms.rater(room_id, token)
        if found is None:
            raise HTTPException(404, "This link opens nothing: ask for a new one.")
        return found

    @router.get("")
    def page(room_id: str, token: str) -> Response:
        room, rater = who(room_id, token)
        ballot = room.ballot
        settings = {
            "base": room.link(rater),
            "ties": "tie" in ballot.choices,
            "bothBad": "both_bad" in ballot.choices,
            "minViewMs": min_view_ms,
            "breakMinutes": BREAK_MINUTES,
            "mostAgain": MOST_AGAIN,
        }
        return pages.page(
            "rate.html.j2",
            settings=settings,
            instructions=ballot.instructions.strip(),
            questions=ballot.questions,
            rater=rater.name,
        )

    @router.get("/next")
    def next_(room_id: str, token: str, count: int = 6, known: str = "") -> dict[str, Any]:
        room, rater = who(room_id, token)
        now = time.time()
        held = [id_ for id_ in known.split(",")[:200] if id_]
        pairs = next_pairs(
            room.people,
            room.ballot,
            rater.id,
            max(1, min(count, MOST_PAIRS)),
            now=now,
            known=held,
        )
        return {
            "pairs": [_pair(room, rater, shown) for shown in pairs],
            "progress": _progress(room, rater, now),
        }

    @router.post("/votes")
    def votes(room_id: str, token: str, given: Entries) -> dict[str, Any]:
        room, rater = who(room_id, token)
        return {"results": [_take(room, rater, entry) for entry in given.entries]}

    @router.get("/p/{vote_id}/{place}")
    def picture(
        room_id: str, token: str, vote_id: str, place: Literal["left", "right"]
    ) -> Response:
        room, rater = who(room_id, token)
        shown = room.pair(vote_id, rater)
        if shown is None:
            raise HTTPException(404, "no such pair")
        side = "a" if shown.chosen(place) == "a" else "b"
        return answer_of(lambda: for_browser(room.ballot.picture(shown, side)))

    return router


def _pair(room: Room, rater: Rater, shown: Shown) -> dict[str, Any]:
    """What a page may know of a pair: neither who made it nor what the files are called."""
    texts = {question.name: question.text for question in room.ballot.questions}
    base = f"{room.link(rater)}/p/{shown.vote_id}"
    return {
        "id": shown.vote_id,
        "question": texts.get(shown.question, shown.question),
        "prompt": room.ballot.text(shown.prompt),
        "left": f"{base}/left",
        "right": f"{base}/right",
    }


def _progress(room: Room, rater: Rater, now: float) -> Mapping[str, Any]:
    today = time.localtime(now)
    midnight = now - today.tm_hour * 3600 - today.tm_min * 60 - today.tm_sec
    found = progress(room.people, room.ballot, rater.id, now=now, since=midnight)
    return {"done": found.done, "today": found.today, "target": found.target}


def _take(room: Room, rater: Rater, entry: Entry) -> dict[str, Any]:
    """One line of the queue; what is wrong with it is told and not tried again."""
    now = time.time()
    try:
        id_ = entry.id
        for _ in range(entry.again):
            id_ = room.people.undo(id_, rater.id, now=now).vote_id
        is_new = False
        if entry.answer is not None:
            is_new = _answer(room, rater, id_, entry, now)
    except InputError as error:
        return {"key": entry.key, "error": f"{error.got} is not {error.expected}. {error.todo}"}
    return {"key": entry.key, "id": id_, "new": is_new}


def _answer(room: Room, rater: Rater, id_: str, entry: Entry, now: float) -> bool:
    shown = room.pair(id_, rater)
    if shown is None:
        raise InputError("vote", f"the id {id_!r}", "one of a pair you were shown", "Reload.")
    if entry.answer in ("left", "right"):
        choice: Choice = shown.chosen(entry.answer)
    else:
        choice = entry.answer or "skip"
    return room.people.answer(
        id_,
        rater.id,
        choice,
        now=now,
        seconds=entry.seconds,
        viewport=entry.viewport,
        app_version=__version__,
        allowed=("skip", *room.ballot.choices),
    )
