"""A start after a kill: the minute that was forming is whole again, and market time is known."""

from __future__ import annotations

from pathlib import Path

from broker.candles import ShardCandles
from broker.hours import TradingHours
from broker.journal import Journal
from broker.warming import warm_up
from marketdata.domain.candle import MINUTE_MS
from tests.payloads import frame, option_feed
from tests.zones import ist

OPEN = ist("2026-11-23 09:15")
KEYS = {"NSE_FO|1": 1}


def journalled(folder: Path, moments: list[int]) -> int:
    """Journal a trade at each of these ms after the open, the price rising by 1; return the newest stamp."""
    journal = Journal(folder, shard=0, segment_bytes=1 << 24)
    journal.open()
    journal.instruments_add(KEYS, (OPEN + moments[0]) * 1000)
    for number, moment in enumerate(moments):
        feed = option_feed(last_price=100 + number, volume=75 * (number + 1), last_trade_ms=OPEN + moment)
        feed.fullFeed.marketFF.ClearField("marketOHLC")
        journal.append(frame({"NSE_FO|1": feed}, broker_ms=OPEN + moment + 40), (OPEN + moment + 60) * 1000)
        if number == 1:
            journal.append(b"\xff\xff garbage", (OPEN + moment + 61) * 1000)
    journal.finish()
    journal.close()
    return journal.last_us


def test_the_minute_that_was_forming_goes_on_where_it_was(tmp_path: Path) -> None:
    last_us = journalled(tmp_path, [50_000, 61_000, 75_000])
    candles = ShardCandles(TradingHours(), grace_ms=1500)
    assert warm_up(candles, tmp_path, last_us) == OPEN + 75_040
    assert [(each.candle.start_ms, each.candle.state) for each in candles.take(10)] == [(OPEN, "closed")], "for the store once more"
    candles.due = True
    closed, forming = candles.drain()
    assert (closed.start_ms, closed.state) == (OPEN, "closed"), "and for the hubs"
    assert forming[2:7] == (OPEN + MINUTE_MS, 101, 102, 101, 102)
    assert (forming.volume, forming.state, forming.ticks) == (150, "live", 2)


def test_only_the_journals_end_is_read(tmp_path: Path) -> None:
    last_us = journalled(tmp_path, [0, 600_000, 1_200_000])
    candles = ShardCandles(TradingHours(), grace_ms=1500)
    assert warm_up(candles, tmp_path, last_us) == OPEN + 1_200_040
    candles.due = True
    assert [(candle.start_ms - OPEN) // MINUTE_MS for candle in candles.drain()] == [20]
    assert candles.waiting == 0


def test_a_minute_of_which_only_the_end_is_read_is_left_as_it_was_and_counts_the_volume(tmp_path: Path) -> None:
    last_us = journalled(tmp_path, [0, 20_000, 40_000, 61_000, 165_000])
    candles = ShardCandles(TradingHours(), grace_ms=1500)
    warm_up(candles, tmp_path, last_us)
    told = [each.candle for each in candles.take(10)]
    assert [(candle.start_ms, candle.volume) for candle in told] == [(OPEN + MINUTE_MS, 75)], "the first one's open was not read"


def test_a_first_start_knows_nothing(tmp_path: Path) -> None:
    candles = ShardCandles(TradingHours(), grace_ms=1500)
    assert warm_up(candles, tmp_path, 0) == 0
    assert not candles.known
