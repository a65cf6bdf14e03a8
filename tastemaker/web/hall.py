"""The owner's page of a rating or study: who takes part, their links, and how far they are."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from tastemaker.engine.ballot import progress
from tastemaker.web.pages import Pages
from tastemaker.web.rooms import Room, Rooms


class Newcomer(BaseModel):
    """Somebody who wants to rate."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=100)]


def hall_routes(rooms: Rooms, pages: Pages) -> APIRouter:
    """The routes below `/rate/ROOM`, for ratings and studies alike."""
    router = APIRouter(prefix="/rate/{room_id}")

    def entered(room_id: str) -> Room:
        room = rooms.room(room_id)
        if room is None:
            raise HTTPException(404, "There is no such rating or study.")
        return room

    @router.get("")
    def page(room_id: str) -> Response:
        room = entered(room_id)
        settings = {"base": f"/rate/{room_id}", "kind": room.thing.kind, **_state(room)}
        is_study = room.thing.kind == "study"
        return pages.page(
            "hall.html.j2", settings=settings, is_study=is_study, name=room.thing.name
        )

    @router.get("/state")
    def state(room_id: str) -> dict[str, Any]:
        return _state(entered(room_id))

    @router.post("/enter")
    def enter(room_id: str, newcomer: Newcomer) -> dict[str, str]:
        room = entered(room_id)
        return {"link": room.link(room.enter(newcomer.name))}

    return router


def _state(room: Room) -> dict[str, Any]:
    now = time.time()
    raters = []
    for rater in room.people.raters():
        found = progress(room.people, room.ballot, rater.id, now=now)
        raters.append(
            {
                "name": rater.name,
                "link": room.link(rater),
                "done": found.done,
                "skipped": found.skipped,
                "target": found.target,
                "seconds": found.seconds,
            }
        )
    counted = [v for v in room.people.votes(room.ballot.study) if v.vote.choice != "skip"]
    people = {v.vote.rater for v in counted}
    return {"raters": raters, "votes": len(counted), "from": len(people)}
