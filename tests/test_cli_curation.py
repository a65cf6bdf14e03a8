"""`tastemaker curate` as people type it: on real files, with real work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.told import Told, draw_twelve

RULES = """
name: mine
steps:
  - name: chosen
    stage: curate
    collection: pictures
    rules:
      - {rule: captioned}
      - {rule: range, column: short_side, least: 60}
      - {rule: range, column: pixels.flat_share, most: 0.9}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with twelve pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    draw_twelve(tmp_path / "pictures")
    (tmp_path / "mine.yaml").write_text(RULES)
    return tmp_path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], work: Path):
    return lambda *words: Told(capsys, words)


@pytest.fixture
def collected(tell) -> Path:
    """A run folder with a collection."""
    assert tell("collect", "pictures", "-o", "run").code == 0
    return Path("run")


def test_curate_ends_with_the_report(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run")
    assert told.code == 0
    page, step = told.out.splitlines()[-2:]
    assert page == f"{step}/curation.html"
    assert "pictures 12, kept 9, dropped: no caption 1, dropped: short_side too low 2" in told.out
    assert Path(page).read_text().startswith("<!doctype html>")
    again = tell("curate", "run", "-o", "run")
    assert "[1/1] curate: done before, nothing to do" in again.out
    assert again.out.splitlines()[-2:] == [page, step]


def test_curate_as_json(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run", "--json", "--what-if", "short_side=60:70:3")
    value = told.value
    assert set(value) == {"run", "steps", "report", "what_if"}
    assert Path(value["report"]).is_file()
    (step,) = value["steps"]
    assert step["outputs"] == {
        "selection": "selection.json",
        "verdicts": "verdicts.parquet",
        "curation": "curation.json",
    }
    assert (told.counts["kept"], value["what_if"][0]["today"]) == (9, 64.0)
    assert "[1/1] curate: starts" in told.err


def test_curate_shows_what_it_would_do(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run", "--dry-run")
    assert told.code == 0
    assert "pictures in question: 12; rules: 5" in told.out
    assert "pixels: 12 pictures to measure" in told.out
    assert not (collected / "steps/curate").exists()
    assert "pixels: 4 pictures" in tell("curate", "run", "--limit", "4", "--dry-run").out
    tell("curate", "run", "-o", "run")
    (step,) = tell("curate", "run", "-o", "run", "--dry-run", "--json").value["steps"]
    assert (step["step"], step["status"], step["preview"]) == ("curate", "done", [])


def test_a_plan_that_cannot_be_done_says_so(tell, collected: Path) -> None:
    for more in ((), ("--json",)):
        told = tell("curate", "nowhere", "--dry-run", *more)
        assert told.code == 2
        assert "recipe.curate.collection" in told.out or "got 'nowhere'" in told.out


def test_rules_come_from_a_file_and_from_the_command_line(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run", "-r", "mine.yaml", "--json")
    assert told.value["steps"][0]["step"] == "chosen"
    assert told.counts["kept"] == 9
    told = tell("curate", "run", "-o", "run", "-r", "mine.yaml", "--json", "rules.1.least=1")
    assert told.counts["kept"] == 11
    told = tell("curate", "run", "-o", "run", "rules=[{rule: sql, where: 'h < 60'}]", "--json")
    assert told.counts["kept"] == 2
    # One rule needs no brackets.
    told = tell("curate", "run", "-o", "run", "rules={rule: captioned}", "--json")
    assert told.counts["kept"] == 11
    words = "rules={rule: contains, column: captions, any: '7'}"
    told = tell("curate", "run", "-o", "run", words, "--json")
    assert told.counts["kept"] == 1
    # All of them are in the run, each in a folder of its own.
    assert len(list((collected / "steps").glob("c[hu]*/*"))) == 5


def test_an_earlier_selection_is_the_second_input(tell, collected: Path) -> None:
    tell("curate", "run", "-o", "small", "rules=[{rule: range, column: h, most: 60}]")
    told = tell("curate", "run", "small", "rules=[]", "-o", "again", "--json")
    assert told.counts["kept"] == 2


def test_other_thresholds_are_tried_without_work(tell, collected: Path) -> None:
    tell("curate", "run", "-o", "run")
    words = ("curate", "run", "-o", "run", "--what-if", "short_side=40:80:5", "--what-if")
    told = tell(*words, "flat_share=0:1:3")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0].endswith("done before, nothing to do")
    assert "short_side (today: at least 64): 9 of 12 pictures are kept" in lines
    assert "  at least 40    11   92\u202f%      +2" in lines
    assert "pixels.flat_share (today: at most 0.99): 9 of 12 pictures are kept" in lines
    plots = [Path(line) for line in lines if line.endswith(".png")]
    assert [plot.name for plot in plots] == [
        "what_if_short_side.png",
        "what_if_pixels.flat_share.png",
    ]
    for plot in plots:
        with Image.open(plot) as image:
            assert image.size[0] > 300
    assert Path(lines[-2]).read_text().count(" keeps ") >= 4


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "sharpness",
            "what-if: got 'sharpness'; expected COLUMN=LOW:HIGH or COLUMN=LOW:HIGH:POINTS",
        ),
        ("sharpness=60:20", "what-if: got 60 to 20; expected a first threshold below the last"),
        ("sharpness=a:b", "expected a number instead of 'a'"),
        ("sharpness=1:2:1", "expected a number of points from 2 to"),
    ],
)
def test_a_slip_in_what_if_is_found_before_the_work(
    tell, collected: Path, text: str, error: str
) -> None:
    told = tell("curate", "run", "-o", "run", "--what-if", "short_side=1:2", "--what-if", text)
    assert told.code == 2
    assert error in told.err
    assert not (collected / "steps/curate").exists()
    told = tell("curate", "run", "-o", "run", "--what-if", text, "--json")
    assert told.value["error"]["where"] == "what-if"


def test_what_if_of_an_unknown_column(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run", "--what-if", "sharpnes=1:2")
    assert told.code == 2
    assert "Did you mean 'pixels.sharpness'?" in told.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "recipe.curate.collection (command line): got nothing; expected the path of coll"),
        (("nowhere",), "recipe.curate.collection: got 'nowhere'"),
        (("pictures",), "which holds no catalogue; expected a collection, or the run folder"),
        (("run", "within=pictures"), "recipe.curate.within: got"),
        (
            ("run", "a", "b", "c", "d"),
            "got 5 places; expected at most 4: collection, within, quality, marks",
        ),
        (("run", "rules=[{rule: rang, column: h}]"), "Did you mean 'range'?"),
        (
            ("run", "rules=[{rule: captioned}, {rule: range, column: h, lest: 3}]"),
            "recipe.curate.rules.1.lest (command line): got an unknown key; expected one of "
            "column, least, most, rule, unknown. Did you mean 'least'?",
        ),
        (
            ("run", "rules=[{rule: range, column: h, least: '30'}]"),
            "recipe.curate.rules.0.least (command line): got '30'; expected a valid number",
        ),
        (
            ("run", "rules=[{rule: range, column: pixels.sharpnes, least: 1}]"),
            "recipe.curate: column 'pixels.sharpnes': got a name that is not known",
        ),
        (("run", "rules=[{rule: range, column: h}]"), "with `least`, `most` or both"),
        (("run", "rules=[{rule: sql, where: 'h >'}]"), 'syntax error at or near ">"'),
        (("run", "rules=[{rule: range, column: attribute.styl, least: 1}]"), "attribute.styl"),
        (
            ("run", "rules="),
            "recipe.curate.rules.0 (command line): got None; expected keys and val",
        ),
        (("run", "columns=pixels"), "got 'pixels'; expected keys and values"),
        (("run", "columns=[{kind: pixel}]"), "Did you mean 'pixels'?"),
        (
            ("run", "columns=[{kind: embedding}]"),
            "recipe.curate.columns.0.model (command line): got",
        ),
        (("run", "measure=al"), "Did you mean 'all'?"),
        (("run", "measures=all"), "Did you mean 'measure'?"),
        (
            ("run", "-r", "broken.yaml"),
            "recipe.chosen.rules.1.lest (broken.yaml line 9): got an unkn",
        ),
        (
            ("run", "-r", "mine.yaml", "rules.7.least=1"),
            "expected the number of one of its entries",
        ),
    ],
)
def test_curate_says_what_is_wrong(
    tell, collected: Path, words: tuple[str, ...], error: str
) -> None:
    Path("broken.yaml").write_text(RULES.replace("least:", "lest:"))
    told = tell("curate", *words, "-o", "out")
    assert told.code == 2
    assert error in told.err
    assert "Traceback" not in told.err + told.out
    assert not Path("out/steps/curate").exists()
    assert list(Path("pictures").glob("cat*")) == []


def test_rules_that_leave_nothing_say_which_and_why(tell, collected: Path) -> None:
    told = tell("curate", "run", "-o", "run", "rules=[{rule: range, column: h, least: 300}]")
    assert told.code == 2
    assert "got 0 of 12 pictures left: 12 by 'h too low' (for example n00.png" in told.err
    assert "Loosen the rule 'h >= 300'" in told.err
    # The run goes on with other rules.
    assert tell("curate", "run", "-o", "run").code == 0


def test_check_names_all_missing_models_at_once(tell, collected: Path) -> None:
    words = ("check", "slow_learner_funnel", "pictures=pictures", "head=no.pth")
    words = (*words, "clip=no/clip", "image_text=no/siglip")
    told = tell(*words)
    assert told.code == 2
    for model in ("no.pth", "no/clip", "no/siglip"):
        assert f"'{model}'" in told.out
    assert told.out.count("Error: recipe.chosen: ") == 3
    assert told.last == "slow_learner_funnel is not ready to run: 2 steps checked."
    value = tell(*words, "--json").value
    assert value["ready"] is False
    assert sum(finding["fatal"] for finding in value["findings"]) == 3
    # Two of the same kind, and a run that is refused says no less.
    columns = "columns=[{kind: embedding, model: no/a}, {kind: tags, model: no/b}]"
    told = tell("curate", "run", "-o", "run", columns)
    assert told.code == 2
    assert "no/a" in told.err + told.out
    assert "no/b" in told.err + told.out


def test_every_value_of_a_rule_is_explained(tell) -> None:
    words = ("explain", "slow_learner_funnel", "pictures=x", "head=h", "keep=5")
    rows = tell(*words, "chosen.rules.4.most_bits=3", "--json").value["values"]
    told = {row["path"].removeprefix("chosen."): (row["basis"], row["origin"]) for row in rows}
    assert told["rules.4.most_bits"] == ("set by you", "command line")
    assert told["rules.4.mirrored"] == ("chosen by us", "recipe")
    assert told["rules.4.most_levels"] == ("chosen by us", "stage default")
    assert told["rules.5.column"] == ("stated", "recipe")
    assert told["rules.5.unknown"] == ("chosen by us", "stage default")
    assert told["rules.7.count"][0] == "set by you"
    assert told["columns.4.head"][0] == "set by you"
    assert told["columns.2.model"] == ("chosen by us", "argument 'image_text'")
    (count,) = (
        row for row in tell(*words[:-1], "--json").value["values"] if "7.count" in row["path"]
    )
    assert (count["basis"], count["value"]) == ("stated", 2000)
    assert "rules.7.count" in tell(*words).out


def column_bytes(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.rglob("col/*/part-*.parquet"))]


def test_workers_change_nothing(tell, collected: Path) -> None:
    tell("curate", "run", "-o", "run", "--limit", "6")
    shutil.rmtree("other", ignore_errors=True)
    told = tell("collect", "pictures", "-o", "other", "--workers", "2", "--json")
    assert told.counts == {"pictures": 12, "without caption": 1, "new": 12}
    told = tell("curate", "other", "-o", "other", "--workers", "2", "--limit", "6", "--json")
    assert told.counts["measured pixels"] == 6
    assert column_bytes(Path("other")) == column_bytes(Path("run"))


@pytest.mark.slow
def test_ray_changes_nothing(work: Path) -> None:
    """In a process of its own, as people start it."""
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    for out, more in (("here", ()), ("there", ("--engine", "ray", "--workers", "2"))):
        for words in (("collect", "pictures"), ("curate", out)):
            command = [sys.executable, "-m", "tastemaker", *words, "-o", out, *more, "--json"]
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["steps"][0]["status"] == "done"
    assert column_bytes(work / "there") == column_bytes(work / "here") != []
