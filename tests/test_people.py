"""Votes arrive once, stay for ever, and no slot is given twice."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.ballot import Shown
from tastemaker.records.vote import Vote
from tastemaker.store.people import People, StoredVote
from tastemaker.store.people_tables import new_vote_id
from tastemaker.store.vote_files import read_gold, read_votes, write_votes

REPOSITORY = Path(__file__).resolve().parents[1]


def pair(rater: str = "r1", prompt: str = "p1", **other) -> Shown:
    values = {"question": "general", "a": "old", "b": "new", "left": "a", "reason": "random"}
    values |= {"vote_id": new_vote_id(), "study": "s", "rater": rater, "prompt": prompt}
    return Shown(**values | other)


@pytest.fixture
def people(tmp_path: Path):
    with People(tmp_path / "people.sqlite") as opened:
        yield opened


def given(people: People, rater: str = "r1", now: float = 0.0, most: int = 5, **other) -> Shown:
    (shown,) = people.lease([pair(rater, **other)], 1, most=most, now=now)
    return shown


def test_a_vote_that_is_sent_again_changes_nothing(people: People) -> None:
    shown = given(people)
    assert people.answer(shown.vote_id, "r1", "b", now=1.0, seconds=2.5)
    assert not people.answer(shown.vote_id, "r1", "b", now=2.0)
    assert not people.answer(shown.vote_id, "r1", "a", now=3.0)
    (vote,) = people.votes()
    assert (vote.vote.choice, vote.vote.seconds, vote.created) == ("b", 2.5, 1.0)
    assert (vote.vote.a, vote.vote.left, vote.vote.reason) == ("old", "a", "random")


def test_only_the_rater_who_was_shown_a_pair_can_answer_it(people: People) -> None:
    shown = given(people)
    for vote_id, rater in (("v-invented", "r1"), (shown.vote_id, "r2")):
        with pytest.raises(InputError, match="one of a pair you were shown"):
            people.answer(vote_id, rater, "a", now=1.0)
    with pytest.raises(InputError, match="the answer 'tie'"):
        people.answer(shown.vote_id, "r1", "tie", now=1.0, allowed=("a", "b", "skip"))
    assert people.votes() == []


def test_undo_keeps_the_row_and_gives_the_pair_back(people: People) -> None:
    shown = given(people, most=1)
    people.answer(shown.vote_id, "r1", "a", now=1.0)
    again = people.undo(shown.vote_id, "r1", now=2.0)
    assert people.undo(shown.vote_id, "r1", now=2.5) == again
    assert again.vote_id != shown.vote_id
    assert again.sides == shown.sides
    assert people.votes() == []
    assert people.held("s", "r1", now=3.0) == [again]
    # Nobody takes the slot meanwhile.
    assert people.lease([pair("r2")], 1, most=1, now=3.0) == []
    people.answer(again.vote_id, "r1", "b", now=4.0)
    assert [v.vote.choice for v in people.votes()] == ["b"]
    old, new = people.votes(superseded=True)
    assert (old.superseded_by, new.vote.id) == (again.vote_id, again.vote_id)
    with pytest.raises(InputError, match="a vote of yours"):
        people.undo(again.vote_id, "r2", now=5.0)


def test_the_database_itself_refuses_to_change_or_delete_votes(people: People) -> None:
    shown = given(people)
    people.answer(shown.vote_id, "r1", "a", now=1.0)
    with sqlite3.connect(people.path) as db:
        for sql in (
            "DELETE FROM vote",
            "UPDATE vote SET choice = 'b'",
            "UPDATE vote SET seconds = 1, superseded_by = 'x'",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(sql)
        db.execute("UPDATE vote SET superseded_by = 'x'")
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            db.execute("UPDATE vote SET superseded_by = NULL")
    db.close()


def test_a_slot_is_leased_to_one_and_free_again_when_the_lease_is_over(people: People) -> None:
    held = given(people, most=1)
    assert people.lease([pair("r2")], 1, most=1, now=899.0) == []
    late = given(people, "r2", now=901.0, most=1)
    assert people.held("s", "r1", now=901.0) == []
    assert people.answer(late.vote_id, "r2", "a", now=902.0)
    # The first one comes after all: kept, not counted.
    assert people.answer(held.vote_id, "r1", "b", now=903.0)
    assert [v.vote.rater for v in people.votes()] == ["r2"]
    assert [v.superseded_by for v in people.votes(superseded=True)] == [None, "late"]


def test_a_rater_never_has_one_pair_twice_and_a_skip_frees_it_for_others(people: People) -> None:
    shown = given(people, most=1)
    turned = pair(a="new", b="old")
    assert people.lease([turned], 1, most=1, now=1.0) == []
    people.answer(shown.vote_id, "r1", "skip", now=2.0)
    assert people.lease([pair(), turned], 2, most=1, now=3.0) == []
    assert len(people.lease([pair("r2")], 1, most=1, now=3.0)) == 1
    # A repeat is a thing of its own, and comes once.
    repeat = pair(reason="repeat", repeat_of=shown.vote_id)
    assert people.lease([repeat], 1, most=1, now=3.0) == [repeat]
    assert people.lease([pair(reason="repeat")], 1, most=1, now=4.0) == []
    progress = people.progress("s", "r1")
    assert (progress.done, progress.skipped, progress.seconds) == (0, 1, None)


def test_raters_have_tokens_that_open_their_page_only(people: People) -> None:
    anna, ben = (people.add_rater(name, now=0.0) for name in ("Anna", " Ben "))
    assert [r.name for r in people.raters()] == ["Anna", "Ben"]
    assert len({anna.token, ben.token}) == 2
    assert min(len(anna.token), len(ben.token)) >= 20
    assert people.path.stat().st_mode & 0o077 == 0
    for name in ("Anna", " ", "x" * 101):
        with pytest.raises(InputError, match="a name"):
            people.add_rater(name, now=0.0)


def test_twenty_raters_at_once_lose_nothing_and_share_no_slot(tmp_path: Path) -> None:
    """Two objects on one file, as two processes would have; every vote is sent twice."""
    stores = [People(tmp_path / "people.sqlite") for _ in range(2)]
    errors: list[BaseException] = []

    def vote(number: int) -> None:
        people, rater = stores[number % 2], f"r{number}"
        try:
            for prompt in range(40):
                wanted = pair(rater, f"p{(prompt + number) % 40}")
                for shown in people.lease([wanted], 1, most=5, now=1.0):
                    first = people.answer(shown.vote_id, rater, "a", now=2.0)
                    assert first
                    assert not people.answer(shown.vote_id, rater, "b", now=2.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=vote, args=[n]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    votes = stores[0].votes()
    assert len(votes) == 40 * 5
    assert len({(v.vote.prompt, v.vote.rater) for v in votes}) == 200
    assert set(stores[1].taken("s", now=3.0).values()) == {5}
    for people in stores:
        people.close()


KILLED = """
import sys
from tastemaker.records.ballot import Shown
from tastemaker.store.people import People
people = People(sys.argv[1])
number = 0
while True:
    shown = Shown(f"v{number}", "s", "r1", "general", f"p{number}", "old", "new", "a", "random")
    people.lease([shown], 1, most=5, now=0.0)
    people.answer(shown.vote_id, "r1", "a", now=1.0)
    print(shown.vote_id, flush=True)
    number += 1
"""


def test_a_killed_server_loses_no_vote_that_it_answered_for(tmp_path: Path) -> None:
    path = tmp_path / "people.sqlite"
    command = [sys.executable, "-c", KILLED, str(path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert server.stdout is not None
    told = [server.stdout.readline().strip() for _ in range(25)]
    os.kill(server.pid, signal.SIGKILL)
    told += server.stdout.read().split()
    server.wait()
    server.stdout.close()
    with People(path) as people:
        stored = [vote.vote.id for vote in people.votes()]
        assert set(told) <= set(stored)
        assert len(stored) - len(told) <= 1
        assert not people.answer(told[0], "r1", "b", now=9.0)


def test_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "people.sqlite"
    text.write_text("Dear diary, " * 100)
    with pytest.raises(CorruptFile, match="not a database of votes"):
        People(text)
    assert text.read_text().startswith("Dear diary")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(CorruptFile, match="version 0"):
        People(other)


def stored(number: int, **other) -> StoredVote:
    values = {"id": f"v{number}", "prompt": 'a "quoted", line\nbroken', "a": "m0", "b": "m1"}
    values |= {"left": "b", "rater": "r", "choice": "tie", "reason": "active", "seconds": None}
    return StoredVote(Vote(**values | other), "s", 1234.5 + number / 3, None, "800x600", "1")


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_votes_go_out_and_come_in_unchanged(people: People, tmp_path: Path, ending: str) -> None:
    votes = [stored(0), stored(1, seconds=0.1 + 0.2, prompt="", choice="both_bad")]
    votes.append(StoredVote(Vote("v9", "ü", "x", "y", "a", "r", "a"), "s", 1.0, "v10"))
    path = tmp_path / f"votes{ending}"
    write_votes(path, votes)
    assert read_votes(path) == votes
    assert people.add_votes(read_votes(path)) == 3
    assert people.add_votes(read_votes(path)) == 0
    assert people.votes(superseded=True) == votes
    changed = [stored(5), stored(0, choice="a")]
    with pytest.raises(InputError, match="another answer"):
        people.add_votes(changed)
    assert len(people.votes(superseded=True)) == 3
    # An undo that came after the first exchange arrives too.
    undone = StoredVote(votes[0].vote, "s", votes[0].created, "v7", "800x600", "1")
    assert people.add_votes([undone]) == 0
    assert people.votes(superseded=True)[0].superseded_by == "v7"


def test_gold_pairs_are_two_ids(tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text("better,worse\na,b\n")
    assert read_gold(gold) == [("a", "b")]
    gold.write_text("better,worse\na,a\n")
    with pytest.raises(InputError, match="two ids"):
        read_gold(gold)
