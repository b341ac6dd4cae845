"""Ten minutes are cut out of a real day: the page shows the gap, and repairs itself when the broker's candles have filled it.

Exchange, feed and web are processes; what must be drawn is read from the captures, of which nothing is cut out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from django.conf import settings
from playwright.sync_api import Browser, expect

from tests.browser.conftest import OpenPage
from tests.browser.test_chart import drawn, drawn_prices, until
from tests.fakes.stack import Stack, empty_namespace
from tests.payloads.bars import captured_bars, clock
from tests.replay.candle_proof import excerpt, whole_days

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.realdata]
FIRST, CUT, MENDED, LAST = "11:17", "11:20", "11:30", "11:34"
"""The part of the day that is played, and what of it is cut out."""
WATCHED = "NSE_FO|51414"
PREPARE = """
from django.core.management import call_command
from instruments.models import SubscriptionRule
call_command("refresh_instruments", verbosity=0)
SubscriptionRule.objects.all().delete()
SubscriptionRule.objects.create(name="recorded", what="keys", keys={keys})
"""
HEAL = "from broker.tasks import heal_gaps; from marketdata.tasks import parity; print(heal_gaps(), parity())"


class ReplayStack(Stack):
    """A stack whose exchange replays captures and whose feed follows what they hold."""

    def __init__(self, *arguments: Any, keys: list[str]) -> None:
        self._keys = keys
        super().__init__(*arguments)

    def manage(self, *arguments: str) -> str:
        if arguments[0] == "refresh_instruments":
            arguments = ("shell", "-v", "0", "-c", PREPARE.format(keys=self._keys))
        return super().manage(*arguments)


@pytest.fixture
def replayed(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, dict[int, list[float]]]]:
    """A stack that has replayed the excerpt without the cut, and what the watched instrument's minutes are: start → prices."""
    updates, paths = excerpt(whole_days(), FIRST, LAST, tmp_path_factory.mktemp("captures"))
    with pymongo.MongoClient[dict[str, Any]](settings.MONGODB_URI) as client:
        ours = settings.NAMESPACE not in client.list_database_names()
    arguments = ("--replay", *paths, "--speed", "120", "--cut-out", f"{CUT}-{MENDED}")
    stack = ReplayStack(tmp_path_factory.mktemp("stack"), *arguments, keys=list(updates))
    stack.exchange.wait_for(lambda state: bool(state["finished"]), seconds=180)
    stack.wait_for(lambda: [gap for gap in stack.get("/api/marketdata/gaps/")["results"] if gap["to"]])
    yield stack, {at: list(bar[:4]) for at, bar in captured_bars(updates[WATCHED]).items() if FIRST <= clock(at) < LAST}
    stack.stop()
    empty_namespace(drop=ours)


def test_a_cut_out_stretch_is_seen_and_the_page_repairs_itself(
    replayed: tuple[Stack, dict[int, list[float]]],
    chromium: Browser,
    open_page: OpenPage,
) -> None:
    stack, whole = replayed
    row = stack.get(f"/api/marketdata/instruments/{WATCHED}/")
    page = open_page(stack.sign_in_link())
    until(lambda: page.evaluate("localStorage.getItem('tradingok.watchlist.v1')"))  # it writes its first list, over whatever is there
    page.evaluate("(text) => localStorage.setItem('tradingok.watchlist.v1', text)", f'[[{row["id"]}, "{row["trading_symbol"]}"]]')
    page.reload()
    until(lambda: len(drawn(page)["candles"]) >= 5)
    lost = {at for at in whole if CUT <= clock(at) < MENDED} - drawn(page)["candles"].keys()
    assert len(lost) >= 8
    until(lambda: lost <= drawn(page)["gaps"].keys())
    assert lost.isdisjoint(drawn(page)["candles"])

    assert "1 healed" in stack.manage("shell", "-v", "0", "-c", HEAL)
    until(lambda: lost <= drawn(page)["candles"].keys() and not drawn(page)["gaps"])
    assert {clock(at): prices for at, prices in drawn_prices(page).items() if at in whole} == {clock(at): bar for at, bar in whole.items()}
    states = [item["state"] for item in stack.get("/api/marketdata/ohlc/", instrument=WATCHED, limit=100)["results"]]
    counted = (
        f"{states.count('confirmed')} of {len(states)} minutes confirmed by the exchange, {states.count('backfilled')} filled in later"
    )
    assert states.count("backfilled") >= len(lost)
    page.reload()  # the line about the day is read each half minute
    expect(page.locator("#parity")).to_contain_text(f"Today: {counted}")
    expect(page.locator("#parity")).to_contain_text("built from ticks had the same four prices")
