"""Progress: plain lines now and then, a bar on a terminal, speed that counts what is done now."""

import io
from pathlib import Path

import pytest

from tastemaker.engine.progress import Progress, duration
from tastemaker.store.rundir import StepDir


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
