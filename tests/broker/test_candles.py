"""A shard's candles between its frames, its publisher and its recorder: who trades when, and each finished one once into the store."""

from __future__ import annotations

import pytest

from broker import candles as module
from broker.candles import ShardCandles
from broker.hours import TradingHours
from broker.upstox.decode import Frame, decode
from marketdata.domain.candle import MINUTE_MS, Candle
from marketdata.domain.session import Calendar, Hours
from tests.payloads import frame, option_feed
from tests.zones import ist

DAY = ist("2026-11-23 00:00")
OPEN, CLOSE = ist("2026-11-23 09:15"), ist("2026-11-23 15:30")
KEYS = {"NSE_EQ|A": 1, "NSE_EQ|B": 2, "MCX_FO|C": 3}


class Bench:
    """Candles that are given frames of market time."""

    def __init__(self) -> None:
        self.candles = ShardCandles(TradingHours(), grace_ms=1500)
        self.stamp = 0

    def trade(self, at_ms: int, *keys: str, price: float = 100.0) -> None:
        """A trade of each, told 40 ms later, without a bar."""
        feeds = {key: option_feed(last_price=price, volume=75, last_trade_ms=at_ms) for key in keys}
        for feed in feeds.values():
            feed.fullFeed.marketFF.ClearField("marketOHLC")
        self.apply(decode(frame(feeds, broker_ms=at_ms + 40), KEYS))

    def info(self, at_ms: int, auctions: dict[str, tuple[str, int]] | None = None, **segments: str) -> None:
        """The market's statuses."""
        self.apply(Frame(at_ms, None, [], [], segments, (), auctions or {}))

    def apply(self, told: Frame) -> None:
        self.stamp += 8
        self.candles.apply(told, self.stamp, KEYS, told.broker_ms, heard_at=50.0)

    def told(self) -> list[tuple[int, str, int]]:
        """Instrument, state and minute of day of what changed."""
        self.candles.due = True
        return [(candle.instrument, candle.state, (candle.start_ms - OPEN) // MINUTE_MS) for candle in self.candles.drain()]

    def assert_adds_up(self) -> None:
        counts = self.candles.counts
        gone = sum(counts[f"candles_{name}_total"] for name in ("recorded", "overtaken", "unwritten"))
        assert counts["candles_finished_total"] == gone + self.candles.waiting


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_silence_closes_what_formed_as_market_time_goes_on(bench: Bench) -> None:
    assert not bench.candles.advance(1_000.0), "before the first frame there is no market time"
    bench.trade(OPEN + 30_000, "NSE_EQ|A")
    assert bench.candles.advance(50.0)
    assert bench.told() == [(1, "live", 0)]
    assert not bench.candles.advance(50.0 + 31.4)
    assert bench.candles.advance(50.0 + 31.5)
    assert bench.told() == [(1, "closed", 0)]


def test_forming_candles_go_only_when_they_are_due(bench: Bench) -> None:
    bench.trade(OPEN, "NSE_EQ|A")
    assert bench.candles.drain() == []
    assert bench.told() == [(1, "live", 0)]
    bench.trade(OPEN + 1, "NSE_EQ|A")
    assert bench.candles.drain() == [], "the next ones are not due yet"


def test_what_the_calendar_does_not_hold_is_no_candle_each_segment_by_its_own(bench: Bench) -> None:
    night = ist("2026-11-23 23:30")
    bench.candles.take_calendar(Calendar([Hours("NSE", DAY, OPEN, CLOSE), Hours("MCX", DAY, DAY + 9 * 3_600_000, night)]), ())
    bench.trade(CLOSE - 1, "NSE_EQ|A", "MCX_FO|C")
    bench.trade(CLOSE + 1, "NSE_EQ|A", "MCX_FO|C")
    assert sorted(bench.told()) == [(1, "live", 374), (3, "live", 374), (3, "live", 375)]
    assert bench.candles.in_session(99, CLOSE), "who knows nothing of an instrument filters nothing"


def test_only_shares_of_the_closing_auction_stop_with_its_beginning(bench: Bench) -> None:
    bench.candles.take_calendar(Calendar([Hours("NSE", DAY, OPEN, CLOSE)]), {"NSE_EQ|A"})
    stop = ist("2026-11-23 15:15")
    bench.trade(stop - 1, "NSE_EQ|A", "NSE_EQ|B")
    bench.info(stop, {"NSE_EQ:CAS": ("CTS_CLOSE", stop)})
    bench.told()
    bench.trade(stop + 1000, "NSE_EQ|A", "NSE_EQ|B")
    assert bench.told() == [(2, "live", 360)]


def test_a_segment_that_stops_trading_closes_its_minutes_and_no_others(bench: Bench) -> None:
    bench.info(OPEN, NSE_EQ="NORMAL_OPEN", MCX_FO="NORMAL_OPEN")
    bench.trade(OPEN + 30_000, "NSE_EQ|A", "NSE_EQ|B", "MCX_FO|C")
    bench.told()
    bench.info(OPEN + 40_000, NSE_EQ="NORMAL_CLOSE")
    assert sorted(bench.told()) == [(1, "closed", 0), (2, "closed", 0)]


def test_each_finished_candle_waits_for_the_store_once_with_its_newest_figures(bench: Bench) -> None:
    for minute in range(3):
        bench.trade(OPEN + minute * MINUTE_MS + 2_000, "NSE_EQ|A")
    bench.told()
    bench.trade(OPEN + MINUTE_MS + 5, "NSE_EQ|A", price=90)  # revises the minute that was closed
    bench.told()
    assert bench.candles.waiting == 2
    bench.assert_adds_up()
    taken = bench.candles.take(10)
    assert [(each.candle.low, each.candle.revision) for each in taken] == [(100, 0), (90, 1)]
    bench.trade(OPEN + 5, "NSE_EQ|A", price=80)
    bench.told()
    bench.candles.give_back()
    bench.assert_adds_up()
    assert [(each.candle.low, each.candle.revision) for each in bench.candles.take(10)] == [(90, 1), (80, 1)]
    bench.candles.written()
    assert bench.candles.waiting == 0
    assert bench.candles.counts["candles_recorded_total"] == 2
    assert bench.candles.counts["candles_overtaken_total"] == 2
    bench.assert_adds_up()


def test_past_the_bound_the_oldest_candle_is_dropped_and_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNWRITTEN", 3)
    for minute in range(8):
        bench.trade(OPEN + minute * MINUTE_MS + 2_000, "NSE_EQ|A")
    bench.told()
    assert bench.candles.counts["candles_unwritten_total"] == 4
    assert [(each.candle.start_ms - OPEN) // MINUTE_MS for each in bench.candles.take(10)] == [4, 5, 6]
    bench.assert_adds_up()


def test_a_replay_that_begins_anew_tells_its_minutes_anew(bench: Bench) -> None:
    noon = OPEN + 180 * MINUTE_MS
    for _ in range(2):
        bench.trade(OPEN, "NSE_EQ|A")
        bench.trade(noon, "NSE_EQ|A")
        bench.trade(noon + 2 * MINUTE_MS, "NSE_EQ|A")
        assert bench.told() == [(1, "closed", 0), (1, "closed", 180), (1, "live", 182)]


def test_what_is_followed_no_more_has_its_last_minute_closed_in_its_time_and_is_forgotten_then(bench: Bench) -> None:
    bench.trade(OPEN, "NSE_EQ|A", "NSE_EQ|B", price=100.0)
    bench.candles.forget({1})
    assert bench.told() == [(1, "live", 0), (2, "live", 0)]
    bench.trade(OPEN + 20_000, "NSE_EQ|A", price=90.0)  # it is back within the minute
    bench.candles.forget({1})
    bench.trade(OPEN + 62_000, "NSE_EQ|B")
    assert bench.told() == [(1, "closed", 0), (2, "closed", 0), (2, "live", 1)]
    bench.candles.forget({1})
    assert set(bench.candles.known) == {2}
    last = next(done.candle for done in bench.candles.take(10) if done.candle.instrument == 1)
    assert (last.open, last.low, last.close) == (100.0, 90.0, 90.0), "whole, not what came after it was back"


def test_the_brokers_bar_is_told_at_once(bench: Bench) -> None:
    bench.trade(OPEN + 1000, "NSE_EQ|A")
    bar = Candle(1, "1m", OPEN, 99, 101, 98, 100, 500, None, "confirmed")
    bench.apply(Frame(OPEN + MINUTE_MS, None, [], [bar], {}, ()))
    (told,) = bench.candles.drain()
    assert told == bar._replace(ticks=1, open_interest=12_000)
    (finished,) = bench.candles.take(10)
    assert finished.built == (100, 100, 100, 100, 0)
