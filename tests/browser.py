"""A real browser for tests: Debian's chromium, driven by playwright."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.studio_server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or a skipped test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Any, server: Server, **options: Any) -> Iterator[Any]:
    """A page that may ask this server only, and must not complain."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    own = f"http://127.0.0.1:{server.port}/"
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((own, "data:", "blob:"))
            else problems.append(asked.url))  # fmt: skip
    # A server that is away, and one that refuses what somebody typed, are things to bear.
    borne = ("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE", "status of 400")

    def said(line: Any) -> None:
        if line.type == "error" and not any(word in line.text for word in borne):
            problems.append(line.text)

    page.on("console", said)
    try:
        yield page
        assert problems == []
    finally:
        context.close()


def ready(page: Any, state: str = "ready") -> None:
    page.wait_for_selector(f"body[data-state={state}]")


def sent(page: Any) -> None:
    """Wait until the server has everything."""
    until(page, "document.body.dataset.unsent === '0'")


def until(page: Any, condition: str, value: Any = None, seconds: float = 15) -> None:
    """Wait for what is true in the page; asked from outside, because the page may not `eval`."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition, value):
        assert time.monotonic() < end, f"never true: {condition}"
        page.wait_for_timeout(15)
