"""The watchlist and what is beside it: the whole page in a real browser against a server that follows a script."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.server import ServerConnection

from tests.browser.test_chain_modules import chain_page, connection  # noqa: F401 - fixtures
from tests.browser.test_client_module import ScriptedServer, server  # noqa: F401 - a fixture

MINUTE = 60_000
TEN = 1_790_051_400_000
"""2026-09-22 10:00 IST."""
OLD, NEW = "NSE_FO|5", "NSE_FO|7"
INSTRUMENTS = "/api/marketdata/instruments/"


def listed(number: int) -> dict[str, Any]:
    """A row of REST."""
    told = {"id": number, "key": f"NSE_FO|{number}", "trading_symbol": f"NIFTY {number} CE", "segment": "NSE_FO", "instrument_type": "CE"}
    return told | {"name": "NIFTY", "isin": None, "tick_size": 0.05, "lot_size": 65, "active": True}


@pytest.fixture
def watched(chain_page: Page, connection: ServerConnection, server: ScriptedServer) -> ServerConnection:  # noqa: F811
    """The connection of a page that watches instrument 5, and shows its chart."""
    for path in ("gaps", "parity", "ohlc"):
        server.answers[f"/api/marketdata/{path}/"] = {"results": [], "next": None}
    remember(chain_page, [listed(5)], server)
    again = server.connection()
    assert [server.command().get(name) for name in ("instruments", "channels")] == [["id:5"], ["ohlc:1m:id:5"]]
    return again


def remember(page: Page, rows: list[dict[str, Any]], server: ScriptedServer) -> None:  # noqa: F811
    """Open the watchlist anew, with these rows in it."""
    page.get_by_role("link", name="Watchlist").click()
    assert server.command()["op"] == "unsubscribe"  # the chain is left
    expect(page.locator("#empty")).to_be_visible()
    server.answers[INSTRUMENTS] = {"results": sorted(rows, key=lambda row: row["id"]), "next": None}
    stamps = [[row["id"], row["trading_symbol"]] for row in rows]
    page.evaluate("(stamps) => localStorage.setItem('tradingok.watchlist.v1', JSON.stringify(stamps))", stamps)
    page.reload()


def tell(connection: ServerConnection, event: str, **fields: Any) -> None:  # noqa: F811
    connection.send(json.dumps({"event": event, **fields}))


def candle(minute: int) -> dict[str, Any]:
    return {"candle": [TEN + minute * MINUTE, 100.0, 102.0, 99.0, 101.0, 650, None], "state": "confirmed", "revision": 0}


def until_drawn(page: Page, what: str, count: int) -> None:
    page.wait_for_function("([what, count]) => document.getElementById('chart').drawn()[what].length === count", arg=[what, count])


def test_what_became_of_a_watched_instrument_is_told_in_its_row(chain_page: Page, watched: ServerConnection) -> None:  # noqa: F811
    about = chain_page.locator("#watchlist tbody tr .segment")
    expect(about).to_have_text("NSE FO")
    tell(watched, "subscription", key=OLD, instrument=5, status="no_data", reason="the limit is reached")
    expect(about).to_have_text("the limit is reached")
    tell(watched, "subscription", key=OLD, instrument=5, status="active", reason=None)
    expect(about).to_have_text("NSE FO")


def test_prices_chart_and_gaps_go_on_when_a_contract_gets_another_key(chain_page: Page, watched: ServerConnection) -> None:  # noqa: F811
    tell(watched, "market:ohlc", key=OLD, interval="1m", seq=1, snapshot=True, candles=[candle(0)])
    until_drawn(chain_page, "candles", 1)
    tell(watched, "subscription", key=OLD, instrument=5, status="removed", reason="It has another key now.", follows=NEW)
    tell(watched, "market:ohlc", key="NSE_FO|9", interval="1m", seq=2, **candle(1))  # of another instrument
    tell(watched, "market:ohlc", key=NEW, interval="1m", seq=2, **candle(2))
    tell(watched, "market:ohlc", key=OLD, interval="1m", seq=3, **candle(4))  # was under way
    until_drawn(chain_page, "candles", 3)
    gap = {"gap": "a", "from": TEN + 3 * MINUTE, "to": TEN + 4 * MINUTE, "cause": "stopped", "heal_state": "open", "heal_detail": ""}
    tell(watched, "gap", **gap, keys=[NEW])
    until_drawn(chain_page, "gaps", 1)
    tell(watched, "market:tick", n=1, ticks=[[NEW, 1, {"last_price": 121.5, "broker_ms": TEN}]])
    row = chain_page.locator("#watchlist tbody tr")
    expect(row.locator(".last")).to_have_text("121.50")
    expect(row.locator(".segment")).to_have_text("NSE FO")


def test_a_long_watchlist_is_asked_for_in_few_requests_and_keeps_its_order(
    chain_page: Page,  # noqa: F811
    connection: ServerConnection,  # noqa: F811
    server: ScriptedServer,  # noqa: F811
) -> None:
    for path in ("gaps", "parity"):
        server.answers[f"/api/marketdata/{path}/"] = {"results": []}
    asked: list[str] = []
    chain_page.on("request", lambda request: asked.append(request.url) if INSTRUMENTS in request.url and "id%3A" in request.url else None)
    remember(chain_page, [listed(number) for number in range(600, 0, -1)], server)
    symbols = chain_page.locator("#watchlist tbody .symbol")
    expect(symbols).to_have_count(600)
    assert symbols.all_inner_texts() == [f"NIFTY {number} CE" for number in range(600, 0, -1)]
    assert len(asked) == 3
    assert max(map(len, asked)) < 8000
