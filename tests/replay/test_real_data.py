"""The captured real data, served by the exchange, through `runfeed` into MongoDB: nothing lost, nothing doubled, nothing changed.

What is expected is read from the captures themselves (JSON as their recorders decoded it, or the official SDK's module) by
the meanings of FACTS §3.4 and §3.6, never by our decode; the frames' arrival is read from the journal by MCAP's own reader.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import websockets
from django.conf import settings
from django.core.management import call_command
from google.protobuf.json_format import MessageToDict

from accounts.models import User
from accounts.services import api_key_create
from instruments.models import SubscriptionRule
from instruments.selectors import instrument_ids
from marketdata import store
from tests.fakes.exchange import RunningExchange, StartExchange, start_exchange  # noqa: F401 - a fixture
from tests.fakes.feed import RunningFeed, StartFeed, start_feed  # noqa: F401 - a fixture
from tests.fakes.stack import Process
from tests.payloads import real_data, recorded_frames
from tests.payloads.figures import Figures, expected_ids, figures_of, stored_updates
from tradingok import ports

pytestmark = [pytest.mark.django_db, pytest.mark.realdata]


def prepare(exchange: RunningExchange, keys: list[str]) -> None:
    """Load the exchange's master, and follow `keys`."""
    call_command("refresh_instruments", source=f"{exchange.url}/market-quote/instruments/exchange/complete.json.gz")
    SubscriptionRule.objects.create(name="recorded", what="keys", keys=keys)


def run_replay(exchange: RunningExchange, feed_starter: StartFeed, keys: list[str]) -> RunningFeed:
    """Load the exchange's master, follow `keys`, run the feed until the recording has been sent and stored."""
    prepare(exchange, keys)
    feed = feed_starter(exchange.url)
    exchange.wait_for(lambda state: bool(state["finished"]) or feed.process.poll() is not None, seconds=240)
    assert feed.process.poll() is None, feed.log()
    sent = exchange.state()["updates_sent_total"]
    feed.wait_for(lambda status: status.counters["ticks_decoded_total"] >= sent, seconds=120)
    return feed


def assert_store_equals(source: dict[str, list[Figures]], feed: RunningFeed) -> None:
    """Once the feed has ended in order, the ids are exactly those expected, and each instrument's content is the source's."""
    assert feed.stop() == 0, feed.log()
    stored = [row["_id"] for row in store.ticks_collection().find({}, {"_id": 1})]
    expected = expected_ids(feed.journal)
    assert Counter(stored) == expected
    assert max(expected.values()) == 1
    ids = instrument_ids(source)
    assert set(ids) == set(source)
    for key, updates in source.items():
        got = stored_updates(ids[key])
        assert len(got) == len(updates), key
        assert [pair for pair in zip(updates, got, strict=True) if pair[0] != pair[1]][:2] == [], key


def read_hundred_frames() -> dict[str, list[Figures]]:
    """Read the 100 real frames with the official SDK's module: key → its updates in order."""
    from upstox_client.feeder.proto import MarketDataFeedV3_pb2 as sdk

    source: dict[str, list[Figures]] = defaultdict(list)
    for data in recorded_frames():
        for key, feed in MessageToDict(sdk.FeedResponse.FromString(data))["feeds"].items():
            source[key].append(figures_of(feed))
    return source


CLIENT_NAMES = {
    "p": "last_price", "lt": "last_trade_ms", "q": "last_quantity", "c": "previous_close", "v": "volume",
    "a": "average_traded_price", "oi": "open_interest", "iv": "implied_volatility",
    "d": "delta", "th": "theta", "g": "gamma", "ve": "vega", "rh": "rho",
    "bp": "bid_price", "bq": "bid_quantity", "ap": "ask_price", "aq": "ask_quantity",
    "tb": "total_buy_quantity", "ts": "total_sell_quantity",
}  # fmt: skip
"""Stored name → the client's name, by CLIENT_PROTOCOL."""


def client_figures(quote: dict[str, Any]) -> Figures:
    """Return a client's quote under the stored names, unknown figures left out."""
    return {short: quote[long] for short, long in CLIENT_NAMES.items() if quote[long] is not None}


async def snapshot(url: str, api_key: str, keys: list[str]) -> dict[str, dict[str, Any]]:
    """Subscribe on a fresh WebSocket and return the first quote of each key."""
    quotes: dict[str, dict[str, Any]] = {}
    async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {api_key}"}, max_size=None) as socket:
        await socket.send(json.dumps({"id": 1, "op": "subscribe", "instruments": keys, "mode": "full"}))
        async with asyncio.timeout(60):
            while len(quotes) < len(keys):
                message = json.loads(await socket.recv())
                if message.get("event") == "market:tick":
                    quotes |= {key: quote for key, _, quote in message["ticks"] if key not in quotes}
    return quotes


class LastQuotes(NamedTuple):
    """The last quote of each instrument as a client gets it."""

    over_rest: dict[str, Figures]
    over_websocket: dict[str, Figures]


def read_last_quotes(keys: list[str], folder: Path) -> LastQuotes:
    """Ask a web process, started for it, for the quotes of `keys` over REST and over WebSocket."""
    api_key = api_key_create(user=User.objects.create_user("reader"), name="replay")
    port = ports.choose()
    environment = {**os.environ, "PORT": str(port), "TRADINGOK_VAR": str(folder), "SECRET_KEY": settings.SECRET_KEY}
    web = Process("web", [sys.executable, "-m", "tradingok.server"], environment, folder)
    web.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url), 60, web.told)
        headers = {"Authorization": f"Bearer {api_key}"}
        answer = httpx.get(f"{url}/api/marketdata/ticks/latest/", params={"instruments": ",".join(keys)}, headers=headers, timeout=30)
        over_rest = {row["key"]: client_figures(row["quote"]) for row in answer.raise_for_status().json()["results"]}
        pushed = asyncio.run(snapshot(f"ws://127.0.0.1:{port}/ws/market/", api_key, keys))
    finally:
        web.stop()
    return LastQuotes(over_rest, {key: client_figures(quote) for key, quote in pushed.items()})


def answers(url: str) -> bool:
    """Whether the web server is alive."""
    try:
        return httpx.get(f"{url}/api/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Poll until `holds()`; AssertionError with `told()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


@pytest.mark.usefixtures("valkey")
def test_the_hundred_real_frames_reach_store_rest_and_websocket_as_they_were_sent(
    start_exchange: StartExchange,  # noqa: F811
    start_feed: StartFeed,  # noqa: F811
    tmp_path: Path,
) -> None:
    source = read_hundred_frames()
    exchange = start_exchange("--replay", str(real_data("nifty_banknifty_100frames_2026-01-23.frames.bin")), "--speed", "0")
    feed = run_replay(exchange, start_feed, list(source))
    quotes = read_last_quotes(list(source), tmp_path)
    assert quotes.over_rest == quotes.over_websocket == {key: updates[-1] for key, updates in source.items()}
    assert sum(map(len, source.values())) == 859
    assert_store_equals(source, feed)
