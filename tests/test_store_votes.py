"""Votes as files: what is written is read; what is not understood is an error with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tastemaker.errors import InputError
from tastemaker.records.vote import Vote
from tastemaker.store.votes import read_votes, write_votes

ROW = {"id": "v1", "prompt": "p", "a": "base", "b": "dpo", "left": "b", "rater": "r", "choice": "a"}


def _file(folder: Path, *rows: object) -> Path:
    path = folder / "votes.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    votes = [
        Vote("v1", "p\u2028é", "base", "dpo", "b", "r1", "both_bad", "appeal", "gold", 2.5),
        Vote("v2", "p", "dpo", "base", "a", "r2", "skip"),
    ]
    write_votes(tmp_path / "votes.jsonl", votes)
    assert read_votes(tmp_path / "votes.jsonl") == votes


def test_parquet_has_the_same_columns_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    rows = [ROW | {"seconds": 3.0, "question": None}, ROW | {"id": "v2", "seconds": None}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "votes.parquet")
    found = read_votes(tmp_path / "votes.parquet")
    assert found[0] == Vote(**ROW, seconds=3.0)
    assert found[1] == Vote(**ROW | {"id": "v2"})


def test_a_vote_that_was_sent_twice_counts_once(tmp_path: Path) -> None:
    assert len(read_votes(_file(tmp_path, ROW, ROW))) == 1
    with pytest.raises(InputError, match=r"line 2: got another vote with the id 'v1' of .*line 1"):
        read_votes(_file(tmp_path, ROW, ROW | {"choice": "b"}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"choise": "a"}, "unknown key 'choise'"),
        ({k: v for k, v in ROW.items() if k != "left"}, "no 'left'"),
        (ROW | {"choice": "c"}, "choice 'c'; expected one of a, b, tie, both_bad, skip"),
        (ROW | {"left": "left"}, "left 'left'; expected one of a, b"),
        (ROW | {"reason": "whim"}, "reason 'whim'; expected one of random"),
        (ROW | {"b": "base"}, "'base' on both sides"),
        (ROW | {"prompt": ""}, "prompt ''; expected a text"),
        (ROW | {"rater": 7}, "rater 7; expected a text"),
        (ROW | {"seconds": -1}, "seconds -1; expected a number from 0"),
        (ROW | {"seconds": True}, "seconds True"),
        (ROW | {"seconds": float("nan")}, "seconds nan"),
        ([ROW], "got list; expected one JSON object"),
    ],
)
def test_what_is_no_vote_is_refused_with_its_line(
    tmp_path: Path, row: object, message: str
) -> None:
    with pytest.raises(InputError, match="votes.jsonl, line 2: ") as told:
        read_votes(_file(tmp_path, ROW, row))
    assert message in str(told.value)


def test_a_torn_last_line_is_no_vote(tmp_path: Path) -> None:
    path = _file(tmp_path, ROW)
    path.write_text(path.read_text() + "\n" + json.dumps(ROW)[:30])
    with pytest.raises(InputError, match="line 2: got no JSON"):
        read_votes(path)


def test_files_without_votes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_votes(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no vote"):
        read_votes(_file(tmp_path))
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="no readable Parquet"):
        read_votes(tmp_path / "x.parquet")
