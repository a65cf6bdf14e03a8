"""The studio in a real browser: collections, galleries, runs as they go on; by mouse and by key."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the studio's packages are not installed")

from tastemaker.store.marks import read_marks
from tests.browser import chromium, page_of, ready, until
from tests.studio_place import make_place, write_curve, write_samples
from tests.studio_server import Server

FIRST_LINE = "Math.min(...[...document.querySelectorAll('.line')].map(line => line.number))"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_place(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def server(place: dict[str, Path]):
    with Server("studio", place["run"].parent) as running:
        yield running


def _told(page, words: str) -> None:
    until(page, "words => document.querySelector('#told').textContent.includes(words)", words)


def _shown(page) -> None:
    """Every picture in sight has arrived."""
    until(
        page, "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth > 8)"
    )


def test_the_start_page_leads_everywhere(browser, server: Server) -> None:
    with page_of(browser, server, color_scheme="dark") as page:
        page.goto(server.links[0])
        for name in ("Browse", "Rate", "Raters", "Watch", "Gallery"):
            link = page.locator(f"a.button:text-is('{name}')").first.get_attribute("href")
            assert server.get(link).status == 200
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, dark[4:-1].split(","))) < 120
    answer = server.get("/run/none", accept="text/html")
    assert answer.status == 404
    assert b"no such run" in answer.body


def test_a_collection_is_filtered_sorted_judged_marked_and_asked_what_if(
    browser, server: Server, place: dict[str, Path]
) -> None:
    with page_of(browser, server) as page:
        page.goto(server.links[0])
        page.click("a:text-is('Browse')")
        ready(page)
        _told(page, "24 of 24 pictures")
        _shown(page)
        page.fill("#q", "dusk hills")
        _told(page, "6 of 24")
        page.fill("#q", "")
        _told(page, "24 of 24")
        page.select_option("#verdict", "kept|")
        _told(page, "18 of 24")
        assert page.locator(".cell.dropped").count() == 0
        page.select_option("#verdict", label="dropped by short_side >= 48 (6)")
        _told(page, "6 of 24")
        assert page.locator(".cell.dropped").count() == 6
        page.select_option("#verdict", "")
        _told(page, "24 of 24")
        page.select_option("#sort", "short_side")
        until(page, "document.querySelector('.cell span')?.textContent === '96'")
        page.click("#down")
        until(page, "document.querySelector('.cell span')?.textContent === '32'")
        page.click("#more")
        page.fill("#sql", "short_side > ")
        page.wait_for_selector("#problem:not([hidden])")
        page.fill("#sql", "short_side > 50 and w < 100")
        _told(page, "18 of 24")
        page.wait_for_selector("#problem", state="hidden")
        page.select_option("#column", "short_side")
        page.wait_for_selector("#slider:not([hidden])")
        assert "Today: 48, 18 kept" in page.inner_text("#outcome")
        page.fill("#limit", "0")
        assert "24 of 24 kept (+6)" in page.inner_text("#outcome")
        _told(page, "24 of 24")
        # By key: from picture to picture, and what is known of one.
        page.focus("#scroller")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail:not([hidden])")
        assert "hills at" in page.inner_text("#detail")
        assert "short_side too low" in page.inner_text("#detail")
        # A mark by key, one by button, one taken back; a reload shows them again.
        page.keyboard.press("r")
        page.keyboard.press("ArrowRight")
        page.click("#detail [data-mark=keep]")
        page.wait_for_selector("#detail [data-mark=keep][aria-pressed=true]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#detail", state="hidden")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("k")
        page.keyboard.press("k")
        assert page.locator(".cell.keep, .cell.reject").count() == 2
        page.wait_for_timeout(300)
        assert sorted(read_marks(place["collection"]).values()) == ["keep", "reject"]
        page.select_option("#marked", "reject")
        _told(page, "1 of 24")
        assert page.inner_text(".cell.reject i") == "✕ reject"
        page.fill("#q", "nothing like that")
        page.wait_for_selector(".none:not([hidden])")
        # A button that has the focus is pressed by the space bar, whatever that means elsewhere.
        page.focus("#more")
        page.keyboard.press(" ")
        page.wait_for_selector("#panel", state="hidden")
        page.set_viewport_size({"width": 390, "height": 780})
        until(page, "document.documentElement.scrollWidth <= 390")


def test_a_gallery_is_sorted_compared_and_marked(
    browser, server: Server, place: dict[str, Path]
) -> None:
    study = _vote(server, place["study"])
    with page_of(browser, server) as page:
        page.goto(f"http://127.0.0.1:{server.port}/gallery/{study}")
        ready(page)
        _told(page, "12 of 12 rows")
        _shown(page)
        assert page.locator("#heads b").all_inner_texts() == ["before", "after"]
        page.select_option("#by", "gain")
        gains = _gains(page)
        assert gains == sorted(gains, reverse=True)
        page.select_option("#by", "loss")
        until(page, "first => document.querySelector('.prompt span').textContent !== first",
              f"score +{gains[0]:.3f}")  # fmt: skip
        losses = _gains(page)
        assert losses == sorted(losses)
        assert losses[0] < min(gains)
        page.select_option("#by", "disagreement")
        until(page, "document.querySelector('.prompt span').textContent.includes('disagree')")
        page.select_option("#category", "dusk")
        _told(page, "3 of 12")
        page.select_option("#category", "")
        _told(page, "12 of 12")
        # Keys come faster than pictures; none is lost.
        page.focus("#scroller")
        for _ in range(8):
            page.keyboard.press("ArrowDown")
        until(page, "document.querySelector('.cell.cursor') !== null")
        assert page.evaluate("document.querySelector('.cell.cursor').index") in (7, 8)
        page.keyboard.press("k")
        page.keyboard.press("Enter")
        page.wait_for_selector("#beside:not([hidden])")
        _shown(page)
        title = page.inner_text("#beside-prompt")
        page.mouse.move(200, 400)
        page.mouse.move(300, 400)
        cut = page.eval_on_selector("#cut", "cut => cut.style.clipPath")
        page.keyboard.press("ArrowRight")
        assert page.eval_on_selector("#cut", "cut => cut.style.clipPath") != cut
        page.keyboard.press(" ")
        page.keyboard.press("ArrowUp")
        until(
            page, "title => document.querySelector('#beside-prompt').textContent !== title", title
        )
        page.keyboard.press("r")
        page.wait_for_timeout(300)
        page.keyboard.press("Escape")
        page.select_option("#marked", "keep")
        _told(page, "1 of 12")
        with page.expect_download() as download:
            page.click("#export-jsonl")
        lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert sorted(line["mark"] for line in lines) == ["keep", "reject"]
    assert lines[0]["model"] == "before"
    assert Path(lines[0]["file"]).is_file()
    assert len(read_marks(place["study"])) == 2
    told = server.get(f"/gallery/{study}/marks.csv").body.decode().splitlines()
    assert told[0] == "model,prompt_id,sample_index,file,mark"
    assert len(told) == 3


def _gains(page) -> list[float]:
    page.wait_for_timeout(300)
    texts = page.locator(".prompt span").all_inner_texts()
    order = page.locator(".line").evaluate_all("all => all.map(line => line.number)")
    found = [text.split(" · ")[0].removeprefix("score ").replace("−", "-") for text in texts]
    return [float(text) for _, text in sorted(zip(order, found, strict=True))]


def _vote(server: Server, folder: Path) -> str:
    """One rater who always takes the left picture."""
    page = server.get("/").body.decode()
    study = page.split(">Raters")[0].rpartition("/rate/")[2].rstrip('"')
    link = server.post(f"/rate/{study}/enter", {"name": "Ada"}).json["link"]
    pairs = server.get(f"{link}/next?count=12").json["pairs"]
    entries = [{"key": p["id"], "id": p["id"], "answer": "left"} for p in pairs]
    assert server.post(f"{link}/votes", {"entries": entries}).status == 200
    assert (folder / "people.sqlite").exists()
    return study


def test_a_run_is_seen_as_it_goes_on(browser, server: Server, place: dict[str, Path]) -> None:
    fit, pictures = (
        next(place["run"].glob(f"steps/{name}/*")) for name in ("fit", "after_pictures")
    )
    with page_of(browser, server) as page:
        page.goto(f"http://127.0.0.1:{server.port}/runs")
        page.click("a:text-is('paintings')")
        ready(page)
        assert "done, 4 of 4 steps" in page.inner_text("#status")
        assert page.locator(".charts figure").count() == 2
        before = page.inner_text(".charts figure b >> nth=0")
        _shown(page)
        write_curve(fit / "log" / "metrics.jsonl", 60, start=40)
        write_samples(pictures / "samples", "after", 14, 1, 48)
        until(
            page,
            "before => document.querySelector('.charts figure b').textContent !== before",
            before,
        )
        until(page, "document.querySelectorAll('#samples h3')[1].textContent.includes('14')")
        page.check("#log")
        _shown(page)
        # What a run on pairs tells: its measures come as charts, levels of noise in one each.
        with (fit / "log" / "metrics.jsonl").open("a") as file:
            for images in (1600, 1616):
                told = {f"validation/accuracy_t{t}": 0.5 + t / 2000 for t in range(50, 1000, 100)}
                told |= {"images": images, "validation/accuracy": 0.6, "validation/margin": 0.01}
                file.write(json.dumps(told) + "\n")
        until(page, "document.querySelectorAll('.charts figure').length === 4")
        names = page.locator(".charts figcaption").all_inner_texts()
        assert [name.split("\n")[0] for name in names] == [
            "loss", "lr", "validation/accuracy", "validation/margin"
        ]  # fmt: skip
        page.click("summary")
        until(page, "document.querySelectorAll('details .curve').length === 10")
        # A line that is being written is no harm.
        with (fit / "log" / "metrics.jsonl").open("a") as file:
            file.write('{"images": 99999, "lo')
        page.wait_for_timeout(2700)
        assert page.locator("details[open] .curve").count() == 10
        assert page.locator("#damage").is_hidden()


def test_a_hundred_thousand_pictures_are_a_page_like_any_other(browser, tmp_path: Path) -> None:
    """Only what is seen exists, wherever one scrolls; the picture of row 99,999 comes last."""
    from tests.studio_place import many_samples

    folder = many_samples(tmp_path / "samples", 100_000)
    with Server("studio", folder.parent) as server, page_of(browser, server) as page:
        page.goto(server.links[0])
        page.click(".card a")
        ready(page)
        _told(page, "100,000 of 100,000 rows")
        assert page.locator(".line").count() < 20
        page.focus("#scroller")
        page.keyboard.press("End")
        until(page, "document.querySelector('.cell.cursor b')?.textContent === 'prompt 99999'")
        _shown(page)
        last = page.evaluate(FIRST_LINE)
        page.mouse.move(400, 500)
        page.mouse.wheel(0, -1000)
        # Scrolling is scaled at this length, and yet a turn of the wheel moves by a few rows.
        until(
            page,
            f"last => {{ const row = {FIRST_LINE}; return row < last && row > last - 12; }}",
            last,
        )
        page.keyboard.press("Home")
        until(page, "document.querySelector('.cell.cursor b')?.textContent === 'prompt 0'")
        assert page.locator(".line").count() < 20
        page.fill("#q", "prompt 54321")
        _told(page, "1 of 100,000")
