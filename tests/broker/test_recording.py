"""Recording on the real mongod: states of segments and holes, each until the store has it, over an absence of the store."""

from __future__ import annotations

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
from marketdata.models import Gap, MarketStatus

pytestmark = pytest.mark.django_db(transaction=True)


class Bench:
    """A recorder and what it records."""

    def __init__(self, folder: Path) -> None:
        self.pipeline, self.holes = Pipeline(), Holes(folder / "holes.json", shard=0)
        self.candles = ShardCandles(TradingHours(), grace_ms=1500)
        self.recorder = Recorder(self.pipeline, self.candles, self.holes, Report(shard=0), shard=0)

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

    for name in ("aggregate", "insert_many", "find_one"):
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
