"""Where votes are given: the rating of a collection or a study, with the people in it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from tastemaker.engine.ballot import Ballot
from tastemaker.engine.rating_ballot import open_rating
from tastemaker.engine.study_ballot import open_study
from tastemaker.errors import InputError
from tastemaker.records.ballot import Rater, Shown
from tastemaker.store.people import FILE, People
from tastemaker.web.library import Library, Thing


@dataclass
class Room:
    """One rating or study that is open.

    Attributes:
        thing: the collection or study.
        ballot: which pairs there are and what is asked.
        people: who votes, and the votes.
    """

    thing: Thing
    ballot: Ballot
    people: People
    _shown: dict[str, Shown] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def remember(self, shown: list[Shown]) -> None:
        """Keep pairs at hand that a page will ask the pictures of."""
        with self._lock:
            self._shown |= {one.vote_id: one for one in shown}

    def pair(self, vote_id: str, rater: Rater) -> Shown | None:
        """A pair that was given to a rater, also before the server was started."""
        if vote_id not in self._shown:
            self.remember(self.people.shown(self.ballot.study))
        shown = self._shown.get(vote_id)
        return shown if shown is not None and shown.rater == rater.id else None

    def link(self, rater: Rater) -> str:
        """The path of a rater's page."""
        return f"/r/{self.thing.id}/{rater.token}"

    def enter(self, name: str) -> Rater:
        """The rater of that name, new or known.

        Raises:
            InputError: the name is empty or too long.
        """
        name = name.strip()
        for rater in self.people.raters():
            if rater.name == name:
                return rater
        return self.people.add_rater(name, now=time.time())


class Rooms:
    """The rooms of a studio; each is opened when it is first asked for.

    Args:
        library: where collections and studies are found.
        rating: options of every rating, as of `open_rating`.
    """

    def __init__(self, library: Library, rating: Mapping[str, Any] | None = None) -> None:
        self._library, self._rating = library, dict(rating or {})
        self._open: dict[str, Room] = {}
        self._lock = Lock()

    def room(self, id_: str) -> Room | None:
        """The room of a collection or study; None where there is none."""
        found = self._open.get(id_)
        if found is not None:
            return found
        for kind in ("study", "collection"):
            thing = self._library.find(id_, kind)
            if thing is not None:
                return self.open(thing.path, kind)
        return None

    def open(self, path: Path | str, kind: Literal["study", "collection"]) -> Room:
        """Open a room.

        Raises:
            InputError: it is no study or no collection with pictures.
        """
        thing = self._library.add(path, kind)
        with self._lock:
            if thing.id not in self._open:
                if kind == "study":
                    ballot = open_study(thing.path)
                else:
                    ballot = open_rating(thing.path, **self._rating)
                self._open[thing.id] = Room(thing, ballot, People(thing.path / FILE))
            return self._open[thing.id]

    def rater(self, room_id: str, token: str) -> tuple[Room, Rater] | None:
        """Who may vote where with this token; None where it opens nothing."""
        try:
            room = self.room(room_id)
        except InputError:
            return None
        rater = room.people.rater_of(token) if room is not None else None
        return None if room is None or rater is None else (room, rater)

    def close(self) -> None:
        """Close the databases."""
        with self._lock:
            for room in self._open.values():
                room.people.close()
            self._open = {}
