"""A real Chromium for the tests of the page. Whatever a page complains about fails the test that opened it.

Playwright's synchronous API keeps an event loop running in this thread: no test here may touch Django's ORM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 60_000
LOST_CONNECTION = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "WebSocket connection to")
"""What the browser itself writes when a server is away, as some tests want it to be."""

OpenPage = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. Skips where Debian's package `chromium` is not installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: install the package chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Complaints:
    """Errors that a page's console and requests tell of."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("console", lambda message: self._wrote(message.type, message.text))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def _wrote(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not any(part in text for part in LOST_CONNECTION):
            self.found.append(text)


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens pages, each in a fresh profile unless `context` is given; afterwards none may have complained."""
    contexts: list[BrowserContext] = []
    complaints: list[Complaints] = []

    def open_one(url: str, context: BrowserContext | None = None, **options: Any) -> Page:
        if context is None:
            context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
            context.set_default_timeout(PATIENCE_MS)
            contexts.append(context)
        page = context.new_page()
        complaints.append(Complaints(page))
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [text for each in complaints for text in each.found] == []
    assert len(set().union(*(each.hosts for each in complaints))) <= 1, "the page asked another host"
