"""`tastemaker collect` and `tastemaker curate` as people type them: on real files, with real work."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main
from tastemaker.engine.progress import Progress
from tastemaker.store.rundir import StepDir

RULES = """
name: mine
steps:
  - name: chosen
    stage: curate
    collection: pictures
    rules:
      - {rule: captioned}
      - {rule: range, column: short_side, least: 40}
      - {rule: range, column: pixels.flat_share, most: 0.9}
"""


def draw(path: Path, seed: int, side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(coarse).resize((side + 10, side), Image.Resampling.BICUBIC).save(path)
    path.with_suffix(".txt").write_text(f'a thing, "{seed}"\n<b>and</b> more')


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with twelve pictures; two are small and one has no caption."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    for number in range(12):
        draw(tmp_path / f"pictures/{number:02}.png", number, 30 if number in (3, 4) else 48)
    (tmp_path / "pictures/05.txt").unlink()
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
    assert told.out.splitlines()[0].startswith("[1/1] collect: starts (run/steps/collect/")
    assert "Warning: recipe.collect: sources: folder:" in told.out.replace(
        told.out.splitlines()[0], ""
    ) or told.out.startswith("Warning")
    assert "pictures 12, without caption 1, new 12" in told.out
    assert (Path(told.last) / "collection/catalog/base/manifest.json").is_file()
    again = tell("collect", "pictures", "-o", "run")
    assert "[1/1] collect: done before, nothing to do" in again.out
    assert again.last == told.last
    assert "pictures/s" not in again.err


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
    draw(pictures / "00.png", 51)
    (pictures / "01.txt").write_text("other words")
    for ending in (".png", ".txt"):
        (pictures / f"02{ending}").rename(pictures / f"02 moved{ending}")
        (pictures / f"06{ending}").unlink()
    (pictures / "07.png").write_bytes(b"")
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
        told = tell("curate", "pictures", "-o", "pictures", "--what-if", "short_side=40:50:2")
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
    told = tell("curate", "run", "-o", "run", "--json", "--what-if", "short_side=40:60:3")
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
    assert tell("curate", "run", "-o", "run", "--dry-run", "--json").value["steps"][0] == {
        "step": "curate",
        "stage": "curate",
        "status": "done",
        "key": (collected / "steps/curate").iterdir().__next__().name + KEY_REST(collected),
        "inputs": {"collection": str(next((collected / "steps/collect").iterdir()).resolve() / "collection")},
        "preview": [],
    }
