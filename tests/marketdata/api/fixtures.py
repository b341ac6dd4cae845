"""What the tests of the API share: a program with a key, instruments, stored ticks and candles, latest quotes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import api_key_create
from instruments.models import Instrument
from marketdata import live_state, store
from marketdata.api.key_memory import key_memory
from marketdata.domain.candle import INTERVAL_MINUTES, MINUTE_MS, Candle
from marketdata.domain.feed_status import FeedStatus
from marketdata.domain.tick import NO_DEPTH, Tick, received_stamp_us, tick_id
from marketdata.wire import QuoteEntry

OPEN_MS = 1_795_146_300_000
"""2026-11-20 09:15 IST, a Friday."""


@pytest.fixture
def client(db: None) -> Iterator[APIClient]:
    """A program with an API key."""
    secret = api_key_create(user=User.objects.create_user("asha"), name="test")
    key_memory.forget()
    yield APIClient(headers={"Authorization": f"Bearer {secret}"}, SERVER_NAME="127.0.0.1")
    key_memory.forget()


@pytest.fixture
def reliance(db: None) -> Instrument:
    """An instrument."""
    return make_instrument(7, "NSE_EQ|INE002A01018")


def make_instrument(number: int, key: str, **fields: Any) -> Instrument:
    instrument = instrument_of(number, key, **fields)
    instrument.save(force_insert=True)
    return instrument


def instrument_of(number: int, key: str, **fields: Any) -> Instrument:
    values = {
        "identity": f"test {number}",
        "segment": key.split("|")[0],
        "exchange": "NSE",
        "instrument_type": "EQ",
        "trading_symbol": f"TEST{number}",
        "name": f"Test {number}",
        "active_from": datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    }
    return Instrument(id=number, instrument_key=key, **values)


def tick_of(instrument: int, price: float, **fields: Any) -> Tick:
    values: dict[str, Any] = dict.fromkeys(Tick._fields)
    return Tick(**values | {"instrument": instrument, "rank": 0, "last_price": price, "depth": NO_DEPTH} | fields)


def store_ticks(instrument: int, times_ms: Iterable[int], **fields: Any) -> list[int]:
    """Store a tick at each of these times; its price counts from 100. Returns their ids."""
    documents, ids, stamp = [], [], 0
    for number, moment in enumerate(times_ms):
        stamp = received_stamp_us(moment * 1000, stamp, 0)
        tick = tick_of(instrument, 100.0 + number, volume=number, last_trade_ms=moment - 5, **fields)
        documents.append(store.tick_bson(tick, stamp, moment, 1))
        ids.append(tick_id(stamp, tick.rank))
    store.ticks_write(documents)
    return ids


def store_minutes(instrument: int, count: int, start_ms: int = OPEN_MS, interval: str = "1m", state: str = "confirmed") -> None:
    """Store `count` candles in a row: the n-th opens at n and closes at n + 0.5."""
    step = INTERVAL_MINUTES[interval] * MINUTE_MS
    store.candles_write(Candle(instrument, interval, start_ms + n * step, n, n + 1, n - 1, n + 0.5, 10, None, state) for n in range(count))


def publish_latest(entries: list[QuoteEntry], status: FeedStatus | None = None) -> None:
    """Put quotes and the feed's report where a process without a hub looks for them."""

    async def write() -> None:
        await live_state.aquotes_write(entries, 1)
        if status is not None:
            await live_state.astatus_write(status)
        await live_state.aclose()

    asyncio.run(write())


def status_of(state: str = "live", *, now_ms: int, shard: int = 0, segments: dict[str, str] | None = None, **counters: float) -> FeedStatus:
    return FeedStatus(
        shard, now_ms - 60_000, 5, state, now_ms - 30_000, now_ms - 100, now_ms - 50, segments or {"NSE_EQ": "NORMAL_OPEN"}, counters
    )
