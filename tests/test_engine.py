"""Shards: nothing stops the others. Progress: people, logs and events see the same figures."""

import importlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tastemaker.engine.progress import Progress, duration
from tastemaker.engine.shards import ShardCrashed, run_shards
from tastemaker.errors import PictureError, StorageError
from tastemaker.store.rundir import StepDir


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], int]:
    """The toy work, under a name by which a spawned process finds it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("engine_work").work


def shards(*kinds: str | None) -> list[dict]:
    return [{"n": n, "kind": kind} for n, kind in enumerate(kinds)]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_are_results(work: Callable[[dict], int], workers: int, tmp_path: Path) -> None:
    given = shards("slow", "raise", "picture", None, "odd", "once", None)
    given[5]["path"] = str(tmp_path / "marker")
    results = list(run_shards(work, given, workers=workers))
    assert [r.index for r in results] == list(range(7))
    assert [r.shard for r in results] == given
    assert [r.value for r in results] == [0, None, None, 9, None, 25, 36]
    assert [r.tries for r in results] == [1, 2, 1, 1, 2, 2, 1]
    errors = [r.error for r in results]
    assert isinstance(errors[1], ValueError)
    assert isinstance(errors[2], PictureError)
    assert (errors[2].where, errors[2].got) == (2, "truncated")
    assert "1 and 2" in str(errors[4])
    with pytest.raises(ValueError, match="no good"):
        results[1].unwrap()
    assert results[3].unwrap() == 9
    if workers:
        assert "in work" in errors[1].__notes__[0]


def test_a_shard_that_kills_its_worker_is_alone_in_quarantine(work: Callable[[dict], int]) -> None:
    given = shards(None, "slow", "die", None, "slow", *[None] * 6, "lambda", "die", None)
    results = list(run_shards(work, given, workers=2, retries=1))
    assert [r.index for r in results if r.error is not None] == [2, 11, 12]
    crashed = results[2].error
    assert isinstance(crashed, ShardCrashed)
    assert "2 times" in str(crashed)
    assert all(r.tries == 1 for r in results if r.error is None)
    assert [r.value for r in results if r.error is None] == [
        n * n for n in range(14) if n not in (2, 11, 12)
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_stops_everything(work: Callable[[dict], int], workers: int) -> None:
    results = run_shards(work, shards(None, "full", None), workers=workers)
    assert next(results).value == 0
    with pytest.raises(StorageError):
        next(results)


def test_leaving_early_ends_the_workers(work: Callable[[dict], int]) -> None:
    results = run_shards(work, shards(*[None] * 40), workers=1)
    assert next(results).value == 0
    results.close()  # type: ignore[attr-defined]
    assert list(run_shards(work, [], workers=1)) == []


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_now_and_then(tmp_path: Path) -> None:
    step, clock, out = StepDir(tmp_path / "fit"), Clock(), io.StringIO()
    with Progress(step, 6000, "images", stream=out, clock=clock) as progress:
        progress.advance(1000)
        for _ in range(20):
            clock.now += 2
            progress.advance(170, loss=0.081234)
        assert progress.rate() == pytest.approx(85)
        assert progress.eta_s() == pytest.approx(1600 / 85)
        assert progress.text() == "4400/6000 images 85.0/s eta 19s loss=0.08123"
    lines = out.getvalue().splitlines()
    assert lines[0] == "fit 1850/6000 images 85.0/s eta 49s loss=0.08123"
    assert len(lines) == 4
    events = list(step.events())
    assert [event["done"] for event in events] == [1000 + 15 * 170, 4400]
    assert events[-1]["figures"] == {"loss": 0.081234}
    assert (events[-1]["total"], events[-1]["unit"], events[-1]["kind"]) == (
        6000,
        "images",
        "progress",
    )


def test_what_was_done_before_is_no_speed(tmp_path: Path) -> None:
    clock = Clock()
    with Progress(StepDir(tmp_path), 100, "x", stream=io.StringIO(), clock=clock) as progress:
        clock.now += 50
        progress.advance(60)
        assert progress.rate() is None
        clock.now += 10
        progress.advance(1)
        assert progress.rate() == pytest.approx(0.1)
        assert progress.text() == "61/100 x 10.0 s each eta 6m30s"


def test_an_error_ends_progress_without_an_event(tmp_path: Path) -> None:
    out = io.StringIO()

    def fail() -> None:
        with Progress(StepDir(tmp_path), None, "x", stream=out) as progress:
            progress.advance(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(StepDir(tmp_path).events()) == []
    assert out.getvalue().endswith(" 3 x\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    out = Terminal()
    with Progress(StepDir(tmp_path / "fit"), 4, "images", "fit [lora]", stream=out) as progress:
        for _ in range(4):
            progress.advance(1, loss=0.5)
    assert "fit [lora]" in out.getvalue()
    assert "4/4 images" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (200, "3m20s"), (7500, "2h05m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
