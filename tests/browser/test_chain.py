"""The option chain of the live page in a real browser, against the real processes: exchange, feed, web."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, StorageState, expect

from tests.browser.conftest import OpenPage
from tests.browser.test_page import cookies, muted  # noqa: F401 - fixtures
from tests.fakes.stack import Stack, stack  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STRIKES = "#strikes tbody tr[data-strike]"
MONEY = "#strikes tr[data-money=at]"
CALL = "#strikes tr[data-money=at] td.call.last button"
UNKNOWN = "–"
UNITS = {"L": 1e5, "Cr": 1e7}
COLUMNS = {
    "last": "last_price",
    "change": "change",
    "bid": "bid_price",
    "ask": "ask_price",
    "volume": "volume",
    "interest": "open_interest",
    "interestClose": "oi_change_close",
    "volatility": "implied_volatility",
    "delta": "delta",
}
FIGURES = {
    "spot": "spot",
    "forward": "forward",
    "straddle": "straddle",
    "pcr": "pcr_oi",
    "pain": "max_pain",
    "calls": "call_oi",
    "puts": "put_oi",
}


@pytest.fixture
def chain_page(stack: Stack, cookies: StorageState, open_page: OpenPage) -> Page:  # noqa: F811
    """The chain of NIFTY's nearest expiry, five strikes on each side, with prices in it."""
    page = open_page(f"{stack.url}/#chain/NIFTY/@w0/atm5", storage_state=cookies)
    expect(page.locator(STRIKES)).to_have_count(11)
    expect(page.locator(CALL)).not_to_have_text(UNKNOWN)
    return page


def plain(text: str) -> tuple[float, float] | None:
    """Read "12.35 L" as 1,235,000 and half of its last digit's unit; "–" as None."""
    if text in (UNKNOWN, ""):
        return None
    number, _, unit = text.replace(",", "").replace("−", "-").replace(" %", "").partition(" ")
    size = UNITS.get(unit, 1.0)
    digits = len(number.partition(".")[2])
    return float(number) * size, 0.5001 * size / 10**digits


def says(text: str, value: float | None) -> bool:
    """Whether a text on the page is this number, rounded."""
    read = plain(text)
    if read is None or value is None:
        return read is None and value is None
    return abs(read[0] - value) <= read[1]


def shown(page: Page) -> dict[str, Any]:
    """What the page shows, read at one moment: figures by name, cells by strike, side and column, and the strike at the money."""
    found: dict[str, Any] = page.evaluate(
        """() => ({
            figures: Object.fromEntries(
                [...document.querySelectorAll("[data-figure]")].map((box) => [box.dataset.figure, box.querySelector("dd").textContent])),
            money: Number(document.querySelector("#strikes tr[data-money=at]").dataset.strike),
            strikes: Object.fromEntries([...document.querySelectorAll("#strikes tr[data-strike]")].map((row) => [Number(row.dataset.strike),
              Object.fromEntries(["call", "put"].map((side) => [side,
                Object.fromEntries([...row.querySelectorAll(`td.${side}`)].map((cell) => [cell.dataset.column, cell.textContent]))]))])),
        })"""
    )
    return found


def differences(page: Page, stack: Stack, **query: str) -> list[str]:  # noqa: F811
    """Where the page does not show what REST answers."""
    rest = stack.get("/api/marketdata/chain/NIFTY/", **query)
    page_now = shown(page)
    found = [
        f"{name}: {page_now['figures'][name]}"
        for name, field in FIGURES.items()
        if not says(page_now["figures"][name], rest["aggregate"][field])
    ]
    if page_now["money"] != rest["aggregate"]["atm_strike"]:
        found.append(f"at the money: {page_now['money']}")
    if sorted(map(float, page_now["strikes"])) != [row["strike"] for row in rest["strikes"]]:
        return [*found, f"strikes: {list(page_now['strikes'])}"]
    for row in rest["strikes"]:
        for side in ("call", "put"):
            cells = page_now["strikes"][f"{row['strike']:g}"][side]
            for column, field in COLUMNS.items():
                value = row[side][field]
                if not says(cells[column], value * 100 if value is not None and column == "volatility" else value):
                    found.append(f"{row['strike']:g} {side} {column}: {cells[column]} is not {value}")
    return found


def until(read: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until `read()` is true; return it."""
    deadline = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return value


def until_equal(page: Page, stack: Stack, **query: str) -> None:  # noqa: F811
    """Poll until the page shows what REST answers."""
    deadline = time.monotonic() + 60
    while found := differences(page, stack, **query):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_every_figure_equals_rest_while_the_exchange_is_silent(stack: Stack, chain_page: Page, muted: Callable[[], object]) -> None:  # noqa: F811
    muted()  # from here on nothing moves, so that page and REST can be compared exactly
    until_equal(chain_page, stack, expiry="@w0", strikes="atm5")
    cells = shown(chain_page)["strikes"].values()
    assert all(
        row[side][column] != UNKNOWN for row in cells for side in ("call", "put") for column in ("last", "interest", "volatility", "delta")
    )
    expect(chain_page.locator("#chain-ends")).to_have_text(re.compile(r"^Ends \w{3} \d\d \w{3} \d\d:\d\d · .* left$"))


def test_prices_figures_and_charts_move(stack: Stack, chain_page: Page) -> None:  # noqa: F811
    price, straddle = chain_page.locator(CALL), chain_page.locator("[data-figure=straddle] dd").first
    expect(price).not_to_have_text(price.inner_text())
    expect(straddle).not_to_have_text(straddle.inner_text())
    expect(chain_page.locator("#chain-feed")).to_have_text(re.compile(r"^as of \d\d:\d\d:\d\d$"))
    expect(chain_page.locator("#oi-chart rect.call")).to_have_count(11)
    expect(chain_page.locator("#oi-legend")).to_have_text(re.compile(r"^Most open calls at [\d,]+, most open puts at [\d,]+$"))
    line = until(lambda: chain_page.evaluate("document.getElementById('day-chart').drawn().pcr_oi"))
    assert abs(line[-1]["value"] - stack.get("/api/marketdata/chain/NIFTY/")["aggregate"]["pcr_oi"]) < 0.2


def test_range_expiry_and_underlying_are_chosen_remembered_and_taken_back(stack: Stack, chain_page: Page) -> None:  # noqa: F811
    chain_page.locator("#chain-strikes").get_by_text("±10").click()
    expect(chain_page).to_have_url(f"{stack.url}/#chain/NIFTY/@w0/atm10")
    expect(chain_page.locator(STRIKES)).to_have_count(21)
    second = stack.get("/api/marketdata/underlyings/NIFTY/expiries/")["results"][1]["expiry"]
    chain_page.locator("#chain-expiry").select_option(second)
    expect(chain_page).to_have_url(f"{stack.url}/#chain/NIFTY/{second}/atm10")
    until_equal(chain_page, stack, expiry=second, strikes="atm10")
    chain_page.locator("#chain-underlying").select_option("BANKNIFTY")
    expect(chain_page).to_have_url(f"{stack.url}/#chain/BANKNIFTY/@w0/atm10")
    expect(chain_page.locator("#strikes caption")).to_contain_text("Option chain of BANKNIFTY")
    chain_page.go_back()
    expect(chain_page.locator("#chain-underlying")).to_have_value("NIFTY")
    expect(chain_page.locator("#chain-expiry")).to_have_value(second)
    chain_page.goto("about:blank")
    chain_page.goto(stack.url)
    expect(chain_page).to_have_url(f"{stack.url}/#chain/NIFTY/{second}/atm10")
    expect(chain_page.locator(STRIKES)).to_have_count(21)
    chain_page.get_by_role("link", name="Watchlist").click()
    expect(chain_page.locator("#chain")).to_be_hidden()
    expect(chain_page.locator("#watchlist tbody tr").first).to_be_visible()


def test_an_option_is_watched_by_click_and_by_keyboard(stack: Stack, chain_page: Page) -> None:  # noqa: F811
    chain_page.locator(CALL).focus()
    chain_page.keyboard.press("ArrowDown")
    chain_page.keyboard.press("ArrowRight")
    strike = chain_page.locator(STRIKES, has=chain_page.locator("td.put button:focus")).get_attribute("data-strike")
    chain_page.keyboard.press("Enter")
    detail = chain_page.locator("#detail")
    expect(detail.locator("h2")).to_contain_text(f"NIFTY {strike} PE")
    expect(detail.locator("[data-field=last]")).not_to_have_text(UNKNOWN)
    expect(chain_page.locator(f"#strikes [data-strike='{strike}'] td.put button")).to_be_focused()
    chain_page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    expect(chain_page.locator(f"#strikes [data-strike='{strike}'] td.put button")).to_be_focused()
    chain_page.locator(f"{MONEY} td.call.interest").click()
    expect(detail.locator("h2")).to_contain_text(" CE ")
    title = detail.locator("h2").inner_text()
    detail.locator("#close-detail").click()
    expect(chain_page.locator("#chain-charts")).to_be_visible()
    chain_page.get_by_role("link", name="Watchlist").click()
    expect(chain_page.locator("#watchlist tbody tr", has_text=title)).to_be_visible()
    expect(chain_page.locator("#watchlist tbody tr", has_text=f"NIFTY {strike} PE")).to_be_visible()


def test_a_chain_that_is_not_listed_is_told_in_words(stack: Stack, chain_page: Page) -> None:  # noqa: F811
    chain_page.goto(f"{stack.url}/#chain/NOSUCH/@w0/atm5")
    expect(chain_page.locator("#chain-note")).to_contain_text("No options of 'NOSUCH' are listed")
    expect(chain_page.locator(STRIKES)).to_have_count(0)


def test_a_phone_shows_prices_open_interest_and_the_way_out(stack: Stack, cookies: StorageState, open_page: OpenPage) -> None:  # noqa: F811
    page = open_page(f"{stack.url}/#chain/NIFTY/@w0/all", storage_state=cookies, viewport={"width": 390, "height": 844})
    expect(page.locator(CALL)).to_be_in_viewport(ratio=1)
    for column in ("call.interest", "put.interest", "put.last"):
        expect(page.locator(f"{MONEY} td.{column}")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Charts").click()
    expect(page.locator("#oi-chart")).to_be_in_viewport()
    expect(page.locator("#chain-table")).to_be_hidden()
