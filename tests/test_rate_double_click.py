"""Hands that are too quick: two clicks, a click and a key, all keys at once; one vote a pair."""

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.store.people import FILE, People
from tests.browser import chromium, page_of, ready, sent, until
from tests.studio_place import make_collection
from tests.studio_server import Server


def test_two_clicks_are_one_vote(tmp_path: Path) -> None:
    make_collection(tmp_path / "hills", count=24, side=48)
    with (
        Server("rate", tmp_path / "hills", "--rater", "quick") as server,
        chromium() as browser,
        page_of(browser, server) as page,
    ):
        page.goto(server.links[0])
        ready(page)
        if page.is_visible("#start"):
            page.click("#start")
        first = page.evaluate("document.body.dataset.pair")
        page.wait_for_timeout(350)
        page.locator(".pair.on .side").first.dblclick()
        until(page, "id => document.body.dataset.pair !== id", first)
        sent(page)
        second = page.evaluate("document.body.dataset.pair")
        page.wait_for_timeout(350)
        # A button and a key for the same pair, in one moment.
        page.evaluate(
            """() => {
              const key = () => document.body.dispatchEvent(
                new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
              const button = document.querySelector("button[data-answer=right]");
              for (const act of [key, () => button.click(), key, () => button.click()]) act();
            }"""
        )
        until(page, "id => document.body.dataset.pair !== id", second)
        sent(page)
        page.wait_for_timeout(400)
    with People(next(tmp_path.rglob(FILE))) as people:
        votes = [one.vote.id for one in people.votes(superseded=True)]
    assert votes == [first, second]
    assert max(Counter(votes).values()) == 1
