"""What the tests of the way out share: a feed that publishes what it is told, and the real web server in a thread."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from channels.db import database_sync_to_async
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from marketdata import bus, live_state, store
from marketdata.domain.candle import Candle
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.quote import FIELDS, Quote
from marketdata.domain.tick import Depth, Level
from marketdata.hub import Hub, close_hub, current_hub
from marketdata.routing import websocket_application
from marketdata.wire import QuoteEntry, quote_entry
from tradingok.bounded_server import AbortableWebSocket
from tradingok.embedded import Valkey, start_server, stop_server

DEADLINE = 60.0


class Levels(Depth):
    """Depth that is given as it is."""

    __slots__ = ()

    def __new__(cls, *levels: Level) -> Levels:
        return super().__new__(cls, levels)


def quote_of(instrument: int, seq: int, price: float, *, depth: Depth | None = None, broker_ms: int = 1_790_000_000_000) -> Quote:
    """Return a quote with a last price and little else."""
    quote = Quote(instrument)
    quote.seq, quote.broker_ms = seq, broker_ms + seq
    values = dict.fromkeys(FIELDS)
    values |= {"last_price": price, "last_quantity": 75, "last_trade_ms": broker_ms + seq, "previous_close": 100.0, "volume": 1000 + seq}
    quote.values = tuple(values[name] for name in FIELDS)
    quote.depth = depth or Levels(Level(price - 0.05, 75, price + 0.05, 150))
    return quote


def traded_entry(instrument: int, price: float, *, key: str, average: float, interest: float) -> QuoteEntry:
    """Return an encoded quote that has an average price of the day and an open interest, too."""
    quote = quote_of(instrument, 1, price)
    told = {"average_traded_price": average, "open_interest": interest}
    quote.values = tuple(told.get(name, value) for name, value in zip(FIELDS, quote.values, strict=True))
    return quote_entry(quote, key, True)


def entry_of(instrument: int, seq: int, price: float, *, key: str | None = None, depth_changed: bool = True) -> QuoteEntry:
    """Return an encoded quote of the instrument that the tests call `TEST|<id>`."""
    return quote_entry(quote_of(instrument, seq, price), key or f"TEST|{instrument}", depth_changed)


MINUTE_MS = 60_000
NOON_MS = 1_789_972_200_000
"""2026-09-21 12:00 IST, a Monday."""


def minute_of(instrument: int, start_ms: int, close: float, state: str = "confirmed", *, volume: int = 75, revision: int = 0) -> Candle:
    """Return a 1-minute candle that opened at 100."""
    return Candle(instrument, "1m", start_ms, 100.0, max(close, 100.0), min(close, 100.0), close, volume, None, state, revision)


@database_sync_to_async
def store_candles(candles: Iterable[Candle]) -> None:
    """Write candles as the feed does."""
    store.candles_write(candles)


class ScriptedFeed:
    """A feed shard that publishes what a test tells it, numbered as the real one does.

    With `reporting`, a task reports each second as the real feed does.
    """

    def __init__(self, epoch: int = 1_790_000_000_000, shard: int = 0) -> None:
        self.epoch, self.shard, self.n = epoch, shard, 0
        self.state, self.segments = "live", {"NSE_FO": "NORMAL_OPEN"}
        self.market_ms = epoch
        self.newest: dict[int, QuoteEntry] = {}
        self.seqs: dict[int, int] = {}

    def status(self) -> FeedStatus:
        return FeedStatus(
            self.shard, self.epoch, self.n, self.state, self.epoch, self.epoch + self.n, self.market_ms + self.n, self.segments, {}
        )

    async def publish(self, entries: Iterable[QuoteEntry] = (), *, report: bool = False, candles: Iterable[Candle] = ()) -> None:
        """Publish one window; what was sent is remembered for `write`."""
        self.n += 1
        window = list(entries)
        for entry in window:
            self.newest[entry.instrument] = entry
        await bus.publish(bus.BusBatch(self.shard, self.epoch, self.n, window, self.status() if report else None, list(candles)))

    async def tick(self, instrument: int, price: float, *, key: str | None = None, depth_changed: bool = True) -> int:
        """Publish one quote; return its seq."""
        seq = self.seqs[instrument] = self.seqs.get(instrument, 0) + 1
        await self.publish([entry_of(instrument, seq, price, key=key, depth_changed=depth_changed)])
        return seq

    async def write(self) -> None:
        """Write hash and status as the feed does each second."""
        await live_state.aquotes_write(list(self.newest.values()), self.epoch)
        await live_state.astatus_write(self.status())

    async def _report_for_ever(self) -> None:
        while True:
            try:
                await self.publish(report=True)
                await self.write()
            except (bus.Unavailable, live_state.Unavailable):
                pass
            await asyncio.sleep(0.5)

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[ScriptedFeed]:
        task = asyncio.create_task(self._report_for_ever())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class WebServer:
    """The WebSocket application on uvicorn, on its own event loop in a thread."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/ws/market/"
        config = uvicorn.Config(
            websocket_application,
            ws=AbortableWebSocket,
            ws_per_message_deflate=False,
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        self.loop.run_until_complete(close_hub())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._server.started)

    def close_hub(self) -> None:
        asyncio.run_coroutine_threadsafe(close_hub(), self.loop).result(DEADLINE)

    def stop(self) -> None:
        self.close_hub()
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    async def settled(self) -> None:
        """Wait until the hub has recovered from its start or a loss: the feed's state is told, nothing is loaded again."""
        await auntil(lambda: self.hub.settled)

    @property
    def hub(self) -> Hub:
        hub = current_hub()
        assert hub is not None
        return hub


@contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def own_valkey(var: Path, settings: Any) -> Iterator[Valkey]:
    """Have a valkey that a test may stop, hang and restart; settings point to it."""
    server = Valkey(var)
    settings.REDIS_URL = start_server(server)
    host = {"address": settings.REDIS_URL, "socket_timeout": None}
    layer = settings.CHANNEL_LAYERS["default"]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}
    try:
        yield server
    finally:
        stop_server(server)


@contextmanager
def hung(server: Valkey) -> Iterator[None]:
    """Let a server answer nobody, as a machine does that swaps; its connections stay open."""
    address = server.remembered()
    assert address is not None
    os.kill(address.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(address.pid, signal.SIGCONT)


def until(true: Any, seconds: float = DEADLINE) -> None:
    """Poll until `true()` is; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


async def auntil(true: Any, seconds: float = DEADLINE) -> None:
    """Do as `until` does, without holding up the loop. `true` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while not (await true() if inspect.iscoroutinefunction(true) else true()):
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


class MarketClient:
    """A program's client: sends commands, reads messages, remembers what it has seen."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any]] = []

    async def send(self, **command: Any) -> None:
        await self.connection.send(json.dumps(command))

    async def next(self, **wanted: Any) -> dict[str, Any]:
        """Read until a message comes that has these values."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message: dict[str, Any] = json.loads(await self.connection.recv())
            except TimeoutError:
                raise AssertionError(f"no {wanted} in {DEADLINE:.0f} s; the last messages: {str(self.seen[-3:])[:1000]}") from None
            self.seen.append(message)
            if all(message.get(name) == value for name, value in wanted.items()):
                return message

    async def told(self, **wanted: Any) -> None:
        """Read until such a message has come since the last look at `seen` was cleared."""
        if not any(all(message.get(name) == value for name, value in wanted.items()) for message in self.seen):
            await self.next(**wanted)

    async def price(self, key: str, price: float) -> list[Any]:
        """Read until the key's last price is this; return [seq, quote]."""
        while True:
            for name, seq, quote in (await self.next(event="market:tick"))["ticks"]:
                if name == key and quote["last_price"] == price:
                    return [seq, quote]


@asynccontextmanager
async def market_client(url: str, secret: str, **options: Any) -> AsyncIterator[MarketClient]:
    async with connect(url, additional_headers={"Authorization": f"Bearer {secret}"}, **options) as connection:
        yield MarketClient(connection)


async def farewell(connection: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """Read until the server closes; return the messages and the close code."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE):
        try:
            while True:
                messages.append(json.loads(await connection.recv()))
        except ConnectionClosed:
            return messages, connection.close_code


async def deaf_client(url: str, secret: str) -> ClientConnection:
    """Connect a client whose operating system takes little, and that reads only when told."""
    address = urlsplit(url)
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect((address.hostname, address.port))
    return await connect(url, sock=small, max_queue=1, ping_interval=None, additional_headers={"Authorization": f"Bearer {secret}"})


def read_slowly(url: str, secret: str, keys: list[str]) -> tuple[list[dict[str, Any]], int | None]:
    """Follow keys, take 4 kB now and then until an `error` or `bye` has come, then the rest; return all messages and the close code."""
    address = urlsplit(url)
    protocol = ClientProtocol(parse_uri(url), max_size=None)
    request = protocol.connect()
    request.headers["Authorization"] = f"Bearer {secret}"
    protocol.send_request(request)
    messages: list[dict[str, Any]] = []
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # a smaller one lets TCP itself pause for seconds
        small.settimeout(DEADLINE)
        small.connect((address.hostname, address.port))
        small.sendall(b"".join(protocol.data_to_send()))
        while received := small.recv(4096):
            protocol.receive_data(received)
            for event in protocol.events_received():
                if isinstance(event, Response):
                    protocol.send_text(json.dumps({"id": 1, "op": "subscribe", "instruments": keys}).encode())
                elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    messages.append(json.loads(bytes(event.data)))
            small.sendall(b"".join(protocol.data_to_send()))
            time.sleep(0 if messages and messages[-1].get("event") in ("error", "bye") else 0.25)
    return messages, protocol.close_rcvd.code if protocol.close_rcvd else None


@database_sync_to_async
def api_key(name: str = "trader") -> str:
    """Make a user with an API key; return the secret."""
    from accounts.models import User
    from accounts.services import api_key_create

    user, _ = User.objects.get_or_create(username=name)
    return api_key_create(user=user, name="test")


@database_sync_to_async
def instruments(*ids: int, **keys: int) -> None:
    """Make active instruments called `TEST|<id>`, and others by their keys."""
    from instruments.models import Instrument

    named = {f"TEST|{number}": number for number in ids} | keys
    Instrument.objects.bulk_create(
        Instrument(
            id=number,
            identity=key,
            instrument_key=key,
            segment="TEST",
            exchange="NSE",
            instrument_type="EQ",
            trading_symbol=f"TEST{number}",
            name=f"Test {number}",
            active_from=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for key, number in named.items()
    )


NIFTY = 99
NIFTY_STRIKES = [24_000.0 + 50 * number for number in range(9)]


def option_of(nth_expiry: int, strike: float, side: str) -> int:
    """Return the id of an option that `nifty_options` makes: `nth_expiry` is of the first call's, from 0."""
    return 100 * (nth_expiry + 1) + 2 * NIFTY_STRIKES.index(strike) + (side == "PE")


@database_sync_to_async
def nifty_options(*expiries: date, monthly: Iterable[date] = (), first: int = 0) -> None:
    """Make NIFTY's options of nine strikes round 24,200 for each expiry, and NIFTY itself with the first; keys are `NSE_FO|<id>`."""
    from instruments.domain.instrument import day_end
    from instruments.models import Instrument

    common: dict[str, Any] = {
        "exchange": "NSE",
        "underlying_symbol": "NIFTY",
        "underlying_key": "NSE_INDEX|Nifty 50",
        "active_from": datetime(2026, 1, 1, tzinfo=UTC),
    }
    made = [
        Instrument(
            id=(number := option_of(first + nth, strike, side)),
            identity=f"option {number}",
            instrument_key=f"NSE_FO|{number}",
            segment="NSE_FO",
            instrument_type=side,
            trading_symbol=f"NIFTY {strike:.0f} {side} {day}",
            name="NIFTY",
            expiry=day_end(day),
            weekly=day not in monthly,
            strike_price=strike,
            lot_size=75,
            **common,
        )
        for nth, day in enumerate(expiries)
        for strike in NIFTY_STRIKES
        for side in ("CE", "PE")
    ]
    if not first:
        index = {"segment": "NSE_INDEX", "instrument_type": "INDEX", "trading_symbol": "NIFTY", "name": "Nifty 50"}
        made.append(Instrument(id=NIFTY, identity="index", instrument_key="NSE_INDEX|Nifty 50", **index, **common))
    Instrument.objects.bulk_create(made)
