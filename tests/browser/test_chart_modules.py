"""What the chart is made of and needs no server: `candles.js`, `legend.js`, `parity.js`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.browser.test_client_module import ScriptedServer, server  # noqa: F401 - a fixture

MINUTE = 60_000


def ist(text: str) -> int:
    """Return "2025-12-15 09:15" of India as ms UTC."""
    return round(datetime.fromisoformat(f"{text}+05:30").timestamp() * 1000)


OPEN = ist("2025-12-15 09:15")


@pytest.fixture
def page(open_page: OpenPage, server: ScriptedServer) -> Page:  # noqa: F811
    opened = open_page(f"http://{server.address}/")
    opened.evaluate(
        """async () => {
            const { Candles, gapSteps, row } = await import("/candles.js");
            Object.assign(window, { Candles, gapSteps, ...(await import("/legend.js")), ...(await import("/parity.js")) });
            window.candle = (start, close, state = "confirmed") => row({ candle: [start, 1, 1, 1, close, 1, null], state, revision: 0 });
            window.told = ({ rows }) => rows.map(({ start, close }) => [start, close]);
        }"""
    )
    return opened


def test_the_channel_owns_the_newest_and_rest_what_is_older(page: Page) -> None:
    found: dict[str, Any] = page.evaluate(
        """() => {
            const candles = new Candles(3);
            candles.snapshot([candle(50, 1), candle(60, 1)]);
            candles.replace(-Infinity, 50, [candle(30, 2), candle(40, 2), candle(50, 2)]);
            const paged = told(candles);
            candles.take(candle(60, 3));
            candles.take(candle(70, 3));
            candles.take(candle(80, 3));
            candles.take(candle(55, 3));
            const from = candles.channelFrom;
            candles.replace(30, 100, [candle(35, 4), candle(60, 4), candle(70, 4)]);
            return { paged, from, all: told(candles) };
        }"""
    )
    assert found["paged"] == [[30, 2], [40, 2], [50, 1], [60, 1]]
    assert found["from"] == 60
    assert found["all"] == [[35, 4], [60, 3], [70, 3], [80, 3]]


def test_a_new_snapshot_replaces_everything_from_its_first_candle_on(page: Page) -> None:
    found = page.evaluate(
        """() => {
            const candles = new Candles(300);
            candles.snapshot([candle(10, 1), candle(20, 1), candle(30, 1)]);
            candles.snapshot([candle(20, 2), candle(40, 2)]);
            const second = told(candles);
            candles.snapshot([]);
            return [second, told(candles)];
        }"""
    )
    assert found == [[[10, 1], [20, 2], [40, 2]], []]


@pytest.mark.parametrize(
    ("interval", "start", "end", "expected"),
    [
        ("1m", "10:57:54", "10:59:58", ["10:57", "10:58"]),  # 10:59 is confirmed: it was not lost
        ("5m", "10:57:54", "10:59:58", ["10:55"]),
        ("5m", "10:57:54", "10:58:30", []),  # the bars of 10:57 and 10:58 came behind it
        ("1h", "10:57:54", "11:20:00", ["10:15", "11:15"]),
        ("1m", "12:00:00", None, []),  # after the newest candle
    ],
)
def test_a_gap_covers_the_steps_that_are_not_whole(page: Page, interval: str, start: str, end: str | None, expected: list[str]) -> None:
    length = {"1m": 1, "5m": 5, "1h": 60}[interval] * MINUTE
    missing = {ist(f"2025-12-15 10:{minute}") for minute in (57, 58)} if interval == "1m" else set()
    starts = [at for at in range(OPEN, ist("2025-12-15 11:30"), length) if at not in missing]
    found = page.evaluate(
        """([starts, interval, gap]) => {
            const candles = new Candles(300);
            candles.snapshot(starts.map((start) => candle(start, 1)));
            return gapSteps(candles, interval, gap);
        }""",
        [starts, interval, {"from": ist(f"2025-12-15 {start}"), "to": end and ist(f"2025-12-15 {end}")}],
    )
    assert found == [ist(f"2025-12-15 {text}") for text in expected]


@pytest.mark.parametrize("sunday", [(), range(100, 130)], ids=["no trading", "Muhurat"])
def test_a_gap_over_a_weekend_covers_neither_nights_nor_days_without_trading(page: Page, sunday: Sequence[int]) -> None:
    friday, monday = ist("2025-12-12 09:15"), ist("2025-12-15 09:15")
    traded = [monday - 1440 * MINUTE + n * MINUTE for n in sunday]
    starts = [*range(friday, friday + 370 * MINUTE, MINUTE), *traded, *range(monday + 5 * MINUTE, monday + 375 * MINUTE, MINUTE)]
    found = page.evaluate(
        """([starts, gap]) => {
            const candles = new Candles(5000);
            candles.snapshot(starts.map((start) => candle(start, 1)));
            return gapSteps(candles, "1m", gap);
        }""",
        [starts, {"from": friday + 370 * MINUTE, "to": monday + 5 * MINUTE}],
    )
    without = [monday - 1440 * MINUTE + n * MINUTE for n in range(375) if sunday and n not in sunday]
    assert found == [friday + n * MINUTE for n in range(370, 375)] + without + [monday + n * MINUTE for n in range(5)]


def test_a_candle_and_a_gap_are_told_in_words(page: Page) -> None:
    expected = {
        "how({state: 'live', revision: 0})": "forming",
        "how({state: 'closed', revision: 0})": "from ticks",
        "how({state: 'confirmed', revision: 1})": "confirmed by the exchange, revised once",
        "how({state: 'confirmed', revision: 2})": "confirmed by the exchange, revised twice",
        "how({state: 'backfilled', revision: 3})": "filled in later, revised 3 times",
        f"when({OPEN}, false)": "15 Dec 2025 09:15",
        f"when({ist('2025-12-15 00:00')}, true)": "15 Dec 2025",
        f"why({{from: {OPEN}, to: {OPEN + MINUTE}, cause: 'stopped', heal_state: 'open', heal_detail: ''}})": (
            "No data 09:15:00–09:16:00: the feed was not running; not filled in yet"
        ),
        f"why({{from: {OPEN}, to: null, cause: 'stale', heal_state: 'impossible', heal_detail: 'no such day'}})": (
            "No data 09:15:00–now: no data came though the market was open; cannot be filled in (no such day)"
        ),
    }
    assert {call: page.evaluate(call) for call in expected} == expected


def test_the_day_s_parity_is_one_sentence(page: Page) -> None:
    day = ist("2025-12-15 00:00")
    row = {"day": day, "confirmed": 312, "closed": 0, "backfilled": 0, "missing": 0, "compared": 312, "prices_equal": 159}

    def text(now: int, **fields: int) -> str:
        return str(page.evaluate("([row, now]) => parityText(row, now)", [row | fields, now]))

    assert text(OPEN) == "Today: 312 of 312 minutes confirmed by the exchange; 51 % of those built from ticks had the same four prices"
    assert text(OPEN, compared=0) == "Today: 312 of 312 minutes confirmed by the exchange"
    assert text(OPEN, compared=3, prices_equal=0).endswith("; 0 of 3 built from ticks had the same four prices")
    assert text(OPEN + 86_400_000, confirmed=300, closed=1, backfilled=9, missing=2, compared=0) == (
        "15 Dec 2025: 300 of 312 minutes confirmed by the exchange, 9 filled in later, 1 from ticks only, 2 missing"
    )
    assert page.evaluate("parityText(null, 0)") == ""
