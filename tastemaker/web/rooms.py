"""Where votes are given: the rating of a collection or a study, with the people in it."""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
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

    def pair(self, vote_id: str, rater: Rater) -> Shown | None:
        """A pair that was given to a rater, also before the server was started."""
        shown = self.people.shown_as(vote_id)
        if shown is None or (shown.rater, shown.study) != (rater.id, self.ballot.study):
            return None
        return shown

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
        if room is None:
            return None
        # All are compared, each in constant time, so that no answer tells how much was right.
        given = token.encode(errors="replace")
        raters = room.people.raters()
        found = [one for one in raters if hmac.compare_digest(one.token.encode(), given)]
        return (room, found[0]) if found else None

    def close(self) -> None:
        """Close the databases."""
        with self._lock:
            for room in self._open.values():
                room.people.close()
            self._open = {}
