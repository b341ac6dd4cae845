"""Minutes: what ticks make of them is a function of the set of updates; what they may still change when they are finished."""

from __future__ import annotations

from datetime import date, datetime
from itertools import groupby
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.domain.candle import MINUTE_MS, Candle
from marketdata.domain.minutes import Changes, Finished, MinuteBuilder
from marketdata.domain.tick import NO_DEPTH, Tick
from tests.zones import IST, ist

T0 = ist("2025-12-15 09:15")
LATER = T0 + 400 * 86_400_000
DAY = 86_400_000


class Frame(NamedTuple):
    """What the builder reads of a frame."""

    broker_ms: int
    ticks: list[Tick]
    bars: list[Candle]


def tick(
    traded_ms: int | None,
    price: float | None,
    volume: int | None = None,
    *,
    instrument: int = 1,
    rank: int = 0,
    open_interest: float | None = None,
    high: float | None = None,
    low: float | None = None,
) -> Tick:
    """An update with only what a candle is made of."""
    nothing: dict[str, Any] = dict.fromkeys(Tick._fields)
    return Tick(
        **nothing
        | {
            "instrument": instrument, "rank": rank, "last_trade_ms": traded_ms, "last_price": price, "volume": volume,
            "open_interest": open_interest, "day_high": high, "day_low": low, "depth": NO_DEPTH,
        }
    )  # fmt: skip


def bar(start_ms: int, *values: float, instrument: int = 1) -> Candle:
    """The broker's bar of a minute."""
    first, high, low, last, volume = values
    return Candle(instrument, "1m", start_ms, first, high, low, last, int(volume), None, "confirmed")


class Bench:
    """A builder, the stamps of what it is given, and all that it has told."""

    def __init__(self, builder: MinuteBuilder | None = None) -> None:
        self.builder = builder or MinuteBuilder(lambda instrument, minute_ms: True)
        self.stamp = 8
        self.told: list[Finished] = []

    def trade(self, traded_ms: int, price: float, volume: int | None = None, broker_ms: int | None = None, **more: Any) -> None:
        """Give one update, in a frame of its own, 40 ms after its trade."""
        self.stamp += 8
        self.builder.apply(Frame(broker_ms or traded_ms + 40, [tick(traded_ms, price, volume, **more)], []), self.stamp)

    def confirm(self, *bars: Candle) -> None:
        """Give the broker's bars."""
        self.builder.apply(Frame(0, [], list(bars)), 8)

    def finish(self, market_ms: int = LATER) -> list[Finished]:
        """Let market time pass and return what is told as finished."""
        self.builder.advance(market_ms)
        told = self.builder.drain().finished
        self.told += told
        return told

    def candle(self) -> Candle:
        """Finish the one candle that there is."""
        (told,) = self.finish()
        return told.candle


def test_a_minute_is_live_then_closed_after_the_grace_then_confirmed() -> None:
    bench = Bench()
    bench.trade(T0 + 1_000, 100, 500)
    bench.trade(T0 + 2_000, 103, 700, open_interest=9.0)
    forming = Candle(1, "1m", T0, 100, 103, 100, 103, 200, 9.0, "live", 0, 2)
    assert bench.builder.drain() == Changes([], [forming])
    bench.builder.advance(T0 + MINUTE_MS + 1_499)
    assert bench.builder.drain() == Changes([], [])
    closed = forming._replace(state="closed")
    assert bench.finish(T0 + MINUTE_MS + 1_500) == [Finished(closed, None)]
    bench.confirm(bar(T0, 100, 103, 100, 103, 200))
    assert bench.finish() == [Finished(closed._replace(state="confirmed"), (100, 103, 100, 103, 200))]
    assert dict(bench.builder.counts) == {
        "candles_closed_total": 1, "candles_confirmed_total": 1, "candles_revised_total": 0, "candle_late_total": 0,
    }  # fmt: skip


def test_a_bar_within_the_grace_confirms_at_once_and_without_a_revision() -> None:
    bench = Bench()
    bench.trade(T0 + 1_000, 100, 500)
    bench.confirm(bar(T0, 99, 105, 98, 101, 900))
    assert bench.builder.drain().finished == [
        Finished(Candle(1, "1m", T0, 99, 105, 98, 101, 900, None, "confirmed", 0, 1), (100, 100, 100, 100, 0))
    ]
    assert bench.finish() == []


def test_a_bar_that_comes_with_the_next_trade_an_hour_later_confirms_what_was_told() -> None:
    bench = Bench(MinuteBuilder(lambda instrument, minute_ms: True, horizon_ms=15 * MINUTE_MS))
    bench.trade(T0, 100, 500)
    bench.finish(T0 + 60 * MINUTE_MS)
    next_ms = T0 + 60 * MINUTE_MS
    bench.builder.apply(Frame(next_ms, [tick(next_ms, 101, 600)], [bar(T0, 100, 101, 100, 100, 0)]), 80)
    told = bench.builder.drain().finished
    assert [(each.candle.start_ms, each.candle.state, each.candle.revision, each.built) for each in told] == [
        (T0, "confirmed", 1, (100, 100, 100, 100, 0)),
    ]  # fmt: skip


def test_each_other_bar_is_a_further_revision_and_the_same_bar_is_none() -> None:
    bench = Bench()
    bench.trade(T0 + 1_000, 100, 500)
    bench.finish(T0 + 2 * MINUTE_MS)
    for high in (100, 105, 105, 106):
        bench.confirm(bar(T0, 100, high, 100, 100, 0))
        bench.finish()
    assert [(each.candle.state, each.candle.revision, each.candle.high) for each in bench.told] == [
        ("closed", 0, 100), ("confirmed", 0, 100), ("confirmed", 1, 105), ("confirmed", 2, 106),
    ]  # fmt: skip
    assert bench.builder.counts["candles_revised_total"] == 2
    assert bench.builder.counts["candles_confirmed_total"] == 1


def test_a_bar_of_a_minute_without_ticks_is_a_candle_and_says_so() -> None:
    bench = Bench()
    bench.confirm(bar(T0, 1, 2, 0.5, 1.5, 30))
    assert bench.finish() == [Finished(Candle(1, "1m", T0, 1, 2, 0.5, 1.5, 30, None, "confirmed", 0, None), None)]


def test_a_late_tick_revises_a_closed_candle_and_never_a_confirmed_one() -> None:
    bench = Bench()
    bench.trade(T0 + 1_000, 100, 500)
    bench.trade(T0 + 61_000, 100, 600)
    bench.finish(T0 + 3 * MINUTE_MS)
    bench.trade(T0 + 59_000, 90, 550)
    told = bench.finish()
    assert [(each.candle.start_ms, each.candle.revision, each.candle.low, each.candle.volume) for each in told] == [
        (T0, 1, 90, 50),
        (T0 + MINUTE_MS, 1, 100, 50),
    ], "the later minute's volume begins where the earlier one ends"
    bench.confirm(bar(T0, 100, 100, 90, 90, 50))
    bench.finish()
    bench.trade(T0 + 59_500, 80, 560)
    assert [each.candle[2:] for each in bench.finish()] == [
        (T0, 100, 100, 90, 90, 50, None, "confirmed", 1, 3),
        (T0 + MINUTE_MS, 100, 100, 100, 100, 40, None, "closed", 2, 1),
    ], "its figures stay; that there was another trade is told"


def test_no_trade_is_no_candle() -> None:
    bench = Bench()
    bench.builder.apply(Frame(T0 + 1, [tick(None, None), tick(None, 5.0), tick(T0, None, 500)], []), 8)
    assert bench.finish() == []
    assert bench.builder.drain() == Changes([], [])


def test_extremes_of_the_day_count_where_they_moved_within_the_minute() -> None:
    bench = Bench()
    bench.trade(T0, 100, high=110, low=90)
    bench.trade(T0 + 30_000, 101, high=110, low=90)
    bench.trade(T0 + 61_000, 100, high=120, low=80)  # perhaps of the minute before, between its last update and its end
    bench.trade(T0 + 62_000, 101, high=121, low=80)
    bench.trade(T0 + 121_000, 100, high=121, low=80)
    bench.trade(T0 + 122_000, 101, high=121, low=79)
    assert [each.candle[3:7] for each in bench.finish()] == [(100, 101, 100, 101), (100, 121, 100, 101), (100, 101, 79, 101)]


def test_volume_is_the_days_change_over_silent_minutes_and_from_nothing_at_the_sessions_first() -> None:
    bench = Bench(MinuteBuilder(lambda instrument, minute_ms: minute_ms >= T0))
    bench.trade(T0 + 1_000, 100, 500)
    bench.trade(T0 + 2 * MINUTE_MS, 100, 800)
    assert [each.candle.volume for each in bench.finish()] == [500, 300]
    bench.trade(T0 + DAY + 5 * MINUTE_MS, 100, 50)
    bench.trade(T0 + DAY + 5 * MINUTE_MS + 1, 100, 70)
    assert bench.candle().volume == 20, "another day, and not its first minute: what was traded before is not known"


def test_an_index_has_no_volume() -> None:
    bench = Bench()
    bench.trade(T0, 25_000)
    bench.trade(T0 + 1, 25_001)
    assert bench.candle().volume == 0


@pytest.mark.parametrize(("minutes", "volume"), [(0, 300), (1, 300), (2, None), (90, None)])
def test_a_trade_of_long_ago_gives_no_candle_but_the_volume_to_count_from(minutes: int, volume: int | None) -> None:
    bench = Bench()
    bench.trade(T0, 95, 500, broker_ms=T0 + minutes * MINUTE_MS + 1)
    bench.trade(T0 + 100 * MINUTE_MS, 100, 900)
    told = bench.finish()
    assert [each.candle.start_ms for each in told] == [T0] * (minutes < 2) + [T0 + 100 * MINUTE_MS]
    assert told[-1].candle.volume == 400


def test_minutes_outside_the_session_give_no_candle_and_are_asked_for_once() -> None:
    asked = []

    def in_session(instrument: int, minute_ms: int) -> bool:
        asked.append((instrument, minute_ms))
        return minute_ms < T0 + MINUTE_MS

    bench = Bench(MinuteBuilder(in_session))
    for second in range(0, 180, 10):
        bench.trade(T0 + second * 1000, 100 + second, 500 + second)
    bench.confirm(bar(T0 + MINUTE_MS, 1, 1, 1, 1, 1), bar(T0, 100, 150, 100, 150, 50))
    assert [each.candle.start_ms for each in bench.finish()] == [T0]
    assert asked.count((1, T0 + MINUTE_MS)) == 1
    assert asked.count((1, T0 + 2 * MINUTE_MS)) == 1


def test_what_trades_no_more_is_closed_without_waiting() -> None:
    bench = Bench()
    bench.trade(T0, 100, instrument=1)
    bench.trade(T0, 200, instrument=2)
    bench.builder.close({1})
    assert [each.candle.instrument for each in bench.builder.drain().finished] == [1]
    assert [each.candle.instrument for each in bench.finish()] == [2]


def test_what_is_forgotten_forms_no_more_and_what_is_finished_is_told() -> None:
    bench = Bench()
    bench.trade(T0, 100)
    bench.builder.advance(T0 + 2 * MINUTE_MS)
    bench.trade(T0 + 2 * MINUTE_MS, 101)
    bench.builder.forget({1, 2})
    changes = bench.builder.drain()
    assert [each.candle.start_ms for each in changes.finished] == [T0]
    assert changes.forming == []
    assert bench.finish() == []


def test_forming_candles_wait_until_they_are_asked_for() -> None:
    bench = Bench()
    bench.trade(T0, 100)
    assert bench.builder.drain(forming=False) == Changes([], [])
    bench.trade(T0 + 1, 101)
    assert [candle.close for candle in bench.builder.drain().forming] == [101]
    assert not bench.builder.waiting


def test_beyond_the_horizon_updates_are_counted_and_memory_is_let_go() -> None:
    bench = Bench(MinuteBuilder(lambda instrument, minute_ms: True, horizon_ms=15 * MINUTE_MS))
    for minute in range(100):
        bench.trade(T0 + minute * MINUTE_MS, 100, 500 + minute)
        bench.finish(T0 + minute * MINUTE_MS)
    assert len(bench.builder._minutes[1]) <= 17
    bench.trade(T0 + 84 * MINUTE_MS + 1, 90, 584)
    bench.trade(T0 + 82 * MINUTE_MS + 1, 90, 582)
    bench.trade(T0, 95, 500, broker_ms=T0 + 99 * MINUTE_MS)  # only the book: that trade was known in its time
    assert bench.builder.counts["candle_late_total"] == 1
    assert [(each.candle.start_ms, each.candle.revision) for each in bench.finish()] == [
        (T0 + 84 * MINUTE_MS, 1), (T0 + 98 * MINUTE_MS, 0), (T0 + 99 * MINUTE_MS, 0),
    ]  # fmt: skip
    bench.confirm(bar(T0, 1, 1, 1, 1, 1))
    assert bench.candle().start_ms == T0, "a bar that comes so late is told all the same"


# --- any order, repetition and batching -----------------------------------------------------------------------------------


class Update(NamedTuple):
    """One update and the frame that it came in."""

    stamp: int
    broker_ms: int
    tick: Tick


def session(instrument: int, minute_ms: int) -> bool:
    """Six minutes of trading from T0, for instrument 2 one later; the same on the next day."""
    return 0 <= (minute_ms - T0) // MINUTE_MS % 1440 - (instrument - 1) < 6


def indian_day(time_ms: int) -> date:
    """The date in India, by the standard library."""
    return datetime.fromtimestamp(time_ms / 1000, IST).date()


def expected(updates: list[Update]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Every candle by the rules as they are written down: sort and group, over the whole set."""
    candles = {}
    unique = {(each.stamp, each.tick.rank): each for each in updates}.values()
    traded = [each for each in unique if each.tick.last_trade_ms is not None]
    ordered = sorted(traded, key=lambda each: (each.tick.instrument, each.tick.last_trade_ms, each.stamp, each.tick.rank))
    for (instrument, number), group in groupby(ordered, key=lambda each: (each.tick.instrument, each.tick.last_trade_ms // MINUTE_MS)):  # type: ignore[operator]
        all_of_it = list(group)
        fresh = [
            each.tick
            for each in all_of_it
            if each.tick.last_price is not None and (not each.broker_ms or -1 <= number - each.broker_ms // MINUTE_MS <= 1)
        ]
        start = number * MINUTE_MS
        if not session(instrument, start) or not fresh:
            continue
        prices = [float(each.last_price or 0) for each in fresh]
        highs = [each.day_high for each in fresh if each.day_high is not None]
        lows = [each.day_low for each in fresh if each.day_low is not None]
        before = [
            each.tick.volume
            for each in traded
            if each.tick.instrument == instrument
            and each.tick.volume
            and (each.tick.last_trade_ms or 0) < start
            and indian_day(each.tick.last_trade_ms or 0) == indian_day(start)
        ]
        volumes = [each.tick.volume for each in all_of_it if each.tick.volume]
        base = max(before) if before else 0 if not session(instrument, start - MINUTE_MS) else min(volumes, default=0)
        candles[instrument, start] = (
            prices[0],
            max([*prices, *(highs if highs and max(highs) > min(highs) else [])]),
            min([*prices, *(lows if lows and max(lows) > min(lows) else [])]),
            prices[-1],
            max(max(volumes, default=0) - base, 0),
            fresh[-1].open_interest,
            len({each.last_trade_ms for each in fresh}),
        )
    return candles


prices = st.sampled_from([99.5, 100.0, 100.05, 101.0])
figures = st.tuples(
    st.integers(-2, 9) | st.integers(1438, 1445),
    st.sampled_from([0, 1, 20_000, 59_999]),
    prices | st.none(),
    st.integers(0, 6).map(lambda lots: lots * 75) | st.none(),
    st.sampled_from([None, 10.0, 20.0]),
    st.sampled_from([None, 101.0, 101.5]),
    st.sampled_from([None, 99.0, 99.5]),
    st.sampled_from([0, 40, 40, 40, 50_000, 3_600_000, -1]),
)


@st.composite
def frames(draw: st.DrawFn) -> list[list[Update]]:
    """Frames of one or two instruments, each with its own stamp."""
    made = []
    for number in range(draw(st.integers(1, 14))):
        updates = []
        for instrument in draw(st.sampled_from([(1,), (2,), (1, 2)])):
            minute, offset, price, volume, interest, high, low, lag = draw(figures)
            traded_ms = T0 + minute * MINUTE_MS + offset
            update = tick(
                traded_ms if draw(st.integers(0, 9)) else None, price, volume,
                instrument=instrument, rank=instrument - 1, open_interest=interest, high=high, low=low,
            )  # fmt: skip
            updates.append((update, 0 if lag < 0 else traded_ms + lag))
        made.append([Update((number + 1) * 8, updates[0][1], update) for update, _ in updates])
    return made


def play(deliveries: list[list[Update]], data: st.DataObject, bars: dict[int, Candle]) -> dict[tuple[int, int], Candle]:
    """Give the deliveries in this order, with market time going on and drains in between; return what was told at last."""
    builder = MinuteBuilder(session)
    told: dict[tuple[int, int], Candle] = {}

    def drain() -> None:
        for candle, _ in builder.drain(forming=data.draw(st.booleans())).finished:
            key = candle.instrument, candle.start_ms
            assert candle != told.get(key), "told once"
            if key in told:
                assert candle.revision - told[key].revision == (candle[3:8] != told[key][3:8])
            told[key] = candle

    market_ms = T0
    for number, delivery in enumerate(deliveries):
        builder.apply(
            Frame(delivery[0].broker_ms, [each.tick for each in delivery], [bars[number]] if number in bars else []), delivery[0].stamp
        )
        if data.draw(st.integers(0, 2)) == 0:
            market_ms += data.draw(st.sampled_from([0, 30_000, 61_500, DAY]))
            builder.advance(market_ms)
            drain()
    builder.advance(LATER)
    drain()
    builder.drain()
    return told


@settings(max_examples=150)
@given(frames(), st.data())
def test_any_order_repetition_and_batching_gives_the_same_finished_candles(made: list[list[Update]], data: st.DataObject) -> None:
    whole = [each for frame in made for each in frame]
    split = [[each] for each in whole] if data.draw(st.booleans()) else made
    deliveries = data.draw(st.permutations(split + data.draw(st.lists(st.sampled_from(split), max_size=4))))
    told = play(list(deliveries), data, {})
    assert {key: (*candle[3:9], candle.ticks) for key, candle in told.items()} == expected(whole)
    assert {candle.state for candle in told.values()} <= {"closed"}


@settings(max_examples=60)
@given(frames(), st.data())
def test_whenever_its_bar_comes_a_candle_ends_as_the_bar_and_the_others_as_without(made: list[list[Update]], data: st.DataObject) -> None:
    deliveries = data.draw(st.permutations(made))
    minutes = data.draw(st.lists(st.integers(-1, 7), unique=True, max_size=len(made)))
    bars = {number: bar(T0 + minute * MINUTE_MS, 1, 4, 0.5, 2, 75 * minute) for number, minute in enumerate(minutes)}
    told = play(list(deliveries), data, bars)
    confirmed = {(1, each.start_ms): each[3:8] for each in bars.values() if session(1, each.start_ms)}
    plain = {key: values[:5] for key, values in expected([each for frame in made for each in frame]).items()}
    assert {key: candle[3:8] for key, candle in told.items()} == plain | confirmed
    assert {key for key, candle in told.items() if candle.state == "confirmed"} == set(confirmed)
