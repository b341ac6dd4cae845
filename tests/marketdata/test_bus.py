"""The group of the feed, on the real valkey: what is published arrives once, or its loss can be seen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from marketdata import bus
from marketdata.bus import BACKLOG_BATCHES, BusBatch, Notice
from marketdata.domain.gap import GapNotice
from tests.marketdata.way_out import NOON_MS, ScriptedFeed, auntil, entry_of, hung, minute_of, own_valkey
from tradingok.embedded import start_server, stop_server

pytestmark = pytest.mark.usefixtures("valkey")


def batch(n: int, *prices: float) -> BusBatch:
    entries = [entry_of(number, n, price) for number, price in enumerate(prices)]
    return BusBatch(0, 7, n, entries, ScriptedFeed(7).status() if n == 1 else None)


def layer() -> Any:
    return get_channel_layer()


async def opened() -> tuple[bus.Batches, asyncio.Task[BusBatch | Notice]]:
    reading = bus.batches()
    first = asyncio.create_task(reading.__anext__())
    async with asyncio.timeout(60):
        await reading.opened.wait()
    return reading, first


def number(message: BusBatch | Notice) -> int:
    assert isinstance(message, BusBatch)
    return message.n


def test_a_batch_is_the_same_after_its_way() -> None:
    sent = batch(1, 100.5, 200.25)._replace(candles=[minute_of(1, NOON_MS, 101.0, "live")])
    assert bus.decode_batch(bus.encode_batch(sent)) == sent


@pytest.mark.parametrize("packed", [b"", b"nothing", None, 7, bus.encode_batch(batch(1))[:-3]])
def test_foreign_messages_are_no_batch(packed: Any) -> None:
    with pytest.raises(ValueError, match="not a batch"):
        bus.decode_batch(packed)


async def test_each_reader_gets_each_batch_once_in_order() -> None:
    reading, first = await opened()
    other = bus.batches()
    other_first = asyncio.create_task(other.__anext__())
    await asyncio.wait_for(other.opened.wait(), 60)
    for n in range(1, 6):
        await bus.publish(batch(n, 100.0 + n))
    assert [await first, *[await reading.__anext__() for _ in range(4)]] == [batch(n, 100.0 + n) for n in range(1, 6)]
    assert number(await other_first) == 1
    await reading.aclose()


GAP = GapNotice("a", 1, 2, 3, "stale", "open", "", [4], 5)
NOTICE = Notice([minute_of(1, NOON_MS, 101.0, "backfilled")._replace(interval="5m")], [GAP])


async def test_a_notice_comes_among_the_batches_and_has_no_number() -> None:
    reading, first = await opened()
    await bus.publish_notice(NOTICE)
    await bus.publish(batch(1))
    assert [await first, await reading.__anext__()] == [NOTICE, batch(1)]
    await reading.aclose()


async def test_who_has_no_event_loop_tells_a_notice_too() -> None:
    reading, first = await opened()
    await asyncio.to_thread(async_to_sync(bus.publish_notice_once), NOTICE)
    assert await asyncio.wait_for(first, 60) == NOTICE
    await reading.aclose()


@pytest.mark.parametrize("packed", [b"", b"nothing", None, bus.encode_batch(batch(1))])
def test_foreign_messages_are_no_notice(packed: Any) -> None:
    with pytest.raises(ValueError, match="not a notice"):
        bus.decode_notice(packed)


async def test_a_message_of_another_version_is_counted_and_passed_over() -> None:
    reading, first = await opened()
    await layer().group_send(bus.GROUP, {"type": "market.ticks", "batch": b"of tomorrow"})
    await layer().group_send(bus.GROUP, {"type": "market.ticks"})
    await bus.publish(batch(3))
    assert number(await first) == 3
    assert reading.rejected_total == 2
    await reading.aclose()


async def test_a_slow_reader_loses_the_older_messages_and_counts_them() -> None:
    reading, first = await opened()
    total = BACKLOG_BATCHES + 50
    for n in range(1, total + 1):
        await bus.publish(batch(n))
    queues = layer().channels
    await auntil(lambda: sum(queue.qsize() for queue in queues.values()) >= total - 1)
    assert number(await first) == 1
    second = number(await reading.__anext__())
    assert reading.dropped_total == BACKLOG_BATCHES // 2
    assert second == 2 + reading.dropped_total
    for expected in range(second + 1, total + 1):
        assert number(await reading.__anext__()) == expected
    await reading.aclose()


async def test_publishing_to_a_server_that_is_down_fails_at_once_and_works_after_its_return(tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as server:
        await bus.publish(batch(1))
        stop_server(server)
        with pytest.raises(bus.Unavailable):
            await bus.publish(batch(2))
        start_server(server)
        await bus.publish(batch(3))
        await layer().flush()


async def test_publishing_to_a_hung_server_ends_in_time(tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as server:
        await bus.publish(batch(1))
        with hung(server):
            started = time.monotonic()
            with pytest.raises(bus.Unavailable):
                await bus.publish(batch(2))
            assert time.monotonic() - started < 30
        await bus.publish(batch(3))
        await layer().flush()


async def test_a_reader_opens_by_itself_when_the_server_comes(tmp_path: Path, settings: Any) -> None:
    with own_valkey(tmp_path, settings) as server:
        stop_server(server)
        reading = bus.batches()
        first = asyncio.create_task(reading.__anext__())
        await asyncio.sleep(0.2)
        assert not reading.opened.is_set()
        start_server(server)
        await asyncio.wait_for(reading.opened.wait(), 60)
        await bus.publish(batch(4))
        assert number(await asyncio.wait_for(first, 60)) == 4
        await reading.aclose()
