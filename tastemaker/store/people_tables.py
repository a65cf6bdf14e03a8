"""The tables of `people.sqlite`, and how rows become records.

Votes are only ever added: the database itself refuses to delete one, or to change anything of it
but `superseded_by`, and that once.
"""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import CorruptFile, StorageError
from tastemaker.records.ballot import Shown
from tastemaker.records.vote import Choice, Vote

VERSION = 1

TABLES = """
CREATE TABLE rater (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, token TEXT NOT NULL UNIQUE, created REAL NOT NULL
);
CREATE TABLE shown (
  id TEXT PRIMARY KEY, study TEXT NOT NULL, rater TEXT NOT NULL, question TEXT NOT NULL,
  prompt TEXT NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL, shown_left TEXT NOT NULL,
  reason TEXT NOT NULL, expected TEXT, repeat_of TEXT,
  pair TEXT NOT NULL, most INTEGER NOT NULL, created REAL NOT NULL, lease_until REAL NOT NULL
);
CREATE INDEX shown_pair ON shown (study, question, prompt, pair);
CREATE INDEX shown_rater ON shown (study, rater);
CREATE TABLE vote (
  id TEXT PRIMARY KEY, study TEXT NOT NULL, prompt TEXT NOT NULL, a TEXT NOT NULL,
  b TEXT NOT NULL, shown_left TEXT NOT NULL CHECK (shown_left IN ('a', 'b')),
  rater TEXT NOT NULL,
  choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'both_bad', 'skip')),
  question TEXT NOT NULL,
  reason TEXT NOT NULL CHECK (reason IN ('random', 'active', 'repeat', 'gold')),
  seconds REAL, viewport TEXT NOT NULL, app_version TEXT NOT NULL, created REAL NOT NULL,
  superseded_by TEXT, pair TEXT NOT NULL
);
CREATE INDEX vote_pair ON vote (study, question, prompt, pair);
CREATE INDEX vote_rater ON vote (study, rater);
CREATE TRIGGER vote_stays BEFORE DELETE ON vote
BEGIN SELECT RAISE (ABORT, 'votes are never deleted'); END;
CREATE TRIGGER vote_is_final BEFORE UPDATE ON vote
WHEN OLD.superseded_by IS NOT NULL
  OR (NEW.id, NEW.study, NEW.prompt, NEW.a, NEW.b, NEW.shown_left, NEW.rater, NEW.choice,
      NEW.question, NEW.reason, NEW.seconds, NEW.viewport, NEW.app_version, NEW.created, NEW.pair)
  IS NOT
     (OLD.id, OLD.study, OLD.prompt, OLD.a, OLD.b, OLD.shown_left, OLD.rater, OLD.choice,
      OLD.question, OLD.reason, OLD.seconds, OLD.viewport, OLD.app_version, OLD.created, OLD.pair)
BEGIN SELECT RAISE (ABORT, 'votes are never changed'); END;
"""

VOTE_COLUMNS = (
    *("id", "study", "prompt", "a", "b", "shown_left", "rater", "choice", "question", "reason"),
    *("seconds", "viewport", "app_version", "created", "superseded_by"),
)
"""The columns of a vote, in the order of a file of votes (`store.vote_files`)."""

SHOWN_COLUMNS = (
    *("id", "study", "rater", "question", "prompt", "a", "b", "shown_left", "reason"),
    *("expected", "repeat_of"),
)

SLOTS = "('random', 'active')"
"""Reasons whose votes fill the wanted number; repeats and gold pairs are the rater's own."""

LATE = "late"
"""`superseded_by` of a vote that came after its lease, when all votes wanted were there already."""


@dataclass(frozen=True)
class StoredVote:
    """A vote as it is on file.

    Attributes:
        vote: the answer.
        study: what it belongs to; empty where a file does not say.
        created: when it arrived, in seconds since 1970; 0 where a file does not say.
        superseded_by: id of the vote that stands instead; `late` where it came too late to count;
            None for a vote that counts.
        viewport: size of the rater's window in pixels, as `1280x800`; empty when unknown.
        app_version: version of Tastemaker that showed the pair.
    """

    vote: Vote
    study: str = ""
    created: float = 0.0
    superseded_by: str | None = None
    viewport: str = ""
    app_version: str = ""

    @property
    def counts(self) -> bool:
        """Whether it was neither undone nor too late."""
        return self.superseded_by is None

    @property
    def row(self) -> dict[str, Any]:
        """Values by the names of `VOTE_COLUMNS`."""
        vote = self.vote
        return {
            "id": vote.id,
            "study": self.study,
            "prompt": vote.prompt,
            "a": vote.a,
            "b": vote.b,
            "shown_left": vote.left,
            "rater": vote.rater,
            "choice": vote.choice,
            "question": vote.question,
            "reason": vote.reason,
            "seconds": vote.seconds,
            "viewport": self.viewport,
            "app_version": self.app_version,
            "created": self.created,
            "superseded_by": self.superseded_by,
        }


def pair_of(a: str, b: str) -> str:
    """One text for two sides in either order."""
    return "\x1f".join(sorted((a, b)))


def vote_of(row: Any) -> StoredVote:
    """A row with the columns of `VOTE_COLUMNS`."""
    vote = Vote(
        id=row["id"],
        prompt=row["prompt"],
        a=row["a"],
        b=row["b"],
        left=row["shown_left"],
        rater=row["rater"],
        choice=row["choice"],
        question=row["question"],
        reason=row["reason"],
        seconds=row["seconds"],
    )
    facts = ("study", "created", "superseded_by", "viewport", "app_version")
    return StoredVote(vote, **{name: row[name] for name in facts})


def shown_of(row: Any) -> Shown:
    """A row with the columns of `SHOWN_COLUMNS`."""
    return Shown(
        vote_id=row["id"],
        left=row["shown_left"],
        **{name: row[name] for name in SHOWN_COLUMNS if name not in ("id", "shown_left")},
    )


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, or make it; readable by its owner only, because of the tokens.

    Raises:
        CorruptFile: the file is no database of ours.
        StorageError: it cannot be made.
    """
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}).") from error
    with database_errors(path):
        # Other processes may write: wait for them instead of failing.
        db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            _set_up(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _set_up(db: sqlite3.Connection, path: Path) -> None:
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    # A vote that was answered for is on the disk, whatever happens to the machine.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    others = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and others == 0:
        for statement in _statements(TABLES):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
    elif version != VERSION:
        db.execute("ROLLBACK")
        raise CorruptFile(
            f"{path}: a database of version {version}, this Tastemaker reads {VERSION}. "
            "Use the version that made it."
        )
    db.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one, so that all are in one transaction."""
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        StorageError: no room, no permission, or another process does not let go.
        CorruptFile: the file is damaged or no database.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path}: cannot be written or read ({error}).") from error
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise CorruptFile(f"{path}: not a database of votes ({error}).") from error


def new_vote_id() -> str:
    """An id that nobody can guess and no other vote has."""
    return f"v-{secrets.token_hex(12)}"


def counted(db: sqlite3.Connection, shown: Shown) -> list[sqlite3.Row]:
    """Votes that count for the same pair and question."""
    return db.execute(
        "SELECT rater FROM vote WHERE study = ? AND question = ? AND prompt = ? AND pair = ? "
        f"AND reason IN {SLOTS} AND choice != 'skip' AND superseded_by IS NULL",
        [shown.study, shown.question, shown.prompt, pair_of(shown.a, shown.b)],
    ).fetchall()


def make_vote(shown: Shown, choice: Choice, seconds: float | None) -> Vote:
    """The vote that answers a pair."""
    return Vote(
        id=shown.vote_id,
        prompt=shown.prompt,
        a=shown.a,
        b=shown.b,
        left=shown.left,
        rater=shown.rater,
        choice=choice,
        question=shown.question,
        reason=shown.reason,
        seconds=seconds,
    )


def insert_vote(db: sqlite3.Connection, vote: StoredVote) -> None:
    """Add one row."""
    values = {**vote.row, "pair": pair_of(vote.vote.a, vote.vote.b)}
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO vote ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def insert_shown(db: sqlite3.Connection, shown: Shown, most: int, now: float, until: float) -> None:
    """Add one pair with its lease."""
    values = {
        **{
            name: getattr(shown, name) for name in SHOWN_COLUMNS if name not in ("id", "shown_left")
        },
        "id": shown.vote_id,
        "shown_left": shown.left,
        "pair": pair_of(shown.a, shown.b),
        "most": most,
        "created": now,
        "lease_until": until,
    }
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO shown ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def is_same(one: StoredVote, other: StoredVote) -> bool:
    """Whether two are one vote, told at two times."""
    kept = [name for name in VOTE_COLUMNS if name != "superseded_by"]
    return all(one.row[name] == other.row[name] for name in kept)
