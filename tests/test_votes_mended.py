"""Files of votes that are wrong in ways a reader could pass over, and where they may go."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tastemaker.cli.app import main
from tastemaker.errors import InputError
from tastemaker.records.ballot import Shown
from tastemaker.records.vote import Vote
from tastemaker.store.people import FILE, People, StoredVote
from tastemaker.store.people_tables import make_vote
from tastemaker.store.vote_files import read_votes
from tastemaker.web.gallery_rows import gallery_of
from tastemaker.web.library import Library
from tests.studio_place import make_collection, make_run, make_study

ROW = {"id": "v1", "prompt": "", "a": "x", "b": "y", "left": "a", "rater": "r", "choice": "a"}
HEAD = ",".join(ROW)
LINE = ",".join(ROW.values())


def _parquet_with_a_column_twice(path: Path) -> None:
    names = [*ROW, "choice"]
    parquet.write_table(pa.Table.from_arrays([pa.array([ROW[n]]) for n in names], names), path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("v.csv", f"{HEAD},choice\n{LINE},b\n", "line 1: got the column 'choice' twice"),
        ("v.jsonl", json.dumps(ROW)[:-1] + ', "id": "v2"}', "line 1: .* the column 'id' twice"),
        ("v.parquet", _parquet_with_a_column_twice, "got the column 'choice' twice"),
        ("v.jsonl", json.dumps({**ROW, "rater": "\ud800"}), "line 1: .* rater '.ud800', which is"),
        ("v.jsonl", json.dumps({**ROW, "seconds": 1e308}), r"no number from 0 to 1e\+12"),
        ("v.csv", f'{HEAD}\n{LINE}\n"v2', "line 3: got not CSV"),
        ("v.csv", f"{HEAD}\n{'x' * 200_000}\n", "line 2: got not CSV"),
    ],
)
def test_what_nobody_can_have_meant_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | Callable[[Path], None], said: str
) -> None:
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_votes(path)


def test_a_collection_takes_votes_on_its_own_pictures_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = make_collection(tmp_path / "hills", count=4, side=32)
    file = tmp_path / "votes.jsonl"

    def told(**values: Any) -> tuple[int, str]:
        file.write_text(json.dumps(ROW | values))
        return main(["study", "import", str(collection), str(file)]), capsys.readouterr().err

    code, text = told()
    assert (code, "vote v1: got the picture 'x'" in text) == (2, True)
    assert not (collection / FILE).exists()
    assert _ids(collection)
    own = dict(zip("ab", _ids(collection), strict=False))
    code, text = told(**own, study="s-1")
    assert (code, "a vote of the study s-1" in text) == (2, True)
    assert told(**own)[0] == 0
    with People(collection / FILE) as people:
        assert [vote.study for vote in people.votes()] == ["rating"]
    # The run stands for its collection, as it does where one rates.
    assert main(["study", "export", str(tmp_path / "hills"), str(tmp_path / "out.csv")]) == 0
    assert [vote.vote.id for vote in read_votes(tmp_path / "out.csv")] == ["v1"]
    assert main(["study", "import", str(tmp_path / "hills"), str(tmp_path / "out.csv")]) == 0


def _ids(collection: Path) -> list[str]:
    from tastemaker.store.catalogue import Catalogue

    return [record.id for record in Catalogue(collection).records()]


def test_the_gallery_counts_nobody_twice(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", make_run(tmp_path / "run", 2, side=32), 2)
    first = Vote("v1", "p0000", "before", "after", "a", "r", "a")
    again = replace(first, id="v2", left="b", choice="b", reason="repeat")
    with People(tmp_path / "study" / FILE) as people:
        people.add_votes([StoredVote(vote, study.id) for vote in (first, again)])
    library = Library(tmp_path)
    (run,) = library.all("run")
    shares = gallery_of(run, library).preference(0, 1)
    assert shares is not None
    assert shares[0] == -1


def test_a_vote_that_was_undone_in_a_copy_cannot_be_undone_here(tmp_path: Path) -> None:
    shown = Shown("v1", "s", "r", "general", "p", "x", "y", "a", "random")
    with People(tmp_path / FILE) as people:
        people.lease([shown], 1, most=1, now=0.0)
        people.answer("v1", "r", "a", now=1.0)
        elsewhere = StoredVote(make_vote(shown, "a", None), "s", 1.0, "v2")
        assert people.add_votes([elsewhere]) == 0
        with pytest.raises(InputError, match="a vote that stands here"):
            people.undo("v1", "r", now=2.0)
