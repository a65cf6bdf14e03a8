"""How quick the pages are: key to next pair with 1024-px pictures, grids of 100,000 pictures.

    python benchmarks/rating_page.py [--rows 100000] [--votes 40]

Needs the packages of the studio, playwright and chromium. Figures are those of a headless browser
on the same machine as the server, so only their order is meant.
"""

import argparse
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
# Some packages install a `tests` of their own, which would be found first.
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [str(REPOSITORY / "tests")]

from tests.browser import chromium, ready, until  # noqa: E402
from tests.studio_place import make_collection, many_pictures, many_samples  # noqa: E402
from tests.studio_server import Server  # noqa: E402

# Time from a key to the frame in which the next pair stands, both pictures decoded.
WATCH = """
() => {
  window.taken = [];
  let pressed = 0;
  addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
    const images = [...document.querySelectorAll('.pair.on img')];
    const whole = images.every((i) => i.complete && i.naturalWidth);
    if (pressed && whole) { window.taken.push(performance.now() - pressed); pressed = 0; }
  }))).observe(document.body, { attributes: true, attributeFilter: ['data-pair'] });
}
"""


def key_to_next_pair(browser, folder: Path, votes: int, gap_ms: int, side: int) -> None:
    """Milliseconds from a key press to the next pair."""
    make_collection(folder / f"hills{gap_ms}", count=40, side=side)
    with Server(
        "rate", folder / f"hills{gap_ms}", "--rater", "bench", "--min-view-ms", 0
    ) as server:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(server.links[0])
        ready(page)
        page.click("#start")
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        for number in range(votes):
            page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
            page.wait_for_timeout(gap_ms)
        until(page, "document.body.dataset.unsent === '0'")
        taken = sorted(page.evaluate("window.taken"))
        page.close()
    print(
        f"key to next pair, {side}px, a key every {gap_ms} ms: "
        f"median {statistics.median(taken):.0f} ms, "
        f"95% {taken[int(0.95 * len(taken))]:.0f} ms, {len(taken)} of {votes}"
    )


# Milliseconds between frames while the wheel turns.
FRAMES = """
() => {
  window.frames_taken = [];
  let last = performance.now();
  const tick = (now) => {
    window.frames_taken.push(now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}
"""


def paint(browser, server: Server, name: str) -> None:
    """Seconds from asking for a grid to its first pictures, twice; then how evenly it scrolls."""
    page = browser.new_page()
    page.goto(server.links[0])
    link = page.locator(".card a").first.get_attribute("href")
    for visit in ("first", "second"):
        begun = time.perf_counter()
        page.goto(f"http://127.0.0.1:{server.port}{link}")
        until(page, "document.querySelector('.line img')?.naturalWidth > 8")
        told = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(
            f"{name}, {visit} visit: page {told / 1000:.2f} s, "
            f"pictures {time.perf_counter() - begun:.2f} s"
        )
    ready(page)
    page.mouse.move(400, 500)
    page.evaluate(FRAMES)
    for _ in range(60):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(30)
    frames = sorted(page.evaluate("window.frames_taken"))
    lines = page.locator(".line").count()
    print(
        f"{name}, scrolling 24,000 px: a frame every {statistics.median(frames):.0f} ms (median), "
        f"95% {frames[int(0.95 * len(frames))]:.0f} ms; {lines} lines exist"
    )
    if page.locator("#sort").count():
        begun = time.perf_counter()
        page.select_option("#sort", "rated_score")
        until(page, "document.querySelector('.cell span')?.textContent.startsWith('0.99')")
        print(f"{name}, sorted by a column after {time.perf_counter() - begun:.2f} s")
        begun = time.perf_counter()
        page.fill("#q", "number 54321")
        until(page, "document.querySelector('#told').textContent.startsWith('1 of')")
        print(f"{name}, words found after {time.perf_counter() - begun:.2f} s")
    page.close()


def grids(browser, folder: Path, rows: int) -> None:
    """A gallery and a collection."""
    many_samples(folder / "many" / "samples", rows)
    with Server("studio", folder / "many") as server:
        paint(browser, server, f"gallery of {rows:,} rows")
    many_pictures(folder / "pictures" / "collection", rows)
    with Server("studio", folder / "pictures") as server:
        paint(browser, server, f"collection of {rows:,} pictures")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--votes", type=int, default=40)
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        grids(browser, Path(folder), options.rows)
        for gap_ms in (700, 300):
            key_to_next_pair(browser, Path(folder), options.votes, gap_ms, options.side)


if __name__ == "__main__":
    main()
