"""The chart in a real browser, against the real processes: exchange, feed, web. What is read is what the library draws (`drawn()`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.browser.conftest import OpenPage
from tests.browser.test_page import cookies  # noqa: F401 - a fixture
from tests.fakes.stack import Stack, stack  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
IST_MS = 19_800_000
TAIL = 300
"""Newest candles that the page takes by its channel."""
HISTORY = 1100
"""Minutes before the feed's first that the store has."""
LOST_TAIL, LOST_OLD = range(40, 45), range(700, 710)
"""Minutes ago that it has not: in what the channel tells, and in what REST does."""
SECONDS = 60.0

SEED = """
from marketdata.domain.candle import Candle, fold_candles
from marketdata.store import candles_write
number, now, history, lost = {number}, {now}, {history}, {lost}
def minute(ago, state="confirmed", raised=0.0):
    opened = 20000.0 + ago % 50 + raised
    start = now - ago * 60000
    return Candle(number, "1m", start, opened, opened + 9, opened - 8, opened + (3 if ago % 2 else -4), 75 * ago, 1000.0, state)
"""
HISTORY_CODE = """
minutes = [minute(ago) for ago in range(history, 0, -1) if ago not in lost]
for interval in ("5m", "15m", "1h", "1d"):
    candles_write(fold_candles(minutes, interval))
print(candles_write(minutes))
"""
GAP_CODE = """
from datetime import UTC, datetime
from marketdata.models import Gap
at = lambda ago: datetime.fromtimestamp((now - ago * 60000) / 1000, UTC)
for part in {parts}:
    print(Gap.objects.create(start=at(max(part)), end=at(min(part) - 1), cause="stopped", instruments=[number]).pk)
"""
HEAL_CODE = """
from asgiref.sync import async_to_sync
from marketdata.bus import Notice, publish_notice_once
from marketdata.domain.gap import GapNotice
from marketdata.models import Gap
Gap.objects.filter(instruments=number, heal_state="open").update(heal_state="healed", candles_healed=len(lost))
healed = [minute(ago, "backfilled") for ago in lost]
candles_write(healed)
ms = lambda time: round(time.timestamp() * 1000)
gaps = [
    GapNotice(str(gap.pk), 0, ms(gap.start), ms(gap.end), gap.cause, "healed", "", [number], len(healed))
    for gap in Gap.objects.filter(instruments=number)
]
async_to_sync(publish_notice_once)(Notice(healed, gaps))
print(len(gaps))
"""


class Seeded:
    """An instrument with a past in the store.

    Attributes:
        row: REST's instrument.
        now: the first minute that the feed has made, ms UTC: the past ends before it.
        lost: minutes ago without a candle.
    """

    def __init__(self, stack: Stack, row: dict[str, Any], lost: list[int]) -> None:  # noqa: F811
        self.stack, self.row, self.lost = stack, row, lost
        self.now = round(time.time() * 1000) // MINUTE * MINUTE
        self.now = min(self.rest(), default=self.now)
        assert self.shell(HISTORY_CODE) == str(HISTORY - len(lost))

    def shell(self, code: str, **values: Any) -> str:
        """Run code in a process of its own, with the web server's settings; return what it printed last."""
        begin = SEED.format(number=self.row["id"], now=self.now, history=HISTORY, lost=self.lost)
        return self.stack.manage("shell", "-v", "0", "-c", begin + (code.format(**values) if values else code)).splitlines()[-1]

    def start(self, ago: int) -> int:
        return self.now - ago * MINUTE

    def rest(self, interval: str = "1m") -> dict[int, list[Any]]:
        """All candles over REST: start → [open, high, low, close, state]."""
        found: dict[int, list[Any]] = {}
        before = self.now + 86_400_000
        while True:
            page = self.stack.get(
                "/api/marketdata/ohlc/", instrument=f"id:{self.row['id']}", interval=interval, to=before, order="newest", limit=1000
            )
            found |= {item["candle"][0]: [*item["candle"][1:5], item["state"]] for item in page["results"]}
            if page["next"] is None:
                return found
            before = page["results"][-1]["candle"][0]


def drawn(page: Page) -> dict[str, dict[int, dict[str, Any]]]:
    """What the chart draws now: candles, volumes, gaps and marks by start, ms UTC."""
    found = page.evaluate("document.getElementById('chart').drawn()")
    return {name: {round(point["time"] * 1000) - IST_MS: point for point in points} for name, points in found.items()}


def drawn_prices(page: Page) -> dict[int, list[float]]:
    return {start: [point[name] for name in ("open", "high", "low", "close")] for start, point in drawn(page)["candles"].items()}


def until(read: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Poll until `read()` is true; return it."""
    deadline = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return value


def finished(prices: dict[int, list[Any]], before: int) -> dict[int, list[float]]:
    return {start: values[:4] for start, values in prices.items() if start < before}


def legend(page: Page) -> str:
    return " ".join(page.locator("#legend").inner_text().split())


@pytest.fixture
def seeded(stack: Stack, request: pytest.FixtureRequest) -> Seeded:  # noqa: F811
    """An option that no test has used, with HISTORY minutes in the store; with a parameter: without the minutes of its ranges."""
    calls = stack.get("/api/marketdata/instruments/", subscribed="true", instrument_type="CE", limit=100)["results"]
    used: set[int] = getattr(stack, "used", set())
    row = next(call for call in calls if call["id"] not in used)
    stack.used = used | {row["id"]}  # type: ignore[attr-defined]
    return Seeded(stack, row, [ago for part in getattr(request, "param", ()) for ago in part])


@pytest.fixture
def chart(stack: Stack, seeded: Seeded, chromium: Browser, cookies: StorageState, open_page: OpenPage) -> Page:  # noqa: F811
    """A page that watches nothing but that option, with its chart drawn."""
    stamp = [seeded.row["id"], seeded.row["isin"] or seeded.row["trading_symbol"]]
    origin = {"origin": stack.url, "localStorage": [{"name": "tradingok.watchlist.v1", "value": f'[[{stamp[0]}, "{stamp[1]}"]]'}]}
    page = open_page(stack.url, storage_state={"cookies": cookies["cookies"], "origins": [origin]})
    until(lambda: len(drawn(page)["candles"]) >= TAIL - 60)
    return page


def choose(page: Page, interval: str) -> None:
    page.locator("#intervals").get_by_text(interval, exact=True).click()


def load_all(page: Page, oldest: int) -> None:
    """Scroll back until the oldest candle is there."""
    page.locator("#chart").focus()

    def scrolled() -> bool:
        page.keyboard.press("Home")
        return min(drawn(page)["candles"]) <= oldest

    until(scrolled)
    page.keyboard.press("End")


def test_the_chart_begins_with_the_past_and_moves(seeded: Seeded, chart: Page) -> None:
    first = drawn_prices(chart)
    assert len(first) >= TAIL
    past = finished(seeded.rest(), seeded.now)
    assert finished(first, seeded.now) == {start: values for start, values in past.items() if start >= min(first)}
    last = max(drawn_prices(chart))
    until(lambda: (now := drawn_prices(chart)) and (max(now) > last or now[last] != first.get(last)))
    expect(chart.locator("#legend [data-candle=how]")).to_have_text("forming")


def test_older_pages_are_loaded_by_scrolling_without_holes_or_doubles(seeded: Seeded, chart: Page) -> None:
    load_all(chart, seeded.start(HISTORY))
    points = chart.evaluate("document.getElementById('chart').drawn().candles.map(({ time }) => time)")
    assert points == sorted(set(points))
    assert finished(drawn_prices(chart), seeded.now) == finished(seeded.rest(), seeded.now)


@pytest.mark.parametrize("interval", ["3m", pytest.param("5m", marks=pytest.mark.long), pytest.param("1h", marks=pytest.mark.long), "1d"])
def test_another_interval_is_drawn_and_remembered(seeded: Seeded, chart: Page, interval: str) -> None:
    choose(chart, interval)

    def equals_rest() -> bool:
        expected, found = seeded.rest(interval), drawn_prices(chart)
        forming = max(found, default=0)
        return bool(found) and finished(found, forming) == finished({s: v for s, v in expected.items() if s >= min(found)}, forming)

    until(equals_rest)
    chart.reload()
    expect(chart.locator(f"#intervals input[value='{interval}']")).to_be_checked()
    until(equals_rest)


@pytest.mark.long
def test_a_lost_connection_leaves_no_hole(stack: Stack, seeded: Seeded, chart: Page) -> None:  # noqa: F811
    load_all(chart, seeded.start(HISTORY))
    stack.web.kill()
    expect(chart.locator("#badge")).to_have_attribute("data-state", "reconnecting")
    recent, old = 20, 900  # one that the channel has told, one that REST has
    changed = f"[candles_write([minute(ago, raised=100.0)]) for ago in ({recent}, {old})]"
    assert seeded.shell(f"print({changed})") == "[1, 1]"
    before = max(drawn(chart)["candles"])
    until(lambda: time.time() * 1000 > before + MINUTE + 3000, 90)  # the forming minute ends meanwhile
    stack.web.start()
    stack.wait_for(stack.answers)
    expect(chart.locator("#badge")).to_have_attribute("data-state", "live")
    until(lambda: max(drawn(chart)["candles"]) > before)

    def whole() -> bool:
        now = max(drawn(chart)["candles"])
        return finished(drawn_prices(chart), now) == finished(seeded.rest(), now)

    until(whole)
    for ago in (recent, old):
        assert drawn_prices(chart)[seeded.start(ago)][0] == 20000.0 + ago % 50 + 100.0
        assert seeded.start(ago) in drawn(chart)["marks"]


@pytest.mark.parametrize("seeded", [(LOST_TAIL, LOST_OLD)], indirect=True)
def test_a_gap_is_shown_and_the_chart_repairs_itself_when_it_is_healed(seeded: Seeded, chart: Page) -> None:
    seeded.shell(GAP_CODE, parts=[list(LOST_TAIL), list(LOST_OLD)])
    chart.reload()
    until(lambda: len(drawn(chart)["gaps"]) == len(LOST_TAIL))
    load_all(chart, seeded.start(HISTORY))
    lost = {seeded.start(ago) for ago in seeded.lost}
    until(lambda: set(drawn(chart)["gaps"]) == lost)
    assert not lost & set(drawn(chart)["candles"])
    until_told(chart, seeded.start(42), "the feed was not running; not filled in yet")

    assert seeded.shell(HEAL_CODE) == "2"
    until(lambda: lost <= set(drawn(chart)["candles"]) and not drawn(chart)["gaps"])
    assert finished(drawn_prices(chart), seeded.now) == finished(seeded.rest(), seeded.now)
    now = drawn(chart)["candles"]
    whole = {now[start]["color"] for start in now.keys() - lost if start < seeded.now}
    assert not {now[start]["color"] for start in lost} & whole
    until_told(chart, seeded.start(42), "filled in later")


def until_told(page: Page, start: int, *texts: str) -> None:
    """Go there by the keyboard until the legend has these texts: a minute that begins meanwhile shifts what is pointed at."""

    def is_told() -> bool:
        page.locator("#chart").focus()
        page.keyboard.press("End")
        steps = sorted({**drawn(page)["candles"], **drawn(page)["gaps"]})
        for _ in range(len(steps) - steps.index(start)):
            page.keyboard.press("ArrowLeft")
        return all(text in legend(page) for text in texts)

    until(is_told)


def test_the_legend_says_how_each_candle_came_to_be(seeded: Seeded, chart: Page) -> None:
    figures = "O 20,010.00 H 20,019.00 L 20,002.00 C 20,006.00 V 750 OI 1,000"
    until_told(chart, seeded.start(10), "confirmed by the exchange", figures)
    assert "revised" not in legend(chart)
    seeded.shell(
        "from asgiref.sync import async_to_sync; from marketdata.bus import Notice, publish_notice_once\n"
        "changed = minute(10, raised=5.0)._replace(revision=1)\n"
        "candles_write([changed]); async_to_sync(publish_notice_once)(Notice([changed], [])); print(1)"
    )
    until_told(chart, seeded.start(10), "confirmed by the exchange, revised once")
    assert seeded.start(10) in drawn(chart)["marks"]


def test_the_chart_can_be_given_more_room(chart: Page) -> None:
    def width() -> float:
        return float(chart.evaluate("document.getElementById('chart').clientWidth"))

    before = width()
    chart.get_by_role("button", name="Wide chart").click()
    expect(chart.locator("#widen")).to_have_attribute("aria-pressed", "true")
    until(lambda: width() > 1.5 * before)
    chart.get_by_role("button", name="Wide chart").click()
    until(lambda: width() == before)


def test_a_phone_has_the_whole_chart_in_its_width(stack: Stack, seeded: Seeded, chart: Page) -> None:  # noqa: F811
    chart.set_viewport_size({"width": 390, "height": 844})
    chart.reload()
    chart.locator("#watchlist tbody tr").first.click()
    until(lambda: len(drawn(chart)["candles"]) >= TAIL)
    assert chart.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert chart.evaluate("document.querySelector('#detail').scrollWidth <= document.querySelector('#detail').clientWidth")
    expect(chart.locator("#intervals").get_by_text("1M", exact=True)).to_be_in_viewport()
