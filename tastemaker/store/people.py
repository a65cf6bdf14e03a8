"""What people write: `people.sqlite`, in a collection's folder or a study's.

A pair is on file before it is shown, under the id that its vote will have. So a vote that is sent
twice, from two tabs, or again after the server was killed, arrives once; and a pair that somebody
looks at is not given to another (a lease), until it is answered or the lease is over.
"""

import secrets
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import RLock
from types import TracebackType

from tastemaker.errors import InputError
from tastemaker.records.ballot import Progress, Rater, Shown
from tastemaker.records.vote import Choice
from tastemaker.store.people_tables import (
    LATE,
    SHOWN_COLUMNS,
    SLOTS,
    VOTE_COLUMNS,
    StoredVote,
    connect,
    counted,
    database_errors,
    insert_shown,
    insert_vote,
    is_same,
    make_vote,
    new_vote_id,
    pair_of,
    shown_of,
    vote_of,
)

__all__ = ["FILE", "LEASE_SECONDS", "People", "StoredVote"]

FILE = "people.sqlite"

LEASE_SECONDS = 900.0
"""How long a pair waits for its rater (ours)."""

_OPEN = "lease_until > ? AND NOT EXISTS (SELECT 1 FROM vote WHERE vote.id = shown.id)"
_VOTES = ", ".join(VOTE_COLUMNS)
_SHOWN = ", ".join(SHOWN_COLUMNS)


class People:
    """Raters, what they were shown, and their votes.

    May be used from several threads, and by several processes on one machine.

    Args:
        path: the database, which is made when it is not there; the folder must be.

    Raises:
        CorruptFile: the file is no database of ours.
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = RLock()
        self._db = connect(self.path)

    def __enter__(self) -> "People":
        """Close it at the end of a `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the database; what was written is on the disk already."""
        with self._lock:
            self._db.close()

    # Raters.

    def add_rater(self, name: str, *, now: float) -> Rater:
        """A new rater with a token of his own.

        Raises:
            InputError: an empty name, or one that another rater has.
        """
        name = name.strip()
        if not name or len(name) > 100:
            raise InputError("rater", repr(name), "a name of 1 to 100 characters", "Give one.")
        rater = Rater(f"r-{secrets.token_hex(5)}", name, secrets.token_urlsafe(18))
        with self._writing() as db:
            if db.execute("SELECT 1 FROM rater WHERE name = ?", [name]).fetchone():
                raise InputError("rater", repr(name), "a name of its own", "Choose another name.")
            values = (rater.id, rater.name, rater.token, now)
            db.execute("INSERT INTO rater VALUES (?, ?, ?, ?)", values)
        return rater

    def raters(self) -> list[Rater]:
        """All raters in the order in which they came."""
        return [
            Rater(*row) for row in self._rows("SELECT id, name, token FROM rater ORDER BY rowid")
        ]

    # What a page does.

    def answer(
        self,
        vote_id: str,
        rater: str,
        choice: Choice,
        *,
        now: float,
        seconds: float | None = None,
        viewport: str = "",
        app_version: str = "",
        allowed: Collection[Choice] | None = None,
    ) -> bool:
        """The answer to a pair that was shown.

        A vote that comes after its lease, when all votes that were wanted are there, is kept with
        `superseded_by = "late"`: no work is lost, and no pair counts twice.

        Args:
            vote_id: as in `Shown`.
            rater: whose page it is.
            choice: the answer.
            now: seconds since 1970.
            seconds: from the moment both pictures were visible.
            viewport: size of the window.
            app_version: of the page.
            allowed: the answers that there are; by default all.

        Returns:
            Whether it was stored now; False where it was there already, and then nothing changes.

        Raises:
            InputError: the pair was never shown to this rater, or this is no answer to it.
        """
        if choice not in (allowed or ("a", "b", "tie", "both_bad", "skip")):
            raise InputError("vote", f"the answer {choice!r}", "one of the study's", "Reload.")
        with self._writing() as db:
            row = db.execute(f"SELECT {_SHOWN}, most FROM shown WHERE id = ?", [vote_id]).fetchone()
            if row is None or row["rater"] != rater:
                raise InputError(
                    "vote", f"the id {vote_id!r:.60}", "one of a pair you were shown", "Reload."
                )
            shown = shown_of(row)
            if db.execute("SELECT 1 FROM vote WHERE id = ?", [vote_id]).fetchone():
                return False
            late = LATE if self._is_full(db, shown, row["most"], choice) else None
            vote = make_vote(shown, choice, seconds)
            insert_vote(
                db, StoredVote(vote, shown.study, now, late, viewport[:40], app_version[:40])
            )
        return True

    def undo(self, vote_id: str, rater: str, *, now: float) -> Shown:
        """Take a vote back: it stays as a row, and the same pair comes back under another id.

        Returns:
            The pair, with the same sides, leased to the rater; the same one when asked again.

        Raises:
            InputError: the rater gave no such vote.
        """
        with self._writing() as db:
            vote = db.execute("SELECT * FROM vote WHERE id = ?", [vote_id]).fetchone()
            row = db.execute("SELECT * FROM shown WHERE id = ?", [vote_id]).fetchone()
            late = vote is not None and vote["superseded_by"] == LATE
            if vote is None or row is None or vote["rater"] != rater or late:
                raise InputError(
                    "undo", f"the id {vote_id!r:.60}", "a vote of yours that counts", "Reload."
                )
            again = vote["superseded_by"] or new_vote_id()
            if vote["superseded_by"] is None:
                db.execute("UPDATE vote SET superseded_by = ? WHERE id = ?", [again, vote_id])
                new = {**dict(row), "id": again, "created": now, "lease_until": now + LEASE_SECONDS}
                marks = ", ".join("?" * len(new))
                db.execute(
                    f"INSERT INTO shown ({', '.join(new)}) VALUES ({marks})", list(new.values())
                )
            found = db.execute(f"SELECT {_SHOWN} FROM shown WHERE id = ?", [again]).fetchone()
            if found is None:
                # It was undone in a copy of this study, whose votes came in as a file.
                raise InputError(
                    "undo", f"the id {vote_id!r:.60}", "a vote that stands here", "Reload."
                )
            return shown_of(found)

    def progress(self, study: str, rater: str | None = None, *, since: float = 0.0) -> Progress:
        """How far a rater, or all together, have come; the target is the ballot's to tell."""
        votes = self.votes(study, rater)
        done = [v for v in votes if v.vote.choice != "skip"]
        seconds = [v.vote.seconds for v in done if v.vote.seconds is not None]
        return Progress(
            done=len(done),
            skipped=len(votes) - len(done),
            today=sum(v.created >= since for v in done),
            seconds=median(seconds) if seconds else None,
        )

    # Leases.

    def held(self, study: str, rater: str, *, now: float) -> list[Shown]:
        """Pairs that the rater was given and has not answered, oldest first."""
        return [
            shown_of(row)
            for row in self._rows(
                f"SELECT {_SHOWN} FROM shown WHERE study = ? AND rater = ? AND {_OPEN} "
                "ORDER BY rowid",
                [study, rater, now],
            )
        ]

    def lease(
        self,
        candidates: Sequence[Shown],
        count: int,
        *,
        most: int,
        now: float,
        seconds: float = LEASE_SECONDS,
    ) -> list[Shown]:
        """Give a rater the first free ones of some pairs, all in one transaction.

        A pair is free for a rater who has neither answered it nor holds it, while its votes that
        count and the leases of others together are fewer than `most`. Votes that skip count for
        nobody but their rater. Repeats and gold pairs are free to each rater once.

        Args:
            candidates: with ids that are new.
            count: how many at most.
            most: votes wanted of each pair and question.
            now: seconds since 1970.
            seconds: how long they wait for an answer.
        """
        granted: list[Shown] = []
        with self._writing() as db:
            for shown in candidates:
                if len(granted) == count:
                    break
                if self._is_free(db, shown, most, now):
                    insert_shown(db, shown, most, now, now + seconds)
                    granted.append(shown)
        return granted

    def held_pairs(self, study: str, now: float) -> list[tuple[str, str]]:
        """The two sides of every pair that somebody holds."""
        rows = self._rows(f"SELECT a, b FROM shown WHERE study = ? AND {_OPEN}", [study, now])
        return [(row["a"], row["b"]) for row in rows]

    def taken(self, study: str, *, now: float) -> Counter[tuple[str, str, str]]:
        """(question, prompt, pair) -> votes that count and leases, as `lease` counts them."""
        found: Counter[tuple[str, str, str]] = Counter()
        what = "SELECT question, prompt, pair, count(*) FROM"
        slots = f"study = ? AND reason IN {SLOTS}"
        rows = self._rows(
            f"{what} vote WHERE {slots} AND choice != 'skip' AND superseded_by IS NULL "
            f"GROUP BY 1, 2, 3 UNION ALL {what} shown WHERE {slots} AND {_OPEN} GROUP BY 1, 2, 3",
            [study, study, now],
        )
        for question, prompt, pair, count in rows:
            found[question, prompt, pair] += count
        return found

    def shown(self, study: str, rater: str | None = None) -> list[Shown]:
        """All pairs that were ever given to anybody, or to one rater, oldest first."""
        where, values = ("", [study]) if rater is None else (" AND rater = ?", [study, rater])
        rows = self._rows(
            f"SELECT {_SHOWN} FROM shown WHERE study = ?{where} ORDER BY rowid", values
        )
        return [shown_of(row) for row in rows]

    def shown_as(self, vote_id: str) -> Shown | None:
        """The pair that was given to somebody under this id."""
        found = self._rows(f"SELECT {_SHOWN} FROM shown WHERE id = ?", [vote_id])
        return shown_of(found[0]) if found else None

    # Votes as such.

    def votes(
        self, study: str | None = None, rater: str | None = None, *, superseded: bool = False
    ) -> list[StoredVote]:
        """Votes in the order in which they came.

        Args:
            study: of one study only.
            rater: of one rater only.
            superseded: with those that were undone or came late, which do not count.
        """
        wanted = {"study": study, "rater": rater}
        named = [name for name, value in wanted.items() if value is not None]
        tests = [f"{name} = ?" for name in named]
        tests += [] if superseded else ["superseded_by IS NULL"]
        where = f" WHERE {' AND '.join(tests)}" if tests else ""
        values = [wanted[name] for name in named]
        return [
            vote_of(row)
            for row in self._rows(f"SELECT {_VOTES} FROM vote{where} ORDER BY rowid", values)
        ]

    def add_votes(self, votes: Sequence[StoredVote]) -> int:
        """Add votes from elsewhere, all or none; returns how many were not there yet.

        Raises:
            InputError: another vote is there under the same id.
        """
        added = 0
        with self._writing() as db:
            for vote in votes:
                row = db.execute(
                    f"SELECT {_VOTES} FROM vote WHERE id = ?", [vote.vote.id]
                ).fetchone()
                if row is None:
                    insert_vote(db, vote)
                    added += 1
                elif not is_same(vote_of(row), vote):
                    raise InputError(
                        f"vote {vote.vote.id}",
                        "another answer than the one on file under this id",
                        "the same one",
                        "Nothing was added. Ids are made once: look where this file comes from.",
                    )
                elif row["superseded_by"] is None and vote.superseded_by is not None:
                    # It was undone after an earlier exchange.
                    values = [vote.superseded_by, vote.vote.id]
                    db.execute("UPDATE vote SET superseded_by = ? WHERE id = ?", values)
        return added

    # Inside.

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock, database_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, database_errors(self.path):
            # The right to write is taken at once: what is read here cannot change before the end.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @staticmethod
    def _is_full(db: sqlite3.Connection, shown: Shown, most: int, choice: Choice) -> bool:
        """Whether a vote that comes now is one too many."""
        if shown.reason not in ("random", "active") or choice == "skip":
            return False
        rows = counted(db, shown)
        return len(rows) >= most or any(row["rater"] == shown.rater for row in rows)

    @staticmethod
    def _is_free(db: sqlite3.Connection, shown: Shown, most: int, now: float) -> bool:
        place = [shown.study, shown.question, shown.prompt, pair_of(shown.a, shown.b)]
        of = "study = ? AND question = ? AND prompt = ? AND pair = ?"
        is_slot = shown.reason in ("random", "active")
        alike = f"reason IN {SLOTS}" if is_slot else f"reason = '{shown.reason}'"
        waiting = f"SELECT rater FROM shown WHERE {of} AND {alike} AND {_OPEN}"
        holders = [row["rater"] for row in db.execute(waiting, [*place, now])]
        answered = (
            f"SELECT 1 FROM vote WHERE {of} AND {alike} AND rater = ? AND superseded_by IS NULL"
        )
        if shown.rater in holders or db.execute(answered, [*place, shown.rater]).fetchone():
            return False
        return not is_slot or len(counted(db, shown)) + len(holders) < most
