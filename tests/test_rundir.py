"""A run folder keeps what happened and lets one process in at a time."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tastemaker.errors import CorruptFile, RunLocked, StorageError
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store import rundir
from tastemaker.store.rundir import RunDir, StepDir, StepEntry

KEY = "0123456789abcdef" * 4


def manifest(**changes: object) -> Manifest:
    return Manifest(**{"stage": "fit", "key": KEY, "outputs": {"adapter": "adapter"}, **changes})


def test_a_step_is_finished_when_its_outputs_are_there(tmp_path: Path) -> None:
    step = RunDir(tmp_path).step("fit", "fit", KEY)
    assert step.path == tmp_path / "steps/fit/0123456789ab"
    assert step.finished() is None
    (step.path / "adapter").mkdir(parents=True)
    saved = step.finish(manifest(counts={"images": 3}, results={"loss": float("nan")}, seconds=1.5))
    assert saved.counts == {"images": 3}
    assert step.finished() == manifest(counts={"images": 3}, results={"loss": "nan"}, seconds=1.5)
    artefact = Artefact("adapter", step.path / "adapter", f"{KEY}:adapter")
    assert step.output("adapter") == artefact
    with pytest.raises(KeyError):
        step.output("model")
    (step.path / "adapter").rmdir()
    assert step.finished() is None


def test_the_key_is_the_steps_own(tmp_path: Path) -> None:
    step = RunDir(tmp_path).step("fit", "fit", KEY)
    assert step.finish(manifest(key="", outputs={})).key == KEY
    other = RunDir(tmp_path).step("fit", "fit", KEY[:12] + "f" * 52)
    assert other.path == step.path
    assert other.finished() is None


def test_a_broken_manifest_says_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"stage": 3}')
    with pytest.raises(CorruptFile, match="Delete this file"):
        StepDir(tmp_path).finished()


def test_events_are_lines_of_their_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    step = run.step("fit", "fit", KEY)
    run.event("run", recipe="toy")
    step.event("progress", loss=np.float32(0.5), path=Path("x"), odd=float("inf"), many=(1, 2))
    run.step("other", "fit", KEY).event("started")
    kinds = [(event["step"], event["kind"]) for event in run.events()]
    assert kinds == [(None, "run"), ("fit", "progress"), ("other", "started")]
    (event,) = step.events()
    assert {k: event[k] for k in ("loss", "path", "odd", "many")} == {
        "loss": 0.5,
        "path": "x",
        "odd": "inf",
        "many": [1, 2],
    }
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"torn": ')
    step.event("started")
    assert [event["kind"] for event in step.events()] == ["progress", "started"]


def test_seconds_of_all_attempts(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    times = [(10, "started"), (25, "progress"), (100, "started"), (101, "failed"), (200, "skipped")]
    with log.open("w") as file:
        for time, kind in times:
            file.write(json.dumps({"time": time, "step": "fit", "key": "", "kind": kind}) + "\n")
    assert StepDir(tmp_path / "x", name="fit", events=log).seconds_so_far() == 16
    assert StepDir(tmp_path / "x", name="new", events=log).seconds_so_far() == 0


def test_plan_recipe_and_facts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert (run.plan(), run.facts(), run.steps()) == ([], {}, [])
    entry = StepEntry("fit", "fit", KEY, run.step_path("fit", KEY))
    run.save_plan([entry])
    run.save_recipe("name: toy\n")
    run.save_facts({"seed": 1})
    assert run.plan() == [entry]
    assert run.recipe_path.read_text() == "name: toy\n"
    assert run.facts() == {"seed": 1}
    assert [step.path for step in run.steps()] == [tmp_path / entry.path]


def test_one_at_a_time(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as run:
        with pytest.raises(RunLocked) as caught, RunDir(run.path):
            pass
        assert f"process {os.getpid()} on" in str(caught.value)
        assert caught.value.exit_code == 2
    with RunDir(run.path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = """
        import sys, time
        from tastemaker.store.rundir import RunDir
        with RunDir(sys.argv[1]):
            print("in", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(rundir.__file__).parents[2])},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RunLocked, match=f"process {other.pid} on"), RunDir(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(10)
    with RunDir(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OSError)), RunDir(tmp_path / "file" / "run"):
        pass
