"""docs/client-protocol.md is kept true: each example there is what the real server sends, and each message has one."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from channels.db import database_sync_to_async
from websockets.asyncio.client import connect

from instruments.models import Instrument
from marketdata import bus, consumers, hub_notices
from marketdata.client_errors import ERRORS
from marketdata.commands import Command
from marketdata.domain.gap import GapNotice
from marketdata.domain.quote import FIELDS, Quote
from marketdata.domain.tick import Level
from marketdata.wire import quote_entry
from tests.marketdata.way_out import (
    MINUTE_MS,
    Levels,
    MarketClient,
    ScriptedFeed,
    WebServer,
    api_key,
    auntil,
    farewell,
    instruments,
    market_client,
    minute_of,
    nifty_options,
    option_of,
    store_candles,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client-protocol.md"
EXAMPLE = re.compile(r"<!-- example: (.+?) -->\n(?:```json\n(.*?)\n```\n)?", re.DOTALL)
INDEX, OPTION, EQUITY = "NSE_INDEX|Nifty 50", "NSE_FO|51420", "NSE_EQ|INE002A01018"
EXPIRED, FOLLOWING = "NSE_FO|48210", "NSE_FO|55102"
ENDS = 1_790_071_800_000
CALL, PUT = option_of(1, 24_200.0, "CE"), option_of(1, 24_200.0, "PE")
MINUTE = 1_789_999_980_000
VOLATILE = {"time": 1_790_000_000_500, "since_ms": 1_790_000_000_000, "age_ms": 12, "lag_ms": 1, "data_ms": 1_790_000_000_123}
"""What differs from run to run, and what stands for it on the page."""


def option_quote(seq: int, price: float) -> Quote:
    quote = Quote(2)
    quote.seq, quote.broker_ms = seq, 1_790_000_000_100 + seq
    values: dict[str, Any] = {
        "last_price": price,
        "last_quantity": 75,
        "last_trade_ms": 1_790_000_000_000 + seq,
        "previous_close": 118.4,
        "volume": 1_250_400 + 75 * seq,
        "average_traded_price": 121.37,
        "open_interest": 8_812_350.0,
        "implied_volatility": 0.1081,
        "delta": 0.4821,
        "theta": -12.34,
        "gamma": 0.0012,
        "vega": 8.07,
        "rho": 1.92,
        "bid_price": price - 0.05,
        "bid_quantity": 750,
        "ask_price": price + 0.05,
        "ask_quantity": 825,
        "total_buy_quantity": 512_325.0,
        "total_sell_quantity": 498_600.0,
        "day_open": 119.0,
        "day_high": 131.25,
        "day_low": 110.5,
    }
    quote.values = tuple(values[name] for name in FIELDS)
    quote.depth = Levels(*(Level(round(price - 0.05 * step, 2), 750 * step, round(price + 0.05 * step, 2), 825 * step) for step in (1, 2)))
    return quote


LIMIT = "The broker's limit of 1500 keys in full mode is reached."


def settled(value: Any) -> Any:
    """Return a message with what differs from run to run replaced."""
    if isinstance(value, dict):
        return {name: VOLATILE[name] if name in VOLATILE and part is not None else settled(part) for name, part in value.items()}
    return [settled(part) for part in value] if isinstance(value, list) else value


@database_sync_to_async
def expired_contract(key: str, number: int) -> None:
    """Have a contract whose trading has ended."""
    Instrument.objects.create(
        id=number,
        identity=key,
        instrument_key=key,
        segment="NSE_FO",
        exchange="NSE",
        instrument_type="CE",
        trading_symbol="NIFTY 25000 CE 15 SEP 26",
        name="NIFTY",
        expiry=datetime(2026, 9, 15, 18, 29, 59, tzinfo=UTC),
        active_from=datetime(2026, 8, 1, tzinfo=UTC),
    )


async def tick_of(client: MarketClient, key: str) -> dict[str, Any]:
    while True:
        message = await client.next(event="market:tick")
        if [name for name, _seq, _quote in message["ticks"]] == [key]:
            return message


async def tell_of(feed: ScriptedFeed, instrument: int, seq: int, price: float) -> None:
    quote = option_quote(seq, price)
    quote.instrument = instrument
    await feed.publish([quote_entry(quote, f"NSE_FO|{instrument}" if instrument != 1 else INDEX, True)])


async def recorded(server: WebServer, feed: ScriptedFeed) -> dict[str, dict[str, Any]]:
    """Play one session with everything in it; return name → message."""
    seen: dict[str, dict[str, Any]] = {}
    await instruments(**{INDEX: 1, OPTION: 2, EQUITY: 3})
    await nifty_options(date(2026, 9, 22), first=1)
    await feed.publish([quote_entry(option_quote(1, 121.5), OPTION, True)], report=True)
    await feed.write()
    async with connect(server.url) as stranger:
        seen["refused"] = (await farewell(stranger))[0][0]
    secret = await api_key()
    async with market_client(server.url, secret) as first:
        await first.next(event="hello")
        await server.settled()
    async with market_client(server.url, secret) as client:

        async def ask(name: str, answer: str, **command: Any) -> None:
            seen[name] = command
            await client.send(**command)
            seen[answer] = await client.next(id=command["id"])

        seen["hello"] = await client.next(event="hello")
        await ask("subscribe", "subscribe reply", op="subscribe", id=1, instruments=[OPTION, INDEX, "NSE_EQ|NOBODY"], mode="full")
        seen["market:tick snapshot"] = await tick_of(client, OPTION)
        await feed.publish([quote_entry(option_quote(4, 121.65), OPTION, False)])
        seen["market:tick"] = await tick_of(client, OPTION)
        await client.send(op="subscribe", id=2, instruments=[EQUITY], mode="ltpc")
        seen["subscription no_data"] = await client.next(event="subscription", key=EQUITY)
        equity = option_quote(1, 1402.3)
        equity.instrument = 3
        await feed.publish([quote_entry(equity, EQUITY, True)])
        seen["subscription active"] = await client.next(event="subscription", key=EQUITY)
        seen["market:tick ltpc"] = await tick_of(client, EQUITY)
        await ask("ping", "pong", op="ping", id=3)
        await ask("list", "list reply", op="list", id=4)
        await ask("unsubscribe", "unsubscribe reply", op="unsubscribe", id=5, instruments=[INDEX, f"id:{3}"])
        await ask("resume", "resume reply", op="resume", id=6, epoch=feed.epoch, seq={OPTION: 4, EQUITY: 0})
        await client.send(op="subscribe", id=7, instruments=OPTION)
        seen["error"] = await client.next(event="error")
        await store_candles(minute_of(2, MINUTE - MINUTE_MS * back, 120.5 + back) for back in (2, 1))
        channels = [f"ohlc:1m:{OPTION}", "ohlc:7m:id:2"]
        await ask("subscribe candles", "subscribe candles reply", op="subscribe", id=8, channels=channels, candles=100)
        seen["market:ohlc snapshot"] = await client.next(event="market:ohlc")
        await feed.publish(candles=[minute_of(2, MINUTE, 121.65, "live", volume=150)])
        seen["market:ohlc live"] = await client.next(event="market:ohlc")
        await feed.publish(candles=[minute_of(2, MINUTE, 121.7, volume=225)])
        seen["market:ohlc confirmed"] = await client.next(event="market:ohlc")
        hole = GapNotice("6ff0c1d2a3b4c5d6e7f80912", 0, MINUTE - 3_600_000, MINUTE - 3_000_000, "disconnected", "healed", "", [1, 2, 3], 28)
        await bus.publish_notice(bus.Notice([], [hole]))
        seen["gap"] = await client.next(event="gap")
        for instrument, price in ((1, 24_210.0), (CALL, 121.5), (PUT, 110.35)):
            await tell_of(feed, instrument, 1, price)
        await auntil(lambda: PUT in server.hub.entries)
        chains = ["chain:NIFTY:@w0:atm1", "chain:NIFTY:@w9:all"]
        await ask("subscribe chains", "subscribe chains reply", op="subscribe", id=10, channels=chains)
        seen["market:chain snapshot"] = await client.next(event="market:chain")
        await tell_of(feed, CALL, 2, 121.65)
        seen["market:chain"] = await client.next(event="market:chain")
        server.hub._notices._absences._patience = 60.0
        await bus.publish_notice(bus.Notice(refused={option_of(1, 24_250.0, side): LIMIT for side in ("CE", "PE")}))
        seen["subscription chain"] = await client.next(event="subscription", key="chain:NIFTY:@w0:atm1")
        await expired_contract(EXPIRED, 4)
        await ask("subscribe expired", "subscribe expired reply", op="subscribe", id=9, instruments=[EXPIRED], channels=["market"])
        left = {OPTION: (2, "expired", FOLLOWING), EQUITY: (3, "limit", "")}
        await bus.publish_notice(bus.Notice(universe=bus.UniverseNotice(ENDS, ["expiry", "limit"], {FOLLOWING: "full"}, left)))
        seen["universe"] = await client.next(event="universe")
        seen["subscription expired"] = await client.next(event="subscription", key=OPTION)
        seen["subscription removed"] = await client.next(event="subscription", key=EQUITY)
        feed.segments = {"NSE_FO": "NORMAL_CLOSE"}
        seen["market:status"] = await client.next(event="market:status")
        feed.state = "closed"
        seen["feed:status"] = await client.next(event="feed:status")
        seen["heartbeat"] = await client.next(event="heartbeat")
        server.loop.call_soon_threadsafe(next(iter(server.hub.clients.values())).close, 4001)
        seen["bye"] = await client.next(event="bye")
    return {name: settled(message) for name, message in seen.items()}


def shown(message: dict[str, Any]) -> str:
    """Return a message as the page shows it: a line per field."""
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(part)}" for name, part in message.items()) + "\n}"


async def test_every_example_is_what_the_server_sends(server: WebServer, feed: ScriptedFeed, monkeypatch: Any) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_SECONDS", 2.0)
    monkeypatch.setattr(hub_notices, "NO_DATA_SECONDS", 0.2)
    messages = await recorded(server, feed)
    page = PAGE.read_text()
    if os.environ.get("TRADINGOK_WRITE_EXAMPLES"):
        page = EXAMPLE.sub(lambda found: f"<!-- example: {found[1]} -->\n```json\n{shown(messages[found[1]])}\n```\n", page)
        PAGE.write_text(page)
    examples = {found[1]: json.loads(found[2] or "null") for found in EXAMPLE.finditer(page)}
    assert examples == messages


def test_every_command_push_and_error_is_on_the_page() -> None:
    page = PAGE.read_text()
    ops = {command.__struct_config__.tag for command in Command.__args__}
    assert set(re.findall(r'"op": "(\w+)"', page)) == ops | {"pong"}
    pushes = set(re.findall(r'"event": "([\w:]+)"', page))
    assert pushes == {
        "hello",
        "market:tick",
        "subscription",
        "feed:status",
        "market:status",
        "heartbeat",
        "error",
        "bye",
        "market:ohlc",
        "market:chain",
        "gap",
        "universe",
    }
    assert dict(re.findall(r"^\| (\d{3}) \| `(\w+)`", page, re.MULTILINE)) == {str(code): word for code, word in ERRORS.items()}
