"""The live page in a real browser, against the real processes: exchange, feed, web."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, StorageState, expect

from tests.browser.conftest import OpenPage
from tests.fakes.stack import Stack, stack  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROWS = "#watchlist tbody tr"
UNKNOWN = "–"
CELLS = {
    "last": "last_price",
    "bid": "bid_price",
    "ask": "ask_price",
    "bidQuantity": "bid_quantity",
    "askQuantity": "ask_quantity",
    "volume": "volume",
    "openInterest": "open_interest",
}


@pytest.fixture(scope="module")
def cookies(stack: Stack, chromium: Browser) -> StorageState:  # noqa: F811
    """A session that was opened by a sign-in link."""
    context = chromium.new_context()
    context.new_page().goto(stack.sign_in_link())
    kept = context.storage_state()
    context.close()
    return {"cookies": kept["cookies"], "origins": []}


@pytest.fixture
def live_page(stack: Stack, cookies: StorageState, open_page: OpenPage) -> Page:  # noqa: F811
    """The page of a signed-in user whose browser remembers no watchlist, with prices in it."""
    page = open_page(stack.url, storage_state=cookies)
    expect(page.locator(ROWS).first.locator(".last")).not_to_have_text("")
    return page


@pytest.fixture
def muted(stack: Stack) -> Iterator[Callable[[], object]]:  # noqa: F811
    """A function after which the exchange sends nothing, until the test ends."""
    yield lambda: stack.exchange.fault(kind="mute")
    stack.exchange.fault(kind="clear")


def cell(row: Locator, name: str) -> str:
    return row.locator(f"[data-cell={name}]").inner_text()


def plain(text: str) -> float | None:
    """Read "12,34,567.89" as 1234567.89, and "–" as None."""
    return None if text in (UNKNOWN, "") else float(text.replace(",", "").replace("−", "-"))


def shown(page: Page) -> dict[int, dict[str, float | None]]:
    """Every row's figures by instrument id, read at one moment."""
    texts: dict[str, dict[str, str]] = page.evaluate(
        """(names) => Object.fromEntries([...document.querySelectorAll("#watchlist tbody tr")].map((row) =>
            [row.dataset.id, Object.fromEntries(names.map((name) => [name, row.querySelector(`[data-cell=${name}]`).textContent]))]))""",
        list(CELLS),
    )
    return {int(row): {name: plain(text) for name, text in cells.items()} for row, cells in texts.items()}


def rest(stack: Stack, instruments: list[int]) -> dict[int, dict[str, float | None]]:  # noqa: F811
    """The same figures over REST."""
    answer = stack.get("/api/marketdata/ticks/latest/", instruments=",".join(f"id:{number}" for number in instruments))
    return {item["instrument"]: {name: item["quote"][field] for name, field in CELLS.items()} for item in answer["results"]}


def remember(page: Page, stamps: list[list[Any]]) -> None:
    """Set what the page finds when it is loaded again."""
    page.evaluate("(stamps) => { localStorage.setItem('tradingok.watchlist.v1', JSON.stringify(stamps)) }", stamps)


def until_equal(read: Callable[[], tuple[Any, Any]], seconds: float = 60) -> Any:
    """Poll until both values of `read` are equal; returns the value."""
    deadline = time.monotonic() + seconds
    while True:
        left, right = read()
        if left == right:
            return left
        assert time.monotonic() < deadline, f"{left} is not {right}"
        time.sleep(0.2)


def test_a_price_is_read_twice_has_changed_and_equals_rest(
    stack: Stack,  # noqa: F811
    live_page: Page,
    muted: Callable[[], object],
) -> None:
    row = live_page.locator(ROWS).first
    before = cell(row, "last")
    assert plain(before) is not None
    expect(row.locator(".last")).not_to_have_text(before)
    muted()  # from here on nothing moves, so that page and REST can be compared exactly
    number = int(str(row.get_attribute("data-id")))
    second = until_equal(lambda: (shown(live_page)[number]["last"], rest(stack, [number])[number]["last"]))
    assert second is not None
    assert second == plain(cell(row, "last"))


def test_every_row_and_figure_equals_rest(stack: Stack, live_page: Page, muted: Callable[[], object]) -> None:  # noqa: F811
    muted()
    figures = until_equal(lambda: ((on_page := shown(live_page)), rest(stack, list(on_page))))
    assert len(figures) >= 10
    assert any(row["openInterest"] for row in figures.values())


def test_the_first_watchlist_has_indices_futures_and_options(stack: Stack, live_page: Page) -> None:  # noqa: F811
    kinds = {stack.get(f"/api/marketdata/instruments/id:{number}/")["instrument_type"] for number in shown(live_page)}
    assert kinds == {"INDEX", "FUT", "CE", "PE"}


def test_the_badge_follows_the_feed(stack: Stack, live_page: Page, muted: Callable[[], object]) -> None:  # noqa: F811
    badge = live_page.locator("#badge")
    expect(badge).to_have_attribute("data-state", "live")
    muted()
    expect(badge).to_have_attribute("data-state", "stale")
    expect(badge).to_have_text("Stale")
    stack.exchange.fault(kind="clear")
    expect(badge).to_have_attribute("data-state", "live")


def test_market_status_and_clock_are_shown(live_page: Page) -> None:
    expect(live_page.locator("#segments li", has_text="NSE FO")).to_have_text("NSE FO open")
    expect(live_page.locator("#clock")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d IST$"))
    expect(live_page.locator("#age")).to_contain_text("data ")


def test_the_page_recovers_by_itself_when_the_web_server_is_killed(stack: Stack, live_page: Page) -> None:  # noqa: F811
    live_page.evaluate("window.marked = true")
    badge = live_page.locator("#badge")
    stack.web.kill()
    expect(badge).to_have_attribute("data-state", "reconnecting")
    stack.web.start()
    stack.wait_for(stack.answers)
    expect(badge).to_have_attribute("data-state", "live")
    last = live_page.locator(ROWS).first.locator(".last")
    expect(last).not_to_have_text(last.inner_text())
    assert live_page.evaluate("window.marked"), "the page was loaded anew"


def test_an_instrument_is_found_added_remembered_and_removed_by_keyboard(live_page: Page) -> None:
    count = live_page.locator(ROWS).count()
    live_page.keyboard.press("/")
    live_page.keyboard.type("finnifty fut")
    live_page.keyboard.press("Enter")  # at once: it must not take what an older text has found
    expect(live_page.locator(ROWS)).to_have_count(count + 1)
    added = live_page.locator(ROWS).last
    expect(added).to_contain_text("FINNIFTY FUT")
    expect(added).to_have_attribute("aria-selected", "true")
    expect(added.locator(".last")).not_to_have_text("")
    live_page.reload()
    expect(live_page.locator(ROWS)).to_have_count(count + 1)
    live_page.locator(ROWS).first.focus()
    live_page.keyboard.press("End")
    expect(added).to_be_focused()
    live_page.keyboard.press("Delete")
    expect(live_page.locator(ROWS)).to_have_count(count)
    live_page.reload()
    expect(live_page.locator(ROWS)).to_have_count(count)


def test_a_search_without_a_hit_says_so(live_page: Page) -> None:
    live_page.locator("#search").fill("zzzz nothing")
    expect(live_page.locator("#found")).to_contain_text("Nothing is called")


def test_the_detail_panel_shows_depth_greeks_and_chart_of_an_option(live_page: Page) -> None:
    option = live_page.locator(ROWS, has_text=" CE ").first
    option.click()
    detail = live_page.locator("#detail")
    expect(detail.locator("h2")).to_have_text(option.locator(".symbol").inner_text())
    expect(detail.locator("[data-field=delta]")).not_to_have_text(UNKNOWN)
    expect(detail.locator("[data-field=volatility]")).to_contain_text("%")
    for level in range(5):
        expect(detail.locator("#depth tbody tr").nth(level).locator("td").nth(1)).not_to_have_text(UNKNOWN)
    expect(detail.locator("#chart canvas").first).to_be_visible()
    expect(detail.locator("#chart-note")).to_have_text("")
    expect(detail.get_by_role("link", name="TradingView")).to_be_visible()
    detail.get_by_text("5m", exact=True).click()
    expect(detail.locator("#chart-note")).to_have_text("")
    live_page.locator("#close-detail").press("Escape")
    expect(detail).to_be_hidden()


def test_a_hundred_rows_are_laid_out_once_a_drawing(stack: Stack, live_page: Page) -> None:  # noqa: F811
    found = stack.get("/api/marketdata/instruments/", subscribed="true", limit=100)["results"]
    remember(live_page, [[row["id"], row["isin"] or row["trading_symbol"]] for row in found])
    live_page.reload()
    expect(live_page.locator(ROWS)).to_have_count(100)
    expect(live_page.locator(ROWS).last.locator(".last")).not_to_have_text("")
    session = live_page.context.new_cdp_session(live_page)
    session.send("Performance.enable")

    def layouts() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(float(metric["value"]) for metric in metrics if metric["name"] == "LayoutCount")

    before = layouts()
    live_page.wait_for_timeout(5000)
    # Ten drawings a second, and the status, the detail and the chart beside them; one forced layout a row would make thousands.
    assert 0 < layouts() - before < 300


@pytest.mark.parametrize("stored", ["[[1, 'of another database']]", "no JSON"])
def test_a_remembered_list_that_makes_no_sense_gives_the_first_one(live_page: Page, stored: str) -> None:
    count = live_page.locator(ROWS).count()
    live_page.evaluate("(text) => { localStorage.setItem('tradingok.watchlist.v1', text) }", stored.replace("'", '"'))
    live_page.reload()
    expect(live_page.locator(ROWS)).to_have_count(count)


def test_a_phone_shows_the_prices_without_scrolling_sideways(
    stack: Stack,  # noqa: F811
    cookies: StorageState,
    open_page: OpenPage,
) -> None:
    page = open_page(stack.url, storage_state=cookies, viewport={"width": 390, "height": 844})
    last = page.locator(ROWS).first.locator(".last")
    expect(last).not_to_have_text("")
    expect(last).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_link_signs_in_and_the_button_signs_out(stack: Stack, open_page: OpenPage) -> None:  # noqa: F811
    page = open_page(stack.sign_in_link())
    expect(page.locator(ROWS).first).to_be_visible()
    assert page.url == f"{stack.url}/"
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile(r"/signin/$"))
    assert page.goto(f"{stack.url}/") is not None
    expect(page).to_have_url(re.compile(r"/signin/"))


def test_a_spent_link_does_not_sign_in(stack: Stack, open_page: OpenPage) -> None:  # noqa: F811
    link = stack.sign_in_link()
    open_page(link)
    again = open_page(link)
    expect(again.get_by_role("alert")).to_contain_text("used already")
