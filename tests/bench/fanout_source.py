"""The source of the fan-out's benchmark: seeded quotes, published in windows; as our feed does, or as the others are usually fed.

Told `go <ticks a second> <seconds>` it publishes, and answers with each instrument's last `seq`. A tick is born at its even
place in its window and carries that moment as `volume` (µs of the monotonic clock, which all processes of a machine share),
so that the wait for the window's end is part of what the clients measure. Each instrument comes once a window at most, and
every tick's values change.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradingok.settings")
django.setup()

import msgspec  # noqa: E402
import socketio  # type: ignore[import-untyped] # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from django.conf import settings  # noqa: E402

from marketdata import bus, live_state  # noqa: E402
from marketdata.domain.feed_status import FeedStatus  # noqa: E402
from marketdata.domain.quote import FIELDS, Quote  # noqa: E402
from marketdata.domain.tick import Level  # noqa: E402
from marketdata.wire import FULL, QuoteEntry, quote_entry, quote_json  # noqa: E402
from tests.bench.fanout_worker import asked, say  # noqa: E402
from tests.marketdata.way_out import Levels  # noqa: E402

WINDOW_SECONDS = 0.025
DEPTH_SHARE = 0.25
"""Of the ticks so many change the levels too."""
GROUP = "bench.ticks"
_VOLUME = FIELDS.index("volume")


class Market:
    """The quotes of as many options as wanted."""

    def __init__(self, instruments: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.quotes = [Quote(number) for number in range(1, instruments + 1)]
        self.entries: list[QuoteEntry] = [self._tick(quote, depth=True) for quote in self.quotes]

    def window(self, ticks: int, began: float) -> list[QuoteEntry]:
        """Let `ticks` instruments tick once each, evenly in the window that begins at `began` (monotonic seconds)."""
        draw, entries = self.random.random, self.entries
        born_us = began * 1e6
        step_us = WINDOW_SECONDS * 1e6 / max(ticks, 1)
        found = []
        for index in self.random.sample(range(len(self.quotes)), ticks):
            born_us += step_us
            entry = self._tick(self.quotes[index], depth=draw() < DEPTH_SHARE, born_us=int(born_us), previous=entries[index])
            entries[index] = entry
            found.append(entry)
        return found

    def _tick(self, quote: Quote, *, depth: bool, born_us: int = 0, previous: QuoteEntry | None = None) -> QuoteEntry:
        quote.seq += 1
        quote.broker_ms = time.time_ns() // 1_000_000
        move = quote.seq % 1000
        price = _paise(100 + quote.instrument / 20 + move / 20)
        quote.values = (
            *(quote.broker_ms, price, 75 + move, 120.15, born_us, _paise(price - 0.37), 1_234_500.0 + move, _share(0.1634, move)),
            *(_share(0.5123, move), -12.3412, 0.0012, 11.2312, _share(0.2312, move)),
            *(_paise(price - 0.05), 75 + move, _paise(price + 0.05), 150 + move, 123_450.0 + move, 1_234_500.0 - move, 120.1, 160.35, 98.4),
        )
        if depth:
            quote.depth = Levels(*[Level(_paise(price - n / 20), 75 * n, _paise(price + n / 20), 150 * n) for n in (1, 2, 3, 4, 5)])
        return quote_entry(quote, f"TEST|{quote.instrument}", depth, previous)


def _paise(price: float) -> float:
    return round(price, 2)


def _share(share: float, move: int) -> float:
    return round(share + move / 1e4, 4)


class BusWay:
    """As our feed publishes: one batch a window on the bus, a report a second."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.epoch, self.n, self.reported = time.time_ns() // 1_000_000, 0, 0.0

    async def send(self, entries: list[QuoteEntry]) -> None:
        self.n += 1
        status = None
        if time.monotonic() - self.reported > 1:
            self.reported = time.monotonic()
            now_ms = time.time_ns() // 1_000_000
            segments = {"NSE_FO": "NORMAL_OPEN"}
            status = FeedStatus(0, self.epoch, self.n, "live", self.epoch, now_ms, now_ms, segments, {})
            await live_state.astatus_write(status)
        await bus.publish(bus.BusBatch(0, self.epoch, self.n, entries, status))

    async def begin(self) -> None:
        await live_state.aquotes_write(self.market.entries, self.epoch)
        await self.send(self.market.entries)


def _plain(entry: QuoteEntry) -> dict[str, Any]:
    """Return what the others send of a tick: the same key, seq and quote, as the dictionary that their users hand over."""
    return {"key": entry.key, "seq": entry.seq, "quote": msgspec.json.decode(quote_json(entry, FULL + entry.depth_changed))}


class GroupWay:
    """As Channels is usually fed: a message to the group for every tick, or one a window with all of them."""

    def __init__(self, *, batched: bool) -> None:
        self.batched = batched
        self.layer: Any = get_channel_layer()

    async def send(self, entries: list[QuoteEntry]) -> None:
        ticks = [_plain(entry) for entry in entries]
        for some in [ticks] if self.batched and ticks else [[tick] for tick in ticks]:
            await self.layer.group_send(GROUP, {"type": "ticks", "ticks": some})

    async def begin(self) -> None:
        pass


class RoomWay:
    """As python-socketio is usually fed: an event to the instrument's room for every tick."""

    def __init__(self) -> None:
        self.manager = socketio.AsyncRedisManager(settings.REDIS_URL, channel=f"{settings.NAMESPACE}.rooms", write_only=True)

    async def send(self, entries: list[QuoteEntry]) -> None:
        for entry in entries:
            await self.manager.emit("tick", _plain(entry), room=entry.key)

    async def begin(self) -> None:
        pass


async def main() -> None:
    """Serve lines: `go <ticks a second> <seconds>`."""
    lines = asked()
    task = json.loads(await anext(lines))
    market = Market(task["instruments"], task["seed"])
    ways: dict[str, Callable[[], Any]] = {
        "bus": lambda: BusWay(market),
        "group": lambda: GroupWay(batched=False),
        "batch": lambda: GroupWay(batched=True),
        "rooms": RoomWay,
    }
    way = ways[task["way"]]()
    await way.begin()
    sending = asyncio.Lock()
    reporting = asyncio.create_task(_report(way, sending))
    say(ready=True)
    async for line in lines:
        _go, rate, seconds = line.split()
        async with sending:
            answer = await _run(market, way, float(rate), float(seconds))
        say(**answer)
    reporting.cancel()


async def _run(market: Market, way: Any, rate: float, seconds: float) -> dict[str, Any]:
    windows, per_window = round(seconds / WINDOW_SECONDS), round(rate * WINDOW_SECONDS)
    worst, cpu = 0.0, time.process_time()
    began = time.monotonic()
    for number in range(windows):
        opened = began + number * WINDOW_SECONDS
        closes = opened + WINDOW_SECONDS
        await asyncio.sleep(closes - time.monotonic())
        await way.send(market.window(per_window, opened))
        worst = max(worst, time.monotonic() - closes)
    seqs = {entry.key: entry.seq for entry in market.entries}
    return {
        "published": windows * per_window,
        "late_ms": worst * 1e3,
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "seqs": seqs,
    }


async def _report(way: Any, sending: asyncio.Lock) -> None:
    """Keep saying that the feed lives, between the runs."""
    while True:
        async with sending:
            await way.send([])
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main())
