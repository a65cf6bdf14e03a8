"""The pages on a telephone, hands that change their mind too often, and answers without delay."""

import http.client
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.records.vote import Choice, Vote
from tastemaker.report.study_page import PAGE, write_study_report
from tastemaker.store.people import FILE, People, StoredVote
from tastemaker.web.booth import MOST_AGAIN
from tests.browser import chromium, page_of, ready, sent
from tests.studio_place import make_collection, make_run, make_study
from tests.studio_server import Server

CHOICES: tuple[Choice, ...] = ("a", "b")
TELEPHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("phone") / "hills", count=12, side=48)


@pytest.fixture(scope="module")
def server(collection: Path):
    with Server("rate", collection, "--rater", "Ada", "--min-view-ms", "0") as running:
        yield running


def test_small_answers_are_sent_at_once(server: Server) -> None:
    """Head and body are two writes; held back until acknowledged, the second comes 40 ms late."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    taken = []
    for _ in range(40):
        begun = time.perf_counter()
        connection.request("GET", "/static/grid.css")
        connection.getresponse().read()
        taken.append(time.perf_counter() - begun)
    connection.close()
    assert statistics.median(taken) < 0.03


def test_who_has_no_keys_is_told_how_to_touch(server: Server) -> None:
    with chromium() as browser:
        with page_of(browser, server, **TELEPHONE) as page:
            page.goto(server.links[0])
            ready(page)
            assert "Touch the better picture" in page.inner_text("#sheet")
            assert not page.is_visible(".keys")
            hall = page.evaluate("location.pathname.split('/')[2]")
            page.goto(f"http://127.0.0.1:{server.port}/rate/{hall}")
            # Served alone, a collection is called as in a studio of many.
            assert "hills: collect" in page.inner_text("main")
            link = page.locator("#raters a").bounding_box()
            assert link["x"] + link["width"] <= 390
        with page_of(browser, server) as page:
            page.goto(server.links[0])
            ready(page)
            assert page.is_visible(".keys")
            assert not page.is_visible(".touch")


def test_the_report_of_a_study_is_as_wide_as_the_telephone(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", make_run(tmp_path / "run", 12, side=32), 12)
    votes = [
        Vote(
            f"v{n}{rater}", f"p{n:04}", "before", "after", "a", f"r{rater}", CHOICES[n * rater % 2]
        )
        for n in range(12)
        for rater in range(2)
    ]
    with People(tmp_path / "study" / FILE) as people:
        people.add_votes([StoredVote(vote, study.id) for vote in votes])
    write_study_report(tmp_path / "study")
    with chromium() as browser:
        page = browser.new_page(viewport=TELEPHONE["viewport"])
        page.goto((tmp_path / "study" / PAGE).as_uri())
        assert "By category" in page.inner_text("body")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_mind_that_changes_too_often_blocks_nothing(server: Server, collection: Path) -> None:
    with chromium() as browser, page_of(browser, server) as page:
        page.goto(server.links[0])
        ready(page)
        page.click("#start")
        for _ in range(MOST_AGAIN + 1):
            page.keyboard.press("ArrowLeft")
            sent(page)
            page.keyboard.press("z")
        page.keyboard.press("ArrowDown")
        sent(page)
        assert not page.is_visible("#net")
    with People(collection / FILE) as people:
        votes = people.votes(superseded=True)
    assert sum(vote.superseded_by is not None for vote in votes) == MOST_AGAIN
