"""Votes as files: one format for all; what is not understood is an error with its place."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tastemaker.errors import InputError
from tastemaker.records.vote import Vote
from tastemaker.store.people import People
from tastemaker.store.people_tables import StoredVote
from tastemaker.store.vote_files import (
    COLUMNS,
    read_votes,
    vote_lines,
    votes_at,
    votes_key,
    write_votes,
)

ROW = {"id": "v1", "prompt": "p", "a": "base", "b": "dpo", "left": "b", "rater": "r", "choice": "a"}
FULL = [
    StoredVote(
        Vote("v1", 'p\u2028é, "x"', "base", "dpo", "b", "r1", "both_bad", "look", "gold", 2.5)
    ),
    StoredVote(
        Vote("v2", "", "dpo", "base", "a", "r2", "skip"), "s", 0.1 + 0.2, "late", "8x6", "1"
    ),
]


def _file(folder: Path, *rows: object) -> Path:
    path = folder / "votes.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_seven_columns_are_a_vote_in_every_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"votes{ending}"
    rows = [ROW | {"seconds": 3.0}, ROW | {"id": "v2", "seconds": None}]
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".csv":
        lines = [",".join(rows[0]), *(",".join(str(v or "") for v in r.values()) for r in rows)]
        path.write_text("\n".join(lines))
    else:
        _file(tmp_path, *rows)
    found = read_votes(path)
    assert found[0] == StoredVote(Vote(**ROW, seconds=3.0), "", 0.0, None, "", "")
    assert found[1] == StoredVote(Vote(**ROW | {"id": "v2"}))
    assert (found[0].vote.question, found[0].vote.reason, found[0].counts) == (
        *("general", "random"),
        True,
    )


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_what_is_written_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"votes{ending}"
    write_votes(path, FULL)
    assert read_votes(path) == FULL
    if ending == ".csv":
        assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_vote_that_was_sent_twice_counts_once_and_an_undone_one_never(tmp_path: Path) -> None:
    assert len(read_votes(_file(tmp_path, ROW, ROW))) == 1
    for rows in ([ROW, ROW | {"superseded_by": "v9"}], [ROW | {"superseded_by": "v9"}, ROW]):
        (vote,) = read_votes(_file(tmp_path, *rows))
        assert not vote.counts
    with pytest.raises(InputError, match=r"line 2: got another vote with the id 'v1' of line 1"):
        read_votes(_file(tmp_path, ROW, ROW | {"choice": "b"}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"choise": "a"}, "the unknown column 'choise' beside id, study, prompt"),
        ({k: v for k, v in ROW.items() if k != "left"}, "no 'left'"),
        (ROW | {"choice": "c"}, "choice 'c', which is none of a, b, tie, both_bad, skip"),
        (ROW | {"left": "left"}, "left 'left', which is none of a, b"),
        (ROW | {"reason": "whim"}, "reason 'whim', which is none of random"),
        (ROW | {"b": "base"}, "'base' on both sides"),
        (ROW | {"rater": ""}, "an empty rater"),
        (ROW | {"rater": 7}, "rater 7, which is not a text"),
        (ROW | {"rater": "r" * 3000}, "which is not a text of at most 2000"),
        (ROW | {"seconds": -1}, "seconds -1, which is no number from 0"),
        (ROW | {"seconds": True}, "seconds True"),
        (ROW | {"seconds": float("nan")}, "seconds nan"),
        (ROW | {"seconds": 10**400}, "which is no number from 0"),
        (ROW | {"prompt": "half a character \ud83d"}, "which is not Unicode"),
        ([ROW], "not a JSON object"),
    ],
)
def test_what_is_no_vote_is_refused_with_its_line(
    tmp_path: Path, row: object, message: str
) -> None:
    path = _file(tmp_path, ROW, row)
    with pytest.raises(InputError, match="votes.jsonl, line 2: ") as told:
        read_votes(path)
    assert message in str(told.value)
    # Whoever takes what is sound gets the same words.
    (first, vote), (second, problem) = vote_lines(path)
    assert (first, vote, second) == ("line 1", StoredVote(Vote(**ROW)), "line 2")
    assert message in str(problem)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("both_bad", "both", "line 2: got not a vote: choice 'both'"),
        ("left", "shown_left", "line 2: got not a vote: no 'left'"),
        (",gold,", ",", "line 2: got another number of cells"),
        ("2.5", "soon", "line 2: got not a vote: seconds 'soon'"),
    ],
)
def test_lines_of_csv_are_named_too(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "votes.csv"
    write_votes(path, [replace(FULL[0], vote=replace(FULL[0].vote, prompt="p")), FULL[1]])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        read_votes(path)


def test_a_torn_last_line_is_no_vote(tmp_path: Path) -> None:
    path = _file(tmp_path, ROW)
    path.write_text(path.read_text() + "\n" + json.dumps(ROW)[:30])
    with pytest.raises(InputError, match="line 2: got not JSON"):
        read_votes(path)


def test_files_without_votes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_votes(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no vote"):
        read_votes(_file(tmp_path))
    (tmp_path / "x.parquet").write_bytes(b"no")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    for name, said in (("x.parquet", "Parquet"), ("x.jsonl", "UTF-8"), ("x.xls", "ending '.xls'")):
        with pytest.raises(InputError, match=said):
            read_votes(tmp_path / name)


def test_a_folder_of_votes_is_read_like_a_file_and_its_key_follows_the_votes(
    tmp_path: Path,
) -> None:
    assert votes_at(tmp_path) is None
    keys = []
    with People(tmp_path / "people.sqlite") as people:
        place = votes_at(tmp_path)
        assert place is not None
        for vote in FULL:
            assert people.add_votes([vote]) == 1
            # Others write at the same time: nothing of it may be in the file itself yet.
            keys.append(votes_key(place))
        assert keys[1] == votes_key(place) != keys[0]
        assert read_votes(tmp_path) == read_votes(place) == FULL
