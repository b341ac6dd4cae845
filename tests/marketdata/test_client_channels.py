"""Channels of candles and gaps as programs see them: a real server, a real client, the real valkey and mongod between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest
import pytest_asyncio
import redis
from channels.db import database_sync_to_async
from pymongo.errors import ServerSelectionTimeoutError

from marketdata import bus, chain_channels, client_channels, consumers, live_state
from marketdata.domain.candle import INTERVAL_MINUTES, Candle, fold_candles
from marketdata.domain.chain import SIDE_COLUMNS
from marketdata.domain.gap import GapNotice
from marketdata.roll_up import candles_roll_up
from marketdata.selectors import candles_of
from marketdata.wire import quote_entry
from tests.marketdata.way_out import (
    MINUTE_MS,
    NOON_MS,
    MarketClient,
    ScriptedFeed,
    WebServer,
    api_key,
    auntil,
    deaf_client,
    instruments,
    market_client,
    minute_of,
    nifty_options,
    option_of,
    quote_of,
    store_candles,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest_asyncio.fixture
async def feed(valkey: redis.Redis) -> AsyncIterator[ScriptedFeed]:
    feed = ScriptedFeed()
    feed.market_ms = NOON_MS
    async with feed.reporting() as running:
        yield running


class Chart:
    """What a program keeps of one channel, by the page on the protocol."""

    def __init__(self, interval: str) -> None:
        self.interval = interval
        self.candles: dict[int, tuple[list[Any], str, int]] = {}
        self.seqs: list[int] = []
        self.snapshots = 0

    def take(self, message: dict[str, Any]) -> None:
        if message.get("event") != "market:ohlc" or message["interval"] != self.interval:
            return
        if message.get("snapshot"):
            self.snapshots += 1
            self.candles, self.seqs = {}, []
        self.seqs.append(message["seq"])
        for item in message.get("candles", [message]):
            self.candles[item["candle"][0]] = (item["candle"], item["state"], item["revision"])

    def shown(self) -> list[tuple[list[Any], str]]:
        return [self.candles[start][:2] for start in sorted(self.candles)]


async def chart_of(client: MarketClient, interval: str, close: float, *, key: str = "TEST|1") -> Chart:
    """Read a chart until its last candle closes so."""
    chart = Chart(interval)
    while not chart.candles or chart.candles[max(chart.candles)][0][4] != close:
        chart.take(await client.next(event="market:ohlc", key=key))
    return chart


async def test_history_goes_over_into_the_stream_without_a_hole(server: WebServer, feed: ScriptedFeed) -> None:
    """A feed that stops for nobody, and a store that is late: clients that come at any moment end with every minute as it became."""
    await instruments(1)
    secret = await api_key()
    whole = [minute_of(1, NOON_MS - number * MINUTE_MS, 101.0) for number in range(90, 0, -1)]
    await store_candles([*whole, *(candle for interval in ("5m", "15m", "1h") for candle in fold_candles(whole, interval))])
    last = minute_of(1, NOON_MS + 40 * MINUTE_MS, 777.0, "live")

    async def feed_goes_on() -> None:
        for number in range(40):
            bar = minute_of(1, NOON_MS + number * MINUTE_MS, 101.0 + number % 7, volume=75 + number)
            closed = bar._replace(close=bar.close - (number % 5 == 0), state="closed")
            bar = bar._replace(revision=int(closed.close != bar.close))
            for forming in (100.0, 100.5):
                await feed.publish(candles=[bar._replace(close=forming, state="live", revision=0)])
            await feed.publish(candles=[closed])
            await asyncio.sleep(0.02)
            await feed.publish(candles=[bar])
            feed.market_ms = bar.start_ms + MINUTE_MS
            whole.append(bar)
            if number >= 2:
                await store_candles([whole[-3]])
        await feed.publish(candles=[last])

    async def program(delay: float, interval: str) -> Chart:
        await asyncio.sleep(delay)
        async with market_client(server.url, secret) as client:
            await client.send(op="subscribe", id=1, channels=[f"ohlc:{interval}:TEST|1"], candles=500)
            return await chart_of(client, interval, 777.0)

    intervals = ("1m", "3m", "1m", "15m", "1h")
    going = asyncio.create_task(feed_goes_on())
    charts = await asyncio.gather(*(program(0.15 * number, interval) for number, interval in enumerate(intervals)))
    await going
    for chart in charts:
        expected = [*whole, last] if chart.interval == "1m" else fold_candles([*whole, last], chart.interval)
        assert chart.shown() == [(list(candle[2:9]), candle.state) for candle in expected]
        assert [candle[1][2] for candle in sorted(chart.candles.items())] == [
            candle.revision for candle in expected
        ] or chart.interval != "1m"
        assert chart.seqs == sorted(set(chart.seqs)), "one sequence"
        assert chart.snapshots == 1


async def test_a_chart_demands_its_instrument_and_brings_no_quotes(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, channels=["ohlc:1m:id:1", "ohlc:5m:TEST|1", "market"])
        results = (await client.next(id=1))["results"]
        assert [(result["key"], result["status"]) for result in results] == [
            ("TEST|1", "active"),
            ("TEST|1", "active"),
            ("market", "active"),
        ]

        async def demanded() -> bool:
            return await live_state.ademand_read() == {1: "full"}

        async def not_demanded() -> bool:
            return await live_state.ademand_read() == {}

        await auntil(demanded)
        await feed.tick(1, 100.0)
        await feed.publish(candles=[minute_of(1, NOON_MS, 102.0)])
        await chart_of(client, "1m", 102.0)
        assert not any(message.get("event") == "market:tick" for message in client.seen)
        await client.send(op="unsubscribe", id=2, channels=["ohlc:1m:TEST|1", "market", "ohlc:1m:TEST|9"])
        assert (await client.next(id=2))["channels"] == ["ohlc:5m:TEST|1"]
        assert await demanded()
        await client.send(op="unsubscribe", id=3, channels=["ohlc:5m:id:1"])
        assert (await client.next(id=3))["channels"] == []
        await auntil(not_demanded)
        await live_state.aclose()


async def test_a_client_that_goes_leaves_no_chart_behind(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, channels=["ohlc:1m:TEST|1"])
        await client.next(event="market:ohlc")
        assert server.hub._followers.wanted() == {1: "full"}
    await auntil(lambda: server.hub._followers.wanted() == {})
    assert server.hub._charts._idle, "and it is dropped after a while"


async def test_a_connection_may_follow_so_many_charts(server: WebServer, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_channels, "CHARTS_MAX", 2)
    await instruments(1)
    channels = ["ohlc:1m:TEST|1", "ohlc:3m:TEST|1", "ohlc:5m:TEST|1", "ohlc:1m:id:1"]
    async with market_client(server.url, await api_key()) as client:
        await client.send(op="subscribe", id=1, channels=channels)
        results = (await client.next(id=1))["results"]
        assert [(result["status"], result.get("code"), result.get("field")) for result in results] == [
            ("active", None, None),
            ("active", None, None),
            ("error", 405, "channels"),
            ("active", None, None),
        ]


async def test_subscribing_again_gives_the_newest_candles_again(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    await store_candles(minute_of(1, NOON_MS - number * MINUTE_MS, 101.0) for number in range(5))
    async with market_client(server.url, await api_key()) as client:
        for candles in (4, 2):
            await client.send(op="subscribe", id=1, channels=["ohlc:1m:TEST|1"], candles=candles)
            assert len((await client.next(event="market:ohlc"))["candles"]) == candles
        for wrong in (0, 501, 1.5, "3"):
            await client.send(op="subscribe", id=2, channels=["ohlc:1m:TEST|1"], candles=wrong)
            error = await client.next(event="error")
            assert (error["code"], error["field"], error["id"]) == (400, "candles", 2)


async def test_a_slow_client_gets_fewer_candles_and_the_newest_of_each(server: WebServer, feed: ScriptedFeed, settings: Any) -> None:
    settings.WS_STALL_SECONDS = 60.0
    await instruments(*range(1, 41))
    deaf = await deaf_client(server.url, await api_key())
    await deaf.send(json.dumps({"op": "subscribe", "id": 1, "channels": [f"ohlc:1m:id:{number}" for number in range(1, 41)]}))
    await auntil(lambda: len(server.hub._charts) == 40)
    rounds = 600
    for number in range(rounds):
        start = NOON_MS + number // 100 * MINUTE_MS
        state = "confirmed" if number % 100 == 99 else "live"
        await feed.publish(candles=[minute_of(who, start, 100.0 + number, state) for who in range(1, 41)])
        if number % 50 == 49:  # the hub is not the slow one here
            await auntil(lambda: [minute.close for minute in server.hub.recent_minutes(1)][-1:] == [100.0 + number])  # noqa: B023
    box = next(iter(server.hub.clients))
    charts = {number: Chart("1m") for number in range(1, 41)}
    while any(not chart.candles or chart.shown()[-1][0][4] != 100.0 + rounds - 1 for chart in charts.values()):
        message = json.loads(await asyncio.wait_for(deaf.recv(), 20))
        if message.get("event") == "market:ohlc":
            charts[int(message["key"].removeprefix("TEST|"))].take(message)
    for chart in charts.values():
        assert [candle[4] for candle, _state in chart.shown()] == [199.0 + 100 * number for number in range(6)]
        assert {state for _candle, state in chart.shown()} == {"confirmed"}
    assert box.candles_merged_total > 0, "it was slow"
    received = sum(len(chart.seqs) - chart.snapshots for chart in charts.values())
    assert received == box.candles_drained_total < 40 * rounds
    await deaf.close()


async def test_healing_is_told_as_candles_and_as_a_gap_to_whom_it_concerns(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1, 2, 3)
    secret = await api_key()
    hole = GapNotice("a1", 0, NOON_MS, NOON_MS + MINUTE_MS, "disconnected", "healed", "", [1, 2], 2)
    every = hole._replace(gap="b2", instruments=[], heal_state="impossible", heal_detail="The broker has none.")
    await store_candles([minute_of(1, NOON_MS + MINUTE_MS, 103.0)])
    async with (
        market_client(server.url, secret) as charts,
        market_client(server.url, secret) as quotes,
        market_client(server.url, secret) as all_of_them,
        market_client(server.url, secret) as stranger,
    ):
        await charts.send(op="subscribe", id=1, channels=["ohlc:1m:TEST|1", "ohlc:5m:TEST|1"])
        for _ in range(2):
            await charts.next(event="market:ohlc", snapshot=True)
        await quotes.send(op="subscribe", id=1, instruments=["id:2", "id:3"])
        await all_of_them.send(op="subscribe", id=1, channels=["market"])
        await stranger.send(op="subscribe", id=1, instruments=["id:3"])
        for client in (quotes, all_of_them, stranger):
            await client.next(id=1)
        healed = minute_of(1, NOON_MS, 102.0, "backfilled")
        await store_candles([healed])
        await bus.publish_notice(bus.Notice([healed], [hole, every]))
        told = {}
        for name, client in (("charts", charts), ("quotes", quotes), ("all", all_of_them), ("stranger", stranger)):
            while "b2" not in [message.get("gap") for message in client.seen]:
                await client.next(event="gap")
            told[name] = [(message["gap"], message["keys"]) for message in client.seen if message.get("event") == "gap"]
        assert told == {
            "charts": [("a1", ["TEST|1"]), ("b2", None)],
            "quotes": [("a1", ["id:2"]), ("b2", None)],
            "all": [("a1", []), ("b2", None)],
            "stranger": [("b2", None)],
        }
        shown = {"1m": Chart("1m"), "5m": Chart("5m")}
        for message in charts.seen:
            for chart in shown.values():
                chart.take(message)
        while not all(chart.candles.get(NOON_MS) for chart in shown.values()) or shown["5m"].candles[NOON_MS][0][5] != 150:
            message = await charts.next(event="market:ohlc")
            shown[message["interval"]].take(message)
        assert shown["1m"].candles[NOON_MS] == ([NOON_MS, 100.0, 102.0, 100.0, 102.0, 75, None], "backfilled", 0)


async def test_every_interval_begins_with_what_rest_answers(server: WebServer, feed: ScriptedFeed) -> None:
    await instruments(1)
    days = [NOON_MS - back * 86_400_000 for back in (34, 10, 4, 3, 0)]
    stored = [minute_of(1, noon + number * MINUTE_MS, 101.0 + number % 9) for noon in days for number in range(-165, 0, 4)]
    late = [minute_of(1, NOON_MS + number * MINUTE_MS, 120.0, state) for number, state in ((-1, "closed"), (0, "live"))]

    @database_sync_to_async
    def roll_up() -> None:
        candles_roll_up()

    @database_sync_to_async
    def answered(interval: str) -> list[Candle]:
        recent, market_ms = server.hub.recent_minutes(1), server.hub.board.market_ms or 0
        return candles_of(
            1, interval, from_ms=0, to_ms=market_ms + 1, limit=500, newest_first=False, segment="TEST", market_ms=market_ms, recent=recent
        )

    await store_candles(stored[:-5])
    await roll_up()
    await store_candles(stored[-5:])  # the roll-up lags
    async with market_client(server.url, await api_key()) as client:
        await feed.publish(candles=late, report=True)
        await auntil(lambda: len(server.hub.recent_minutes(1)) == 2)
        await client.send(op="subscribe", id=1, channels=[f"ohlc:{interval}:TEST|1" for interval in INTERVAL_MINUTES], candles=500)
        shown = {interval: Chart(interval) for interval in INTERVAL_MINUTES}
        while any(not chart.snapshots for chart in shown.values()):
            message = await client.next(event="market:ohlc")
            shown[message["interval"]].take(message)
        for interval, chart in shown.items():
            assert chart.shown() == [(list(candle[2:9]), candle.state) for candle in await answered(interval)], interval
            assert chart.shown()[-1][1] == "live"
            assert len(chart.candles) >= (2 if interval == "1M" else 3)


# --- option chains --------------------------------------------------------------------------------------------------------
CALL = option_of(0, 24_200.0, "CE")
LAST_PRICE = SIDE_COLUMNS.index("last_price")


async def tell(feed: ScriptedFeed, seq: int, price: float, *, publish: bool = True) -> None:
    """Let the call of 24,200 trade; without `publish` only the shared state has it, as if the batch was lost."""
    entry = quote_entry(quote_of(CALL, seq, price, broker_ms=NOON_MS), f"NSE_FO|{CALL}", True)
    if publish:
        await feed.publish([entry])
    else:
        feed.newest[CALL] = entry
        await feed.write()


async def row_of(client: MarketClient, price: float) -> dict[str, Any]:
    """Read pushes of a chain until the call of 24,200 has this price."""
    while True:
        message = await client.next(event="market:chain")
        if any(strike == 24_200.0 and call[LAST_PRICE] == price for strike, call, _put in message["rows"]):
            return message


async def test_a_chain_is_told_moves_and_is_right_again_after_a_loss(server: WebServer, feed: ScriptedFeed) -> None:
    await nifty_options(date(2026, 9, 22))
    await tell(feed, 1, 118.0)
    async with market_client(server.url, await api_key()) as client:
        await client.next(event="hello")
        await server.settled()
        asked = ["chain:nifty:@w0:atm1", "chain:NOBODY:@w0:all", "chain:NIFTY:@w9:all", "chain:NIFTY:@w0:pct5", "chain:NIFTY:@w0:all"]
        await client.send(op="subscribe", id=1, channels=asked)
        results = (await client.next(id=1))["results"]
        assert [(result["key"], result["status"], result.get("code"), result.get("field")) for result in results] == [
            ("chain:NIFTY:@w0:atm1", "active", None, None),
            ("chain:NOBODY:@w0:all", "error", 411, "channels"),
            ("chain:NIFTY:@w9:all", "error", 411, "channels"),
            ("chain:NIFTY:@w0:pct5", "error", 400, "channels"),
            ("chain:NIFTY:@w0:all", "active", None, None),
        ]
        assert results[1]["message"] == "No options of 'NOBODY' are listed."

        async def demanded() -> bool:
            return (
                set(await live_state.ademand_read()) == server.hub._followers.wanted().keys() and len(await live_state.ademand_read()) == 19
            )

        async def not_demanded() -> bool:
            return await live_state.ademand_read() == {}

        await auntil(demanded)
        whole = await client.next(event="market:chain", channel="chain:NIFTY:@w0:all", snapshot=True)
        assert (whole["expiry"], len(whole["rows"])) == ("2026-09-22", 9)
        await tell(feed, 2, 119.0)
        push = await row_of(client, 119.0)
        assert "snapshot" not in push
        await tell(feed, 3, 120.0, publish=False)
        feed.n += 3
        await row_of(client, 120.0)
        hole = GapNotice("a1", 0, NOON_MS, NOON_MS + MINUTE_MS, "disconnected", "healed", "", [CALL, 7], 2)
        await bus.publish_notice(bus.Notice([], [hole]))
        assert (await client.next(event="gap"))["keys"] == [f"NSE_FO|{CALL}"]
        await client.send(op="list", id=2)
        assert (await client.next(id=2))["channels"] == ["chain:NIFTY:@w0:all", "chain:NIFTY:@w0:atm1"]
        await client.send(op="unsubscribe", id=3, channels=["chain:nifty:@w0:all", "chain:NIFTY:@w1:all", "chain:what"])
        assert (await client.next(id=3))["channels"] == ["chain:NIFTY:@w0:atm1"]
        counters = server.hub.counters()
        assert (counters["chains"], counters["chain_rows_encoded_total"] > 0, counters["chains_drained_total"] > 0) == (1, True, True)
    await auntil(not_demanded)
    assert server.hub.counters()["chain_snapshots_drained_total"] >= 2, "of those that are gone"
    await live_state.aclose()


async def test_a_connection_may_follow_so_many_chains(server: WebServer, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_channels, "CHAINS_MAX", 2)
    await nifty_options(date(2026, 9, 22))
    channels = [f"chain:NIFTY:@w0:{strikes}" for strikes in ("atm1", "atm2", "atm3", "atm1")]
    async with market_client(server.url, await api_key()) as client:
        await client.next(event="hello")
        await server.settled()
        await client.send(op="subscribe", id=1, channels=channels[:1])
        await client.next(id=1)
        await client.send(op="subscribe", id=2, channels=channels)
        results = (await client.next(id=2))["results"]
        assert [(result["status"], result.get("code")) for result in results] == [
            ("active", None),
            ("active", None),
            ("error", 405),
            ("active", None),
        ]
        with monkeypatch.context() as away:

            def fail(*_: object) -> None:
                raise ServerSelectionTimeoutError("no server")

            away.setattr(chain_channels, "listing_read", fail)
            await client.send(op="unsubscribe", id=3, channels=channels)
            await client.send(op="subscribe", id=4, channels=["chain:NIFTY:@w1:all"])
            (result,) = (await client.next(id=4))["results"]
            assert (result["code"], result["status"]) == (500, "error")


async def test_a_slow_client_of_a_chain_is_owed_a_number_and_ends_with_the_newest(
    server: WebServer, feed: ScriptedFeed, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WS_STALL_SECONDS = 60.0
    monkeypatch.setattr(consumers, "SLOW_SECONDS", 60.0)
    monkeypatch.setattr(chain_channels, "CHAIN_SECONDS", 0.005)
    await nifty_options(date(2026, 9, 22))
    deaf = await deaf_client(server.url, await api_key())
    channels = [f"chain:NIFTY:@w0:atm{each_side}" for each_side in range(10, 30)]
    await deaf.send(json.dumps({"op": "subscribe", "id": 1, "channels": channels}))
    await auntil(lambda: server.hub.counters()["chain_snapshots_drained_total"] == len(channels))
    box = next(iter(server.hub.clients))
    series, rounds = next(iter(box.chains)), 120
    for seq in range(1, rounds + 1):
        turned = series.seq
        await tell(feed, seq, 100.0 + seq)
        await auntil(lambda: series.seq > turned)  # noqa: B023
    assert box._chains_moved, "it takes nothing"
    prices: dict[str, float] = {}
    while set(prices.values()) != {100.0 + rounds} or len(prices) < len(channels):
        message = json.loads(await asyncio.wait_for(deaf.recv(), 20))
        if message.get("event") == "market:chain":
            prices.update((message["channel"], call[LAST_PRICE]) for strike, call, _put in message["rows"] if strike == 24_200.0)
    assert box.chain_snapshots_drained_total > len(channels), "it was more than 20 turns late"
    assert box.chains_drained_total < len(channels) * rounds / 2
    await deaf.close()
