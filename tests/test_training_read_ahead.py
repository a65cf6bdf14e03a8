"""Reading ahead: the same answers, at another time."""

from threading import Event, Lock

import pytest

from tastemaker.records.run import Visit
from tastemaker.training.read_ahead import ReadAhead

SOON = 20
"""Seconds that a thread has; a test that needs them has failed."""


BAD = {"bad": OSError, "worse": KeyboardInterrupt}


class Slow:
    """A reader that notes what was read, and reads nothing before it may."""

    def __init__(self) -> None:
        self.read: list[tuple[str, int]] = []
        self.may, self.begun = Event(), Event()
        self.may.set()
        self._lock = Lock()

    def __call__(self, sample_id: str, visit: int) -> str:
        self.begun.set()
        assert self.may.wait(SOON)
        with self._lock:
            self.read.append((sample_id, visit))
        if sample_id in BAD:
            raise BAD[sample_id]("no such latent")
        return f"{sample_id} {visit}"


def visits(text: str, visit: int = 0) -> list[Visit]:
    return [Visit(name, visit) for name in text]


def until(condition) -> None:
    pause = Event()
    for _ in range(1000 * SOON):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never came")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_every_answer_is_that_of_the_reader_and_read_once(threads, most):
    slow = Slow()
    with ReadAhead(slow, most, threads) as ahead:
        for epoch in range(20):
            ahead.expect(visits("abcdefgh", epoch) + visits("abcd", epoch + 1))
            assert [ahead(name, epoch) for name in "abcdefgh"] == [
                f"{name} {epoch}" for name in "abcdefgh"
            ]
    uses = [use for use in slow.read if use[1] < 20]
    assert sorted(uses) == sorted({(name, epoch) for name in "abcdefgh" for epoch in range(20)})


def test_it_reads_while_nobody_asks_and_no_more_than_there_is_room_for():
    slow = Slow()
    with ReadAhead(slow, most=3) as ahead:
        ahead.expect(visits("abcdefgh"))
        until(lambda: len(slow.read) == 3)
        assert slow.read == [("a", 0), ("b", 0), ("c", 0)]
        assert ahead("a", 0) == "a 0"
        until(lambda: len(slow.read) == 4)
        assert slow.read[-1] == ("d", 0)


def test_what_is_no_longer_expected_makes_room():
    slow = Slow()
    with ReadAhead(slow, most=2) as ahead:
        ahead.expect(visits("abc"))
        until(lambda: len(slow.read) == 2)
        ahead.expect(visits("xyz"))
        until(lambda: slow.read[2:] == [("x", 0), ("y", 0)])
        assert ahead("a", 0) == "a 0"  # read again, not kept


def test_what_is_just_being_read_is_waited_for():
    slow = Slow()
    slow.may.clear()
    with ReadAhead(slow, most=2) as ahead:
        ahead.expect(visits("a"))
        assert slow.begun.wait(SOON)
        slow.may.set()
        assert ahead("a", 0) == "a 0"
    assert slow.read == [("a", 0)]


def test_what_was_not_announced_is_read_at_once():
    slow = Slow()
    with ReadAhead(slow, most=2) as ahead:
        assert ahead("q", 7) == "q 7"
    assert ahead("r", 1) == "r 1"  # also when it is closed


@pytest.mark.parametrize("bad", BAD)
def test_an_error_comes_to_whoever_asks_and_the_rest_is_read(bad):
    slow = Slow()
    with ReadAhead(slow, most=4) as ahead:
        ahead.expect([Visit(bad, 0), *visits("a")])
        until(lambda: ("a", 0) in slow.read)
        with pytest.raises(BAD[bad], match="no such latent"):
            ahead(bad, 0)
        assert ahead("a", 0) == "a 0"
    assert slow.read.count(("a", 0)) == 1
