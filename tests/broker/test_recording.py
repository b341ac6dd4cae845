"""Recording on the real mongod: states of segments and holes, each until the store has it, over an absence of the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from broker.candles import ShardCandles
from broker.holes import Holes
from broker.hours import TradingHours
from broker.pipeline import Pipeline
from broker.recording import Recorder
from broker.report import Report
from broker.upstox.decode import decode
from marketdata import bus
from marketdata.domain.gap import GapNotice
from marketdata.models import OHLC, Gap, MarketStatus
from marketdata.store import time_ms
from tests.marketdata.way_out import auntil
from tests.payloads import frame, option_feed

pytestmark = pytest.mark.django_db(transaction=True)


class Bench:
    """A recorder and what it records."""

    def __init__(self, folder: Path) -> None:
        self.pipeline, self.holes = Pipeline(), Holes(folder / "holes.json", shard=0)
        self.candles = ShardCandles(TradingHours(), grace_ms=1500)
        self.recorder = Recorder(self.pipeline, self.candles, self.holes, Report(shard=0), shard=0)

    def minutes(self, count: int) -> None:
        """Finish so many minutes: a trade in each, and the broker's bar of the first."""
        start_ms = 1_769_160_540_000
        for number in range(count + 1):
            feed = option_feed(last_price=100 + number, volume=75 * (number + 1), last_trade_ms=start_ms + number * 60_000 + 2_000)
            bar = feed.fullFeed.marketFF.marketOHLC.ohlc[1]
            bar.ts = start_ms
            if not number:
                feed.fullFeed.marketFF.ClearField("marketOHLC")
            folded = decode(frame({"NSE_FO|1": feed}, broker_ms=start_ms + number * 60_000 + 2_040), {"NSE_FO|1": 1})
            self.candles.apply(folded, number * 8 + 8, {"NSE_FO|1": 1}, folded.broker_ms, heard_at=0.0)
            self.candles.drain()

    def hole(self, start_ms: int, *, traded: bool) -> None:
        self.holes.begin(start_ms, "the feed's connection broke", traded=traded)
        self.holes.end(start_ms + 500, segments=["NSE_FO"], traded=traded)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def absent_store(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Has the driver fail as it does without a server, until undone."""

    def fail(*args: object, **options: object) -> None:
        raise AutoReconnect("connection refused")

    for name in ("aggregate", "insert_many", "find_one", "find", "bulk_write"):
        monkeypatch.setattr(Collection, name, fail)
    return monkeypatch


async def test_each_change_of_a_segment_is_recorded_once(bench: Bench) -> None:
    bench.pipeline.market_ms = 1_769_160_569_400
    bench.pipeline.segments = {"NSE_FO": "NORMAL_OPEN", "NSE_EQ": "NORMAL_OPEN"}
    await bench.recorder.step()
    await bench.recorder.step()
    bench.pipeline.segments = {"NSE_FO": "NORMAL_CLOSE", "NSE_EQ": "NORMAL_OPEN"}
    await bench.recorder.step()
    rows = [row async for row in MarketStatus.objects.order_by("segment", "id").values_list("segment", "status")]
    assert rows == [("NSE_EQ", "NORMAL_OPEN"), ("NSE_FO", "NORMAL_OPEN"), ("NSE_FO", "NORMAL_CLOSE")]


async def test_an_auction_is_recorded_from_when_it_began(bench: Bench) -> None:
    bench.pipeline.market_ms = 1_795_427_160_000
    for status, since_ms in (("CTS_CLOSE", 1_795_427_100_000), ("CTS_CLOSE", 1_795_427_100_000), ("CAS_LM_START", 1_795_427_400_000)):
        bench.pipeline.auctions = {"NSE_EQ:CAS": (status, since_ms)}
        await bench.recorder.step()
    assert [(row.segment, row.status, time_ms(row.since)) async for row in MarketStatus.objects.order_by("since")] == [
        ("NSE_EQ:CAS", "CTS_CLOSE", 1_795_427_100_000),
        ("NSE_EQ:CAS", "CAS_LM_START", 1_795_427_400_000),
    ]


async def test_holes_become_gaps_in_order_and_idle_ones_are_counted(bench: Bench) -> None:
    bench.hole(1_000, traded=True)
    bench.hole(2_000, traded=False)
    bench.hole(3_000, traded=True)
    await bench.recorder.step()
    assert await Gap.objects.acount() == 2
    assert (bench.holes.counts["gaps_total"], bench.holes.counts["holes_idle_total"], bench.holes.waiting) == (2, 1, [])


async def test_what_an_absent_store_did_not_take_is_recorded_when_it_is_back(
    bench: Bench, absent_store: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.hole(1_000, traded=True)
    bench.pipeline.segments = {"NSE_FO": "NORMAL_OPEN"}
    for _ in range(3):
        await bench.recorder.step()
    assert caplog.text.count("recording gaps and the market's state fails") == 1, "one line, and no end of the feed"
    assert len(bench.holes.waiting) == 1
    absent_store.undo()
    await bench.recorder.step()
    assert await Gap.objects.acount() == 1
    assert await MarketStatus.objects.acount() == 1
    assert bench.holes.waiting == []


async def test_finished_candles_come_into_the_store_with_what_the_ticks_had_made_of_them(bench: Bench) -> None:
    bench.minutes(3)
    await bench.recorder.step()
    rows = [row async for row in OHLC.objects.order_by("start").values_list("state", "close", "revision", "ticks", "built")]
    assert rows == [
        ("confirmed", 101.0, 0, 1, [100.0, 100.0, 100.0, 100.0, 0.0]),
        ("closed", 101.0, 0, 1, None),
        ("closed", 102.0, 0, 1, None),
    ]
    assert bench.candles.waiting == 0
    await bench.recorder.step()
    assert bench.candles.counts["candles_recorded_total"] == 3, "each once"


async def test_candles_wait_for_an_absent_store_and_the_newest_of_each_is_written(bench: Bench, absent_store: pytest.MonkeyPatch) -> None:
    bench.minutes(2)
    await bench.recorder.step()
    assert (bench.candles.waiting, bench.candles.counts["candles_recorded_total"]) == (2, 0)
    absent_store.undo()
    await bench.recorder.step()
    assert bench.candles.waiting == 0
    assert await OHLC.objects.acount() == 2


@pytest.mark.usefixtures("valkey")
async def test_a_gap_that_is_recorded_is_told_to_the_hubs_and_an_idle_hole_is_not(bench: Bench) -> None:
    batches = bus.batches()
    told: list[bus.BusBatch | bus.Notice] = []

    async def read() -> None:
        async for message in batches:
            told.append(message)

    reading = asyncio.create_task(read())
    async with asyncio.timeout(60):
        await batches.opened.wait()
    bench.hole(1_000, traded=False)
    bench.hole(2_000, traded=True)
    await bench.recorder.step()
    await auntil(lambda: told)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await batches.aclose()
    gap = await Gap.objects.aget()
    assert told == [bus.Notice([], [GapNotice(str(gap.pk), 0, 2_000, 2_500, "disconnected", "open", "", [], 0)])]
