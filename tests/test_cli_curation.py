"""`tastemaker collect` and `tastemaker curate` as people type them: on real files, with real work."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main

TEXT = 'a thing, "{}"\n<b>and</b> more'
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


def draw(path: Path, seed: int, side: int = 72) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(coarse).resize((side + 10, side), Image.Resampling.BICUBIC).save(path)
    path.with_suffix(".txt").write_text(TEXT.format(seed))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with twelve pictures; two are small and one has no caption."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    for number in range(12):
        draw(tmp_path / f"pictures/n{number:02}.png", number, 50 if number in (3, 4) else 72)
    (tmp_path / "pictures/n05.txt").unlink()
    (tmp_path / "mine.yaml").write_text(RULES)
    return tmp_path


class Told:
    """What a command line answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
        capsys.readouterr()
        self.code = main(words)
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        self.last = self.out.splitlines()[-1] if self.out else ""

    @property
    def value(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def counts(self) -> dict[str, int]:
        return self.value["steps"][-1]["counts"]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], work: Path):
    return lambda *words: Told(capsys, words)


@pytest.fixture
def collected(tell) -> Path:
    """A run folder with a collection."""
    assert tell("collect", "pictures", "-o", "run").code == 0
    return Path("run")


# --- collect -------------------------------------------------------------------------------------


def test_collect_ends_with_the_path_of_its_step(tell) -> None:
    told = tell("collect", "pictures", "-o", "run")
    assert told.code == 0
    warning, start = told.out.splitlines()[:2]
    assert warning.startswith("Warning: recipe.collect: sources: folder:")
    assert "1 of 12 pictures have no caption." in warning
    assert start.startswith("[1/1] collect: starts (run/steps/collect/")
    assert "pictures 12, without caption 1, new 12" in told.out
    assert (Path(told.last) / "collection/catalog/base/manifest.json").is_file()
    again = tell("collect", "pictures", "-o", "run")
    assert "[1/1] collect: done before, nothing to do" in again.out
    assert again.last == told.last
    assert again.err == ""


def test_collect_as_json(tell) -> None:
    told = tell("collect", "pictures", "-o", "run", "--json")
    (step,) = told.value["steps"]
    assert (told.value["run"], step["step"], step["status"]) == ("run", "collect", "done")
    assert step["counts"] == {"pictures": 12, "without caption": 1, "new": 12}
    assert step["results"]["sources"][0]["spec"].startswith("folder:")
    assert tell("collect", "pictures", "-o", "run", "--json").value["steps"][0]["status"] == (
        "skipped"
    )


def test_what_has_changed_since_is_counted(tell, work: Path) -> None:
    """Added, edited, renamed, removed, spoilt and told otherwise, all at once."""
    tell("collect", "pictures", "-o", "run")
    told = tell("curate", "run", "-o", "run", "--json")
    assert told.counts["measured pixels"] == 12
    pictures = work / "pictures"
    draw(pictures / "new.png", 50)
    draw(pictures / "n00.png", 51)
    (pictures / "n00.txt").write_text(TEXT.format(0))
    (pictures / "n01.txt").write_text("other words")
    for ending in (".png", ".txt"):
        (pictures / f"n02{ending}").rename(pictures / f"n02 moved{ending}")
        (pictures / f"n06{ending}").unlink()
    (pictures / "n07.png").write_bytes(b"")
    told = tell("collect", "pictures", "-o", "run", "--json")
    assert told.counts == {
        "pictures": 11,
        "without caption": 1,
        "unchanged": 7,
        "changed": 2,
        "new text": 1,
        "new": 2,
        "gone": 2,
        "unusable: zero bytes": 1,
    }
    # What is known of a picture goes with its content: only the two new ones are measured.
    told = tell("curate", "run", "-o", "run", "--json")
    assert told.counts["measured pixels"] == 2
    assert told.counts["dropped: unreadable: zero bytes"] == 1
    assert tell("collect", "pictures", "-o", "run", "--json").value["steps"][0]["status"] == (
        "skipped"
    )


def test_collect_takes_several_sources_and_a_limit(tell, work: Path) -> None:
    draw(work / "it's \"more\", ünï/a b.png", 60)
    words = ("collect", "pictures", "it's \"more\", ünï", "--limit", "3", "-o", "run", "--json")
    assert tell(*words).counts == {"pictures": 4, "without caption": 0, "new": 4}
    # A folder that is named twice is collected once.
    told = tell("collect", "pictures", "./pictures/", "-o", "twice", "--json")
    assert told.counts["pictures"] == told.counts["new"] == 12


def test_collect_shows_what_it_would_do(tell) -> None:
    told = tell("collect", "pictures", "-o", "run", "--limit", "5", "--dry-run")
    assert told.code == 0
    assert "[1/1] collect: to do  sources.0=" in told.out
    assert ": 5 pictures\n" in told.out
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "recipe.collect.sources (command line): got nothing; expected the path of pictures"),
        (("nowhere",), "recipe.collect.sources.0: nowhere: got nothing there"),
        (("mine.yaml",), "got a file"),
        (("demo:openmojj",), "Did you mean 'demo:openmoji'?"),
        (("pictures", "lmit=3"), "recipe.collect.lmit (command line): got an unknown key"),
        (("pictures", "engin.kind=ray"), "recipe.collect.engin (command line): got an unknown"),
        (("pictures", "--engine", "rya"), "got 'rya'; expected 'pool' or 'ray'. Did you mean"),
        (("pictures", "--workers", "-1"), "recipe.collect.engine.workers (command line): got -1"),
        (("pictures", "--limit", "0"), "recipe.collect.limit (command line): got 0; expected a"),
        (("pictures", "--limit", "x"), "'--limit'"),
        (("pictures", "--limt", "3"), "--limit"),
        (("pictures", "where.split=none"), "no picture passes where"),
        (("pictures", "-r", "tiny/fnnel"), "Did you mean 'tiny/funnel'?"),
    ],
)
def test_collect_says_what_is_wrong(tell, words: tuple[str, ...], error: str) -> None:
    told = tell("collect", *words, "-o", "run")
    assert told.code == 2
    assert error in told.err
    assert "Traceback" not in told.err + told.out
    assert not Path("run").exists()


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_folder_of_nothing_usable(tell, work: Path, content: bytes | None) -> None:
    (work / "empty").mkdir()
    if content is not None:
        (work / "empty/a.png").write_bytes(content)
    told = tell("collect", "empty", "-o", "run")
    assert told.code == 2
    said = "an empty folder" if content is None else "got no usable picture among 1 (1 "
    assert said in told.err
    assert tell("curate", "run", "-o", "run").code == 2


def test_pictures_and_run_may_share_a_folder(tell, work: Path) -> None:
    """What a run writes, plots among it, is not taken for more pictures."""
    for _ in range(2):
        assert tell("collect", "pictures", "-o", "pictures").code == 0
        told = tell("curate", "pictures", "-o", "pictures", "--what-if", "short_side=60:80:2")
        assert told.code == 0
    assert list((work / "pictures/steps").rglob("what_if*.png"))
    told = tell("collect", "pictures", "-o", "pictures", "--json")
    assert (told.counts["pictures"], told.counts["unchanged"]) == (12, 12)


# --- curate --------------------------------------------------------------------------------------


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
    assert "12 pictures in question, 5 rules" in told.out
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
    words = "rules={rule: contains, column: captions, any: 'a thing'}"
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
    assert [plot.name for plot in plots] == ["what_if_short_side.png", "what_if_pixels.flat_share.png"]
    for plot in plots:
        assert Image.open(plot).size[0] > 300
    page = Path(lines[-2]).read_text()
    assert page.count("At at least") + page.count("At at most") + page.count("keeps") >= 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sharpness", "what-if: got 'sharpness'; expected COLUMN=LOW:HIGH or COLUMN=LOW:HIGH:POINTS"),
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
        (("run", "a", "b"), "tastemaker curate: got 3 places; expected at most 2: collection, within"),
        (("run", "rules=[{rule: rang, column: h}]"), "Did you mean 'range'?"),
        (
            ("run", "rules=[{rule: captioned}, {rule: range, column: h, lest: 3}]"),
            "recipe.curate.rules.1.lest (command line): got an unknown key; expected one of column, "
            "least, most, rule, unknown. Did you mean 'least'?",
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
        (("run", "rules="), "recipe.curate.rules.0 (command line): got None; expected keys and val"),
        (("run", "columns=pixels"), "got 'pixels'; expected keys and values"),
        (("run", "columns=[{kind: pixel}]"), "Did you mean 'pixels'?"),
        (("run", "columns=[{kind: embedding}]"), "recipe.curate.columns.0.model (command line): got"),
        (("run", "measure=al"), "Did you mean 'all'?"),
        (("run", "mesure=all"), "Did you mean 'measure'?"),
        (("run", "-r", "broken.yaml"), "recipe.chosen.rules.1.lest (broken.yaml line 9): got an unkn"),
        (("run", "-r", "mine.yaml", "rules.7.least=1"), "expected the number of one of its entries"),
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


# --- engines and progress ------------------------------------------------------------------------


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


def test_progress_has_rate_and_time_left_where_there_is_no_terminal(
    tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tastemaker.engine import progress
    from tastemaker.stages import collect

    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(collect, "_BATCH", 3)
    told = tell("collect", "pictures", "-o", "run")
    lines = told.err.splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["3/12", "6/12", "9/12", "12/12"]
    for line in lines[1:3]:
        assert re.fullmatch(r"collect \d+/12 pictures [\d.]+/s eta \d+s", line), line
    assert "\r" not in told.err
    assert "\x1b" not in told.err + told.out


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["collect", "curate"])
def test_help_is_whole_and_light(verb: str, repository: Path) -> None:
    code = (
        "import json, sys, time\n"
        "from tastemaker.cli.app import main\n"
        f"code = main(['{verb}', '--help'])\n"
        "print(json.dumps([code, time.process_time(), list(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=True
    )
    exit_code, seconds, modules = json.loads(done.stderr)
    heavy = {"torch", "numpy", "PIL", "transformers", "pyarrow", "duckdb", "ray"}
    assert exit_code == 0
    assert heavy & set(modules) == set()
    assert seconds < 0.6
    options = ["--out", "--recipe", "--engine", "--workers", "--limit", "--dry-run", "--json"]
    for option in [*options, *(["--what-if"] if verb == "curate" else []), "For example:"]:
        assert option in done.stdout
    # Paragraphs flow: no line of the text ends early in the middle of a sentence.
    text = done.stdout.split("Usage")[1].split("Arguments")[0].splitlines()[3:]
    for line, after in zip(text, text[1:], strict=False):
        if line.strip() and after.strip() and after.strip()[0].islower():
            first = after.split()[0]
            assert len(line.rstrip()) + len(first) + 1 >= 118, line
