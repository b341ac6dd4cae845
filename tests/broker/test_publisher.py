"""The publisher on the real valkey: each quote goes out once a window, and every change of a quote is accounted for."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings

from broker.candles import ShardCandles
from broker.hours import TradingHours
from broker.pipeline import Pipeline
from broker.publisher import Publisher
from broker.upstox.decode import decode
from marketdata import bus, live_state
from marketdata.bus import BusBatch
from marketdata.domain.feed_status import FeedStatus
from tests.marketdata.way_out import auntil
from tests.payloads import frame, option_feed
from tradingok import ports

pytestmark = pytest.mark.usefixtures("valkey")

IDS = {"NSE_FO|1": 1, "NSE_FO|2": 2, "NSE_FO|3": 3}
KEYS = {instrument: key for key, instrument in IDS.items()}
T0 = 1_769_160_569_000


class Shard:
    """A publisher and the pipeline before it."""

    def __init__(self) -> None:
        self.pipeline = Pipeline()
        self.candles = ShardCandles(TradingHours(), grace_ms=1500)
        self.publisher = Publisher(self.pipeline, self.candles, shard=0, epoch=1_000)
        self.tick = 0

    def fold(self, *keys: str) -> None:
        """A change of each of these."""
        self.tick += 1
        feeds = {key: option_feed(last_price=100 + self.tick, volume=750 + self.tick) for key in keys}
        folded = decode(frame(feeds, broker_ms=T0 + self.tick), IDS)
        self.pipeline.apply(folded)
        self.candles.apply(folded, self.tick * 8, IDS, T0 + self.tick, heard_at=0.0)

    def status(self) -> FeedStatus:
        return FeedStatus(0, 1_000, self.publisher.n, "live", 1, T0, T0, {"NSE_FO": "NORMAL_OPEN"}, {})

    def assert_adds_up(self) -> None:
        """Contract: every change was published, merged, forgotten or unsent, or waits."""
        pipeline, publisher = self.pipeline.counts, self.publisher.counts
        waiting = self.pipeline.waiting + self.publisher.under_way
        gone = publisher["quotes_published_total"] + publisher["quotes_unsent_total"]
        assert pipeline["ticks_changed_total"] == gone + pipeline["merged_total"] + pipeline["quotes_forgotten_total"] + waiting


class Reader:
    """A hub's end of the bus."""

    def __init__(self) -> None:
        self.batches: list[BusBatch] = []
        self._reading = bus.batches()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for batch in self._reading:
            assert isinstance(batch, BusBatch)
            self.batches.append(batch)

    async def __aenter__(self) -> Reader:
        async with asyncio.timeout(60):
            await self._reading.opened.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._reading.aclose()


async def test_what_changed_goes_out_once_merged_and_numbered() -> None:
    shard = Shard()
    async with Reader() as reader:
        shard.fold("NSE_FO|1", "NSE_FO|2")
        shard.fold("NSE_FO|1")
        await shard.publisher.publish(KEYS, shard.status())
        shard.fold("NSE_FO|3")
        await shard.publisher.publish(KEYS)
        await auntil(lambda: len(reader.batches) == 2)
    assert [batch.n for batch in reader.batches] == [1, 2]
    assert [[(entry.key, entry.seq) for entry in batch.entries] for batch in reader.batches] == [
        [("NSE_FO|1", 2), ("NSE_FO|2", 1)], [("NSE_FO|3", 1)],
    ]  # fmt: skip
    assert reader.batches[0].status == shard.status()._replace(n=0)
    assert shard.publisher.counts["quotes_published_total"] == 3
    assert shard.pipeline.counts["merged_total"] == 1
    shard.assert_adds_up()


async def test_finished_candles_go_with_the_next_window_and_forming_ones_when_they_are_due() -> None:
    shard = Shard()
    async with Reader() as reader:
        shard.fold("NSE_FO|1")  # an update carries the bar of the minute before
        await shard.publisher.publish(KEYS)
        shard.fold("NSE_FO|1")
        await shard.publisher.publish(KEYS)
        shard.candles.due = True
        await shard.publisher.publish(KEYS)
        await auntil(lambda: len(reader.batches) == 3)
    assert [[(candle.state, candle.close) for candle in batch.candles] for batch in reader.batches] == [
        [("confirmed", 101)], [], [("live", 102)],
    ]  # fmt: skip
    assert shard.publisher.counts["candles_published_total"] == 2
    assert shard.candles.waiting == 1, "for the store"


async def test_at_any_moment_of_a_slow_publication_everything_is_accounted_for() -> None:
    shard = Shard()
    shard.fold(*IDS)
    shard.assert_adds_up()
    sending = [asyncio.create_task(shard.publisher.publish(KEYS)) for _ in range(2)]
    await asyncio.sleep(0)
    assert shard.publisher.under_way == 3
    shard.fold(*IDS)
    shard.assert_adds_up()
    await asyncio.gather(*sending)
    assert shard.publisher.under_way == 0
    shard.assert_adds_up()
    assert shard.pipeline.waiting == 3


async def test_what_nobody_took_is_counted_and_the_number_jumps() -> None:
    shard = Shard()
    address = f"redis://127.0.0.1:{ports.choose()}/0"  # nobody listens there
    layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [address]}}
    with override_settings(REDIS_URL=address, CHANNEL_LAYERS={"default": layer}):
        shard.fold(*IDS)
        with pytest.raises(bus.Unavailable):
            await shard.publisher.publish(KEYS)
    assert (shard.publisher.counts["quotes_unsent_total"], shard.publisher.counts["publish_failed_total"], shard.publisher.n) == (3, 1, 1)
    assert (shard.publisher.counts["candles_unsent_total"], shard.candles.waiting) == (3, 3), "the store gets them all the same"
    shard.assert_adds_up()
    shard.fold("NSE_FO|2")
    async with Reader() as reader:
        await shard.publisher.publish(KEYS)
        await auntil(lambda: reader.batches)
    assert (reader.batches[0].n, [entry.seq for entry in reader.batches[0].entries]) == (2, [2])
    shard.assert_adds_up()


async def test_a_publication_that_is_cancelled_is_counted_as_unsent() -> None:
    shard = Shard()
    shard.fold(*IDS)
    sending = asyncio.create_task(shard.publisher.publish(KEYS))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert shard.publisher.counts["quotes_unsent_total"] == 3
    shard.assert_adds_up()


async def test_a_quote_whose_key_passed_to_another_instrument_is_counted_as_forgotten() -> None:
    shard = Shard()
    shard.fold(*IDS)
    await shard.publisher.publish({instrument: key for instrument, key in KEYS.items() if instrument != 2})
    assert shard.pipeline.counts["quotes_forgotten_total"] == 1
    assert shard.publisher.counts["quotes_published_total"] == 2
    shard.assert_adds_up()


async def test_the_shared_hash_has_the_newest_and_all_again_after_a_failure() -> None:
    shard = Shard()
    shard.fold(*IDS)
    await shard.publisher.publish(KEYS)
    await shard.publisher.save(shard.status())
    assert {entry.key: entry.seq for entry in live_state.quotes_read().values()} == dict.fromkeys(IDS, 1)
    await live_state.aclose()
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{ports.choose()}/0"):
        shard.fold("NSE_FO|1")
        await shard.publisher.publish(KEYS)
        with pytest.raises(live_state.Unavailable):
            await shard.publisher.save(shard.status())
        await live_state.aclose()
    assert shard.publisher.counts["live_state_failed_total"] == 1
    await live_state.aquotes_remove(IDS.values())  # the server lost them all
    await shard.publisher.save(shard.status())
    assert {entry.key: entry.seq for entry in live_state.quotes_read().values()} == {"NSE_FO|1": 2, "NSE_FO|2": 1, "NSE_FO|3": 1}
    assert live_state.statuses_read() == [shard.status()]
    await live_state.aclose()


async def test_what_is_followed_no_more_is_neither_saved_nor_kept() -> None:
    shard = Shard()
    shard.fold(*IDS)
    await shard.publisher.publish(KEYS)
    shard.pipeline.forget({2})
    shard.publisher.forget_unfollowed()
    await shard.publisher.save(shard.status())
    assert {entry.key for entry in live_state.quotes_read().values()} == {"NSE_FO|1", "NSE_FO|3"}
    await live_state.aclose()


async def test_what_an_earlier_run_left_behind_is_told_once_and_to_its_own_shard() -> None:
    earlier = Shard()
    earlier.fold(*IDS)
    await earlier.publisher.publish(KEYS)
    await earlier.publisher.save(earlier.status())
    later = Shard()
    assert await later.publisher.left_behind(2) == {2}
    assert await later.publisher.left_behind(2) == set()
    assert await Shard().publisher.left_behind(1) == {1, 2, 3}
    await live_state.aclose()
