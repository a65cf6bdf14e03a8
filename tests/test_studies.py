"""Studies: planned, voted on without gaps or doubles, and reported."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main
from tastemaker.engine.ballot import next_pairs, progress
from tastemaker.engine.simulated_raters import Noise, simulate_votes
from tastemaker.engine.study_ballot import open_study
from tastemaker.engine.study_results import results
from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.vote import Vote
from tastemaker.store.people import FILE, People
from tastemaker.store.studies import read_study
from tests.page_reader import parsed

PROMPTS = 12


def folders(place: Path, *names: str, prompts: int = PROMPTS) -> list[str]:
    """A folder of pictures for each name, called by number; words for `study new`."""
    lines = [f"a thing number {n}" for n in range(prompts)]
    (place / "prompts.txt").write_text("\n".join(lines))
    for number, name in enumerate(names):
        (place / name).mkdir()
        for prompt in range(prompts):
            pixels = np.full((24, 24, 3), 20 * number + prompt, np.uint8)
            Image.fromarray(pixels).save(place / name / f"{prompt:05d}.png")
    return [f"{name}={place / name}" for name in names]


def new(place: Path, *options: str, names: tuple[str, ...] = ("old", "new")) -> Path:
    """A study of folders, made as a user makes it."""
    words = folders(place, *names)
    study = place / "study"
    given = ["--prompts", str(place / "prompts.txt"), *options]
    assert main(["study", "new", str(study), *words, *given]) == 0
    return study


def vote_all(study: Path, left_bias: float = 0.0, raters: int = 7, strength: float = 3.0) -> None:
    """Simulated raters like the second model better."""
    ballot = open_study(study)

    def taste(shown, side) -> float:
        name = shown.a if side == "a" else shown.b
        return -3.0 if "@" in name else float(name == "new")

    with People(study / FILE) as people:
        noise = Noise(raters=raters, strength=strength, left_logits=left_bias, lapses=0.0)
        simulate_votes(people, ballot, taste, noise, votes=None, seed=0)


def test_new_tells_what_the_study_can_show(tmp_path: Path, capsys) -> None:
    study = new(tmp_path, "--json", "--question", "general", "--question", "look: Which is nicer?")
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["votes"] == PROMPTS * 5 * 2
    assert told["plan"]["smallest_rate"] > 0.85
    plan = read_study(study)
    assert [q.text for q in plan.questions] == ["Which image do you prefer?", "Which is nicer?"]
    assert plan.id == told["id"]
    assert not any(str(tmp_path) in file for c in plan.contenders for file in c.files.values())
    path = study / "study.json"
    path.write_text(path.read_text().replace('"votes": 5', '"votes": 3'))
    with pytest.raises(CorruptFile, match="was changed"):
        read_study(study)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["only={old}"], "two or more"),
        (["a={old}", "a={new}"], "two or more"),
        (["a@b={old}", "new={new}"], "the name 'a@b'"),
        (["old={old}", "new={short}"], "no picture for 2 of 12 prompts"),
        (["old={old}", "new={empty}"], "none with the id or number"),
        (["old={old}", "new={absent}"], "no folder"),
        (["old={old}", "new={new}", "--question", "beauty"], "the question 'beauty'"),
        (["old={old}", "new={new}", "--sample", "3"], "files such as 00000_03.png"),
        (["old={old}", "new={new}", "--instructions", "{absent}"], "not readable"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    tmp_path: Path, capsys, words: list[str], said: str
) -> None:
    folders(tmp_path, "old", "new", "short", "empty")
    for number in (3, 4):
        (tmp_path / "short" / f"{number:05d}.png").unlink()
    for file in (tmp_path / "empty").iterdir():
        file.rename(file.with_name(f"x{file.name}"))
    names = {name: tmp_path / name for name in ("old", "new", "short", "empty", "absent")}
    given = [word.format(**names) for word in words]
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    assert main(["study", "new", str(tmp_path / "s"), *given, *prompts]) == 2
    assert said in capsys.readouterr().err


def test_so_few_prompts_can_show_nothing_and_that_is_said(tmp_path: Path, capsys) -> None:
    words = folders(tmp_path, "old", "new", prompts=4)
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    assert main(["study", "new", str(tmp_path / "s"), *words, *prompts]) == 0
    said = capsys.readouterr().out
    assert "4 prompts, 20 votes in all" in said
    assert "no difference can be found, not even of a model that always wins" in said
    assert "takes about 194 prompts" in said
    assert main(["study", "new", str(tmp_path / "t"), *words, "--prompts", "nowhere.txt"]) == 2
    assert "nowhere.txt: got not readable" in capsys.readouterr().err


def test_missing_pictures_and_subsets_leave_prompts_out(tmp_path: Path) -> None:
    words = folders(tmp_path, "old", "new")
    (tmp_path / "new" / "00003.png").unlink()
    given = ["--prompts", str(tmp_path / "prompts.txt"), "--allow-missing", "--subset", "6"]
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        assert main(["study", "new", str(tmp_path / name), *words, *given, "--seed", seed]) == 0
    plans = [read_study(tmp_path / name) for name in ("one", "same", "other")]
    ids = [[p.id for p in plan.prompts] for plan in plans]
    assert all(len(set(one)) == 6 and "00003" not in one for one in ids)
    assert ids[0] == ids[1] != ids[2]
    assert main(["study", "new", str(tmp_path / "one"), *words, *given, "--seed", "2"]) == 2


def test_every_slot_gets_its_votes_and_no_rater_sees_a_pair_twice(tmp_path: Path) -> None:
    study = new(tmp_path, "--gold", "4", "--repeat", "0.15", names=("old", "new", "third"))
    vote_all(study)
    with People(study / FILE) as people:
        votes = [stored.vote for stored in people.votes()]
        ballot = open_study(study)
        assert next_pairs(people, ballot, "simulated-0", 3, now=1e9) == []
        told = progress(people, ballot, "simulated-0", now=1e9)
        assert told.done == told.target
        shown = people.shown(ballot.study)
    fair = [vote for vote in votes if vote.reason == "random"]
    slots = Counter((vote.prompt, vote.a, vote.b) for vote in fair)
    assert set(slots.values()) == {5}
    assert len(slots) == PROMPTS * 3
    assert len({(vote.rater, vote.prompt, vote.a, vote.b) for vote in fair}) == len(fair)
    for rater in {vote.rater for vote in fair}:
        for pair in {(vote.a, vote.b) for vote in fair}:
            own = [v.left for v in fair if v.rater == rater and (v.a, v.b) == pair]
            assert abs(own.count("a") - own.count("b")) <= 1
    gold = [one for one in shown if one.reason == "gold"]
    assert gold
    for one in gold:
        assert one.expected == "a"
        right, wrong = (ballot.picture(one, side) for side in ("a", "b"))
        assert int(right.stem) == int(one.prompt)
        assert wrong.parent == right.parent
        assert wrong != right
    assert any(one.reason == "repeat" for one in shown)


def test_the_report_finds_the_better_model_and_the_biased_side(tmp_path: Path, capsys) -> None:
    study = new(tmp_path, "--gold", "4", "--repeat", "0.1")
    vote_all(study, left_bias=1.0, strength=2.0)
    capsys.readouterr()
    assert main(["study", "report", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (line,) = found["results"]
    rate = line["verdict"]["majority"]["rate"]
    assert (line["side"], line["reference"], rate["units"]) == ("old", "new", 12)
    assert line["verdict"]["votes"] == 60
    assert rate["high"] < 0.5
    assert found["sides"]["if_left"] > found["sides"]["if_right"]
    assert found["simulated"]
    assert all(rater["flags"] == [] for rater in found["raters"])
    page = (study / "study.html").read_text()
    assert all(address.startswith("data:") for address in parsed(page).loads)
    text = re.sub(r"<[^>]+>", "", page)
    assert "People prefer new to old." in text
    assert "No person has looked" in text
    assert "simulated-0" not in text
    assert json.loads((study / "results.json").read_text())["study"] == found["study"]


def answered(plan, rows) -> list:
    """Stored votes from (prompt number, rater, choice, seconds, reason)."""
    from tastemaker.store.people import StoredVote

    return [
        StoredVote(
            Vote(
                f"v{n}", plan.prompts[p].id, "old", "new", "ab"[n % 2], rater, choice, "general",
                reason, seconds,
            ),
            plan.id,
            float(n),
        )
        for n, (p, rater, choice, seconds, reason) in enumerate(rows)
    ]  # fmt: skip


def test_repeats_and_gold_do_not_count_and_hasty_raters_are_named(tmp_path: Path) -> None:
    plan = read_study(new(tmp_path))
    rows = [(p, f"r{r}", "b", 2.0, "random") for p in range(8) for r in range(3)]
    rows += [(p, f"hasty{r}", "a", 0.2, "random") for p in range(8) for r in range(4)]
    rows += [(p, "r0", "a", 2.0, "repeat") for p in range(4)]
    rows += [(p, "r1", "a", 2.0, "gold") for p in range(4)]
    found = results(plan, answered(plan, rows))
    (line,) = found["results"]
    assert (line["verdict"]["votes"], line["complete"]) == (56, 8)
    assert line["verdict"]["majority"]["wins"] == 8
    assert line["without_flagged"]["majority"]["losses"] == 8
    raters = {one["rater"]: one for one in found["raters"]}
    assert raters["hasty0"]["flags"] == ("median below 0.4 s",)
    assert raters["r0"]["repeats"] == (0, 4)
    assert raters["r1"]["gold"] == (4, 4)
    with pytest.raises(InputError, match="at least two prompts"):
        results(plan, answered(plan, rows[:3]))


def test_scorers_are_compared_with_people(tmp_path: Path) -> None:
    plan = read_study(new(tmp_path))
    rows = [(p, f"r{r}", "a" if p < 9 else "b", 2.0, "random") for p in range(12) for r in range(3)]
    prompts = [prompt.id for prompt in plan.prompts]
    values = {("old", id_): 1.0 for id_ in prompts} | {("new", id_): 0.0 for id_ in prompts}
    values["new", prompts[4]] = 9.0
    (line,) = results(plan, answered(plan, rows), {"judge": values})["results"]
    (found,) = line["scorers"]
    assert found["agreement"]["estimate"] == pytest.approx(8 / 12)
    # Where the scorer is surest of the opposite comes first.
    assert found["clearest"][0]["prompt"] == prompts[4]
    assert found["disagreements"] == 4


def test_votes_go_out_and_into_the_same_study_only(tmp_path: Path, capsys) -> None:
    study = new(tmp_path)
    vote_all(study, raters=5)
    file = tmp_path / "votes.csv"
    assert main(["study", "export", str(study), str(file)]) == 0
    with file.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) >= 60
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "study.json").write_text((study / "study.json").read_text())
    capsys.readouterr()
    for expected in (60, 0):
        assert main(["study", "import", str(copy), str(file), "--json"]) == 0
        assert (json.loads(capsys.readouterr().out)["votes"] >= 60) == bool(expected)
    other = tmp_path / "other"
    words = [f"x={tmp_path / 'old'}", f"y={tmp_path / 'new'}"]
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    assert main(["study", "new", str(other), *words, *prompts]) == 0
    assert main(["study", "import", str(other), str(file)]) == 2
    assert "a vote of the study s-" in capsys.readouterr().err
