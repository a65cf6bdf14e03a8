"""Votes of a study reach evaluations, pairs and reports, and mean the same everywhere."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tastemaker.cli.app import main
from tastemaker.engine.ballot import next_pairs
from tastemaker.engine.study_ballot import open_study
from tastemaker.records.codec import to_json
from tastemaker.records.generation import Prompt, Sample
from tastemaker.records.run import Artefact
from tastemaker.stages import study
from tastemaker.store import jsonl
from tastemaker.store.people import FILE, People
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.samples import SAMPLES
from tests.page_reader import parsed
from tests.pairs_made import dropped, made, picture
from tests.report_run import Run
from tests.told import Told

PROMPTS = [Prompt(f"p{n:02d}", f"a thing {n}", (("category", "ab"[n % 2]),)) for n in range(12)]
LIKED = ("old", "new", "new", "new")
"""Whose picture most voters choose, by number of the prompt."""


def _vote(folder: Path) -> None:
    """Five raters answer all; one undoes a vote, one is late, one skips."""
    ballot = open_study(folder)
    with People(folder / FILE) as people:
        rows = [people.add_rater(f"rater {n}", now=0.0) for n in range(5)]
        now, first = 1.0, True
        given = next_pairs(people, ballot, rows[0].id, 5, now=0.0)
        slow = next(one for one in given if one.reason == "random")
        skipped = next(p.id for p in PROMPTS if p.id != slow.prompt)
        for number, rater in enumerate(rows):
            while shown := next_pairs(people, ballot, rater.id, 1, now=now + 1000):
                now += 2000
                liked = LIKED[int(shown[0].prompt[1:]) % len(LIKED)]
                choice = "a" if shown[0].a == liked else "b"
                if number == 4 and shown[0].prompt == skipped:
                    choice = "skip"
                elif number == 3:
                    choice = "b" if choice == "a" else "a"
                people.answer(shown[0].vote_id, rater.id, choice, now=now, seconds=1.0 + number)
                if first:
                    people.undo(shown[0].vote_id, rater.id, now=now)
                    first = False
        # Its lease was over and another one of the same rater has taken the place.
        people.answer(slow.vote_id, rows[0].id, "b", now=now)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of two models, and a study of them that has been answered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    write_prompt_set(Path("prompts.jsonl"), make_prompt_set("things", PROMPTS))
    for number, name in enumerate(("old", "new")):
        for n, prompt in enumerate(PROMPTS):
            file = f"{prompt.id}_00.png"
            picture(tmp_path / name / file, 100 * number + n)
            sample = Sample(name, prompt.id, prompt.text, 0, n, "s", file)
            jsonl.append(tmp_path / name / SAMPLES, to_json(sample))
    words = ["old=old", "new=new", "--prompts", "prompts.jsonl", "--gold", "2", "--repeat", "0.1"]
    assert main(["study", "new", "study", *words]) == 0
    _vote(Path("study"))
    return tmp_path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], work: Path):
    capsys.readouterr()
    return lambda *words: Told(capsys, words)


def _evaluated(run: str) -> dict[str, Any]:
    (found,) = Path().glob(f"{run}/steps/evaluate/*/scores/summary.json")
    return json.loads(found.read_text())["votes"]


def test_every_format_says_what_the_study_says(tell, work: Path) -> None:
    report = tell("study", "report", "study", "--json").value
    (line,) = report["results"]
    verdict = line["verdict"]
    assert (verdict["majority"]["wins"], verdict["majority"]["losses"]) == (3, 9)
    assert (report["undone"], report["late"]) == (1, 1)
    assert report["skipped"] >= 1

    for ending in ("jsonl", "csv", "parquet", ""):
        place = f"votes.{ending}" if ending else "study"
        if ending:
            assert tell("study", "export", "study", place).code == 0
        run = f"run-{ending}"
        words = ("sides.old=old", "sides.new=new", "image_text=null", "resamples=100")
        told = tell("evaluate", *words, "prompts=prompts.jsonl", f"votes={place}", "-o", run)
        assert told.code == 0, told.err
        votes = _evaluated(run)
        (question,) = votes["questions"]
        assert votes["used"] == report["votes"] == verdict["votes"]
        assert votes["left_out"]["undone or too late"] == 2
        turned = {"a": "b", "b": "a"}
        own = question["verdict"]["outcomes"]
        assert {p: turned.get(won, won) for p, won in own.items()} == verdict["outcomes"]
        assert votes["raters"] == report["raters"]

        samples = ("old", "new") if ending else ()
        told = tell(*("pairs", *samples, f"file={place}", "source.kind=votes", "-o", run, "--json"))
        pairs = list(made(told).pairs())
        texts = {p.text: p.id for p in PROMPTS}
        won = {texts[pair.prompt]: pair.fact("winner_model") for pair in pairs}
        names = {"a": line["side"], "b": line["reference"]}
        assert won == {p: names[won] for p, won in verdict["outcomes"].items()}
        assert sum(int(pair.fact("votes") or 0) for pair in pairs) == report["votes"]
        reasons = dropped(told)
        assert reasons["undone or late"] == 2
        assert reasons["skipped"] == report["skipped"]


def test_a_study_is_read_anew_when_people_have_voted(tell, work: Path) -> None:
    words = ("pairs", "file=study", "source.kind=votes", "-o", "run", "--json")
    assert tell(*words).value["steps"][0]["status"] == "done"
    assert tell(*words).value["steps"][0]["status"] == "skipped"
    with People(Path("study") / FILE) as people:
        vote = next(v for v in people.votes() if v.vote.reason == "random")
        people.add_votes([replace(vote, superseded_by="late")])
    assert tell(*words).value["steps"][0]["status"] == "done"
    # A picture that is not the one that was shown makes no pair.
    picture(work / "new" / "p00_00.png", 77)
    told = tell("pairs", "file=study/people.sqlite", "source.kind=votes", "-o", "two", "--json")
    assert dropped(told)["a picture that was changed after the study"] == 1


def test_votes_of_other_programs_come_in_only_where_they_fit(tell, work: Path) -> None:
    row = {"id": "x1", "prompt": "p00", "a": "old", "b": "new", "left": "a", "rater": "them"}
    cases = {
        "the prompt 'p99'": {"prompt": "p99"},
        "the sides 'old' and 'else'": {"b": "else"},
        "the question 'looks'": {"question": "looks"},
        "a vote of the study s-other": {"study": "s-other"},
    }
    for said, change in cases.items():
        Path("theirs.jsonl").write_text(json.dumps(row | {"choice": "a"} | change))
        told = tell("study", "import", "study", "theirs.jsonl")
        assert told.code == 2
        assert f"{said}; expected votes of the study" in " ".join(told.err.split())
    Path("theirs.jsonl").write_text(json.dumps(row | {"choice": "a"}))
    for added in (1, 0):
        told = tell("study", "import", "study", "theirs.jsonl", "--json")
        assert told.value["votes"] == added
    with People(Path("study") / FILE) as people:
        (theirs,) = [v for v in people.votes() if v.vote.rater == "them"]
    assert theirs.study == open_study("study").study


def test_the_page_shows_what_people_disagree_about(tell, work: Path) -> None:
    assert tell("study", "report", "study").code == 0
    page = Path("study/study.html").read_text()
    found = parsed(page)
    assert found.images >= 12
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for said in (
        "No clear preference between old and new.",
        "Where people disagree most",
        "for old, 1 for new",
        "By category",
        "Bonferroni",
        "1 vote was undone, 1 came too late to count",
    ):
        assert said in text, said


def test_a_study_step_and_what_people_said_are_in_the_report_of_the_run(tell, work: Path) -> None:
    run = Run(work / "run")
    step = run.step("people", "study", samples=["old", "new"])
    config = study.Config(samples=("old", "new"), gold=2)
    given = {f"samples.{n}": Artefact("samples", work / s, s) for n, s in enumerate(config.samples)}
    step.finish(study.run(config, given, step))
    page = run.page()
    parsed(page)
    assert "No result yet (no vote" in page or "No result yet (0 votes" in page
    assert "tastemaker study serve" in page
    _vote(step.path / "study")
    page = run.page()
    found = parsed(page)
    assert "<h1>No clear preference between old and new.</h1>" in page
    assert "59 of 60 planned votes." in page
    link = next(one for one in found.links if one.endswith("study.html"))
    assert "Where people disagree most" in (run.folder / link).read_text()
    # The run itself stands for its votes, as they are now.
    told = tell("pairs", "file=run", "source.kind=votes", "-o", "two", "--json")
    assert (told.code, len(list(made(told).pairs()))) == (0, 12)
