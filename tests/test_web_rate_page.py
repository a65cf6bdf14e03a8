"""The rating page in a real browser: keys, undo, speed, a killed server, and a telephone."""

import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.store.people import FILE, People
from tests.browser import chromium, page_of, ready, sent, until
from tests.studio_place import make_collection, make_run, make_study
from tests.studio_server import Server

COUNT = "n => document.querySelector('#count').textContent.startsWith(`${n} `)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def hills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rate")
    make_collection(folder / "hills", count=40, side=48)
    return folder / "hills"


def _votes(folder: Path, rater: str | None = None, *, superseded: bool = False) -> list:
    with People(next(folder.rglob(FILE))) as people:
        ids = {one.id for one in people.raters() if rater in (None, one.name)}
        votes = people.votes(superseded=superseded)
        return [one for one in votes if one.vote.rater in ids]


def _pair(page) -> str:
    return page.evaluate("document.body.dataset.pair")


def _next(page, before: str) -> None:
    until(page, "before => (document.body.dataset.pair ?? before) !== before", before)


def _start(page, link: str) -> None:
    page.goto(link)
    ready(page)
    if page.is_visible("#start"):
        page.click("#start")


def test_every_key_does_what_it_says(browser, hills: Path) -> None:
    keys = {"ArrowLeft": "a|b", "1": "a|b", "ArrowRight": "a|b", "2": "a|b", "ArrowDown": "tie",
            "0": "tie", "ArrowUp": "both_bad", "x": "both_bad", "s": "skip"}  # fmt: skip
    with (
        Server("rate", hills, "--rater", "keys", "--min-view-ms", "40") as server,
        page_of(browser, server) as page,
    ):
        _start(page, server.links[0])
        shown = []
        for key in keys:
            shown.append(_pair(page))
            page.wait_for_timeout(60)
            page.keyboard.press(key)
            _next(page, shown[-1])
        sent(page)
        votes = {one.vote.id: one.vote for one in _votes(hills, "keys")}
        for pair, (key, wanted) in zip(shown, keys.items(), strict=True):
            vote = votes[pair]
            assert vote.choice in wanted.split("|")
            if key in ("ArrowLeft", "1"):
                assert vote.choice == vote.left
            if key in ("ArrowRight", "2"):
                assert vote.choice != vote.left
            assert vote.seconds is not None
            assert 0.04 <= vote.seconds < 30
        # Twelve back, at least ten, and each is shown as it was.
        for pair in reversed(shown):
            page.keyboard.press("z")
            until(page, "id => document.body.dataset.pair === id", pair)
        page.wait_for_timeout(60)
        page.keyboard.press("ArrowDown")
        _next(page, shown[0])
        sent(page)
        page.wait_for_timeout(100)
        assert [one.vote.choice for one in _votes(hills, "keys")] == ["tie"]
        assert len(_votes(hills, "keys", superseded=True)) == len(keys) + 1
        # Zoom is one for both, and ? helps.
        page.keyboard.press("f")
        box = page.locator(".pair.on .side").first.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        moved = page.eval_on_selector_all(
            ".pair.on img", "all => all.map(i => i.style.transform + i.style.transformOrigin)"
        )
        assert moved[0] == moved[1]
        assert "scale" in moved[0]
        page.keyboard.press("?")
        assert page.is_visible("#sheet")
        before = _pair(page)
        page.keyboard.press("ArrowLeft")
        assert _pair(page) == before
        page.keyboard.press("Escape")
        assert page.is_hidden("#sheet")


def test_looks_that_are_too_short_and_keys_that_are_held_do_not_count(browser, hills: Path) -> None:
    with (
        Server("rate", hills, "--rater", "quick", "--min-view-ms", "400") as server,
        page_of(browser, server) as page,
    ):
        _start(page, server.links[0])
        first = _pair(page)
        page.keyboard.press("ArrowLeft")
        assert page.is_visible("#toast")
        assert _pair(page) == first
        page.wait_for_timeout(450)
        # A held key repeats; the first press alone is a vote.
        page.keyboard.down("ArrowLeft")
        _next(page, first)
        page.wait_for_timeout(450)
        for _ in range(5):
            page.keyboard.down("ArrowLeft")
        page.keyboard.up("ArrowLeft")
        sent(page)
        assert [one.vote.id for one in _votes(hills, "quick")] == [first]


def test_twenty_five_keys_a_second_and_a_server_that_dies_lose_nothing(
    browser, hills: Path
) -> None:
    presses, gap = 60, 0.04
    with (
        Server("rate", hills, "--rater", "fast", "--min-view-ms", "0") as server,
        page_of(browser, server) as page,
    ):
        _start(page, server.links[0])
        begun = time.monotonic()
        for number in range(presses):
            page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
            time.sleep(max(0, begun + gap * (number + 1) - time.monotonic()))
        taken = time.monotonic() - begun
        until(page, COUNT, presses)
        sent(page)
        assert taken < presses * gap * 2.5
        assert len(_votes(hills, "fast")) == presses
        server.kill()
        done = []
        for _ in range(3):
            done.append(_pair(page))
            page.keyboard.press("ArrowDown")
            _next(page, done[-1])
        page.wait_for_selector("#net:not([hidden])")
        assert len(_votes(hills, "fast")) == presses
        server.start()
        sent(page)
        page.wait_for_selector("#net", state="hidden")
        votes = _votes(hills, "fast")
        assert len(votes) == presses + 3
        assert {one.vote.id for one in votes if one.vote.choice == "tie"} == set(done)


def test_votes_of_a_closed_page_are_sent_by_the_next_one_and_two_tabs_are_one_rater(
    browser, hills: Path
) -> None:
    with Server("rate", hills, "--rater", "tabs", "--min-view-ms", "0") as server:
        context = browser.new_context()
        one, two = context.new_page(), context.new_page()
        _start(one, server.links[0])
        _start(two, server.links[0])
        assert _pair(one) == _pair(two)
        both = [_pair(one)]
        one.keyboard.press("ArrowLeft")
        two.keyboard.press("ArrowRight")
        sent(one)
        sent(two)
        assert len(_votes(hills, "tabs")) == 1
        two.close()
        server.kill()
        for _ in range(2):
            both.append(_pair(one))
            one.keyboard.press("ArrowDown")
            _next(one, both[-1])
        one.close(run_before_unload=False)
        server.start()
        three = context.new_page()
        three.goto(server.links[0])
        ready(three)
        sent(three)
        assert [v.vote.id for v in _votes(hills, "tabs")] == both
        assert _pair(three) not in both
        context.close()


def test_a_study_on_a_telephone(browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "paintings", prompts=6, side=48)
    make_study(tmp_path / "study", run, prompts=6, both_bad=False,
               instructions="Two paintings.\n\nGo by your first impression.")  # fmt: skip
    telephone = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
    with Server(
        "study", "serve", tmp_path / "study", "--rater", "Ada", "--min-view-ms", "40"
    ) as server:
        with page_of(browser, server, **telephone) as page:
            page.goto(server.links[1])
            ready(page)
            assert "Two paintings" in page.inner_text("#sheet")
            page.tap("#start")
            assert "hills" in page.inner_text("#prompt")
            assert page.locator("[data-answer=both_bad]").count() == 0
            upper, lower = (one.bounding_box() for one in page.locator(".pair.on .side").all())
            assert upper["width"] == lower["width"]
            assert upper["height"] == lower["height"]
            assert upper["y"] < lower["y"]
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            for number, target in enumerate(
                (
                    ".pair.on .side >> nth=1",
                    "[data-answer=tie]",
                    "button[data-answer=left]",
                    "button[data-answer=right]",
                    "button[data-answer=left]",
                    "[data-answer=tie]",
                )
            ):
                before = _pair(page)
                page.wait_for_timeout(60)
                page.tap(target)
                if number < 5:
                    _next(page, before)
            ready(page, "done")
            assert "last pair" in page.inner_text("#question")
        state = server.get("/" + server.links[0].split("/", 3)[3] + "/state").json
        assert state["raters"][0]["done"] == state["raters"][0]["target"] == 6
    votes = [one.vote for one in _votes(tmp_path / "study")]
    assert Counter(vote.choice == "tie" for vote in votes) == {True: 2, False: 4}
    assert Counter(vote.left for vote in votes) == {"a": 3, "b": 3}
