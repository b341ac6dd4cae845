"""Ticks and candles in the real MongoDB: written once however often, read in order, by index."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.upstox.decode import decode
from marketdata import store
from marketdata.domain.candle import CERTAINTY, Candle, candle_id
from marketdata.domain.tick import NO_DEPTH, Tick, stamp_to_ms, tick_id
from marketdata.models import OHLC, MarketTick
from tests.instruments.explain import assert_by_index, profiled
from tests.payloads import frame, option_feed

pytestmark = pytest.mark.django_db
T0 = 1_769_160_540_000
STAMP = 191_323_769_400_000
MODEL_NAMES = {"last_trade_ms": "last_trade_time"}
WHOLE_NUMBERS = {"last_trade_ms", "last_quantity", "volume", "bid_quantity", "ask_quantity"}


def _documents(count: int, *, instrument: int = 7, step_ms: int = 10, from_ms: int = T0, moved_id: int = 0) -> list[bytes]:
    """Return ticks one after another; `moved_id` is added to their stamps."""
    (tick,) = decode(frame({"K": option_feed()}), {"K": instrument}).ticks
    return [store.tick_bson(tick, STAMP + moved_id + number * 8, from_ms + number * step_ms, 1) for number in range(count)]


@given(st.data())
def test_a_tick_is_the_bson_that_the_driver_would_make(data: st.DataObject) -> None:
    prices, whole = st.none() | st.floats(allow_nan=False), st.none() | st.integers(-(2**62), 2**62)
    values: dict[str, Any] = {name: data.draw(whole if name in WHOLE_NUMBERS else prices) for name in Tick._fields[2:-1]}
    tick = Tick(**{"instrument": 7, "rank": 3, "depth": NO_DEPTH, **values})
    columns = {field.name: field.db_column for field in MarketTick._meta.fields}
    traded_ms = values["last_trade_ms"]
    expected: dict[str | None, Any] = {
        columns[MODEL_NAMES.get(name, name)]: value for name, value in values.items() if name[:4] != "day_"
    } | {
        "_id": STAMP << 13 | 3,
        "i": 7,
        "k": 1,
        "t": DatetimeMS(T0),
        "r": DatetimeMS(stamp_to_ms(STAMP)),
        "lt": None if traded_ms is None else DatetimeMS(traded_ms),
    }
    assert bson.decode(store.tick_bson(tick, STAMP, T0, 1), CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)) == {
        name: value for name, value in expected.items() if value is not None
    }


def test_writing_a_batch_again_changes_nothing() -> None:
    documents = _documents(100)
    assert store.ticks_write(documents[:60]) == (60, 0)
    assert store.ticks_write(documents) == (40, 60)
    assert store.ticks_write(documents) == (0, 100)
    assert MarketTick.objects.count() == 100


def test_the_model_names_what_the_document_holds() -> None:
    store.ticks_write(_documents(1))
    tick = MarketTick.objects.get(pk=tick_id(STAMP, 0))
    assert (tick.instrument, tick.kind, tick.last_price, tick.last_quantity, tick.volume) == (7, 1, 101.5, 75, 750)
    assert (tick.previous_close, tick.average_traded_price, tick.open_interest, tick.implied_volatility) == (99.25, 100.75, 12_000, 0.125)
    assert (tick.delta, tick.theta, tick.gamma, tick.vega, tick.rho) == (0.51, -12.5, 0.0007, 9.25, 1.5)
    assert (tick.bid_price, tick.bid_quantity, tick.ask_quantity) == (101.4, 75, 150)
    assert (tick.total_buy_quantity, tick.total_sell_quantity) == (5000, 6000)
    assert store.time_ms(tick.time) == T0
    assert tick.last_trade_time is not None
    assert store.time_ms(tick.last_trade_time) == 1_769_160_569_162


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_give_each_tick_once_in_order_also_within_one_millisecond(newest_first: bool) -> None:
    documents = _documents(50, step_ms=0) + _documents(50, instrument=8, moved_id=1)
    documents += _documents(30, step_ms=0, from_ms=T0 + 5, moved_id=2**27)
    random.Random(3).shuffle(documents)
    store.ticks_write(documents)
    got: list[int] = []
    after = None
    while page := store.ticks_read(7, from_ms=T0, to_ms=T0 + 10, after=after, limit=7, newest_first=newest_first):
        got.extend(row["_id"] for row in page)
        after = got[-1]
    expected = sorted((store.time_ms(row["t"]), row["_id"]) for row in map(bson.decode, documents) if row["i"] == 7)
    assert got == [identifier for _, identifier in (reversed(expected) if newest_first else expected)]
    assert len(got) == 80


def test_a_page_mark_that_has_expired_ends_a_walk_backwards() -> None:
    store.ticks_write(_documents(10))
    assert store.ticks_read(7, from_ms=T0, to_ms=T0 + 1000, after=1, limit=5, newest_first=True) == []
    assert len(store.ticks_read(7, from_ms=T0, to_ms=T0 + 1000, after=1, limit=5)) == 5


def test_a_range_takes_its_start_and_leaves_its_end() -> None:
    store.ticks_write(_documents(10))
    rows = store.ticks_read(7, from_ms=T0 + 20, to_ms=T0 + 50, limit=100)
    assert [store.time_ms(row["t"]) - T0 for row in rows] == [20, 30, 40]


def test_reading_ticks_examines_no_more_than_it_returns() -> None:
    store.ticks_write(_documents(500) + _documents(500, instrument=8, moved_id=1))
    with profiled(store.ticks_collection().name) as entries:
        page = store.ticks_read(7, from_ms=T0, to_ms=T0 + 10_000, limit=50)
        store.ticks_read(7, from_ms=T0, to_ms=T0 + 10_000, after=page[-1]["_id"], limit=50, newest_first=True)
    assert_by_index(entries, at_most=100)


def test_reading_candles_examines_no_more_than_it_returns() -> None:
    store.candles_write([_candle(minute)._replace(instrument=number) for minute in range(300) for number in (6, 7, 8)])
    with profiled(store.candles_collection().name) as entries:
        assert len(store.candles_read(7, "1m", from_ms=T0, to_ms=T0 + 300 * 60_000, limit=50)) == 50
        assert len(store.candles_read(7, "1m", from_ms=T0, to_ms=T0 + 300 * 60_000, limit=50, newest_first=True)) == 50
        assert store.candle_newest_ms(7, "1m") == T0 + 299 * 60_000
    assert_by_index(entries, at_most=50)
    assert store.candle_newest_ms(5, "1m") is None
    assert store.candle_newest_ms(7, "5m") is None


def _candle(minute: int, *, close: float = 101, state: str = "confirmed", volume: int = 10, interval: str = "1m") -> Candle:
    return Candle(7, interval, T0 + minute * 60_000, 100, 102, 99, close, volume, 5.0, state)


def test_a_candle_written_again_changes_nothing_and_another_value_is_a_revision() -> None:
    assert store.candles_write([_candle(0), _candle(1)]) == 2
    assert store.candles_write([_candle(0), _candle(1)]) == 0
    assert store.candles_write([_candle(1, close=103)]) == 1
    assert [(row.close, row.revision) for row in OHLC.objects.order_by("start")] == [(101, 0), (103, 1)]


def test_a_less_certain_candle_never_replaces_a_more_certain_one() -> None:
    store.candles_write([_candle(0, close=101, state="closed")])
    store.candles_write([_candle(0, close=105, state="confirmed")])
    store.candles_write([_candle(0, close=101, state="closed")])
    (candle,) = store.candles_read(7, "1m", from_ms=T0, to_ms=T0 + 60_000, limit=10)
    assert (candle.close, candle.state, candle.revision) == (105, "confirmed", 1)


def _stored(minute: int = 0) -> OHLC:
    return OHLC.objects.get(pk=candle_id(7, "1m", T0 + minute * 60_000))


def test_a_state_that_becomes_more_certain_is_no_revision_but_moves_the_mark_of_the_roll_up() -> None:
    store.candles_write([_candle(0, state="closed")])
    closed = _stored()
    assert store.candles_write([_candle(0, state="closed")]) == 0
    assert _stored().updated_at == closed.updated_at
    assert store.candles_write([_candle(0, state="confirmed")]) == 1
    assert (_stored().state, _stored().revision) == ("confirmed", 0)
    assert _stored().updated_at != closed.updated_at


def test_a_given_revision_counts_where_it_is_the_higher_one() -> None:
    assert store.candles_write([_candle(0)._replace(revision=3)]) == 1
    assert store.candles_write([_candle(0)._replace(revision=2)]) == 0
    assert _stored().revision == 3
    assert store.candles_write([_candle(0)._replace(revision=5)]) == 1
    assert store.candles_write([_candle(0, close=100)._replace(revision=1)]) == 1
    assert (_stored().revision, _stored().close) == (6, 100)


def test_open_interest_is_that_of_the_minute_s_ticks_whoever_writes_first() -> None:
    by_ticks, by_bar = _candle(0)._replace(ticks=4, open_interest=500.0), _candle(0)._replace(open_interest=700.0)
    for order in ((by_ticks, by_bar, by_ticks), (by_bar, by_ticks, by_bar)):
        OHLC.objects.all().delete()
        for candle in order:
            store.candles_write([candle])
        assert _stored().open_interest == 500.0
    assert store.candles_write([by_bar]) == 0, "nothing for the roll-up to look at again"
    store.candles_write([_candle(1, state="closed")._replace(ticks=2, open_interest=None), _candle(1)])
    assert _stored(1).open_interest == 5.0, "ticks that said none leave the bar's"


def test_what_ticks_had_made_stays_and_comes_also_late() -> None:
    built = (100.0, 102.0, 99.0, 101.0, 9.0)
    store.candles_write([_candle(0, close=103), _candle(1)])  # the writer of bars was quicker than the feed's own
    late = _candle(0, state="closed")._replace(ticks=12, open_interest=9.0)
    assert store.candles_write([late], {candle_id(7, "1m", T0): built}) == 1
    assert store.candles_write([_candle(0, close=103)._replace(open_interest=None)]) == 0
    assert store.candles_write([late._replace(ticks=13)]) == 0
    candle = _stored()
    assert (candle.close, candle.state, candle.revision, candle.open_interest, candle.ticks) == (103, "confirmed", 0, 5.0, 12)
    assert candle.built == list(built)
    assert (_stored(1).ticks, _stored(1).built) == (None, None)


written = st.builds(
    lambda minute, close, state, revision, ticks: _candle(minute, close=close, state=state)._replace(revision=revision, ticks=ticks),
    st.integers(0, 1), st.sampled_from([100, 101]), st.sampled_from(["closed", "backfilled", "confirmed"]), st.integers(0, 2),
    st.none() | st.integers(1, 3),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(candles=st.lists(written, max_size=8))
def test_one_write_of_many_is_as_many_writes_of_one(candles: list[Candle]) -> None:
    def stored() -> list[Candle]:
        return store.candles_read(7, "1m", from_ms=T0, to_ms=T0 + 120_000, limit=10)

    store.candles_collection().delete_many({})
    for candle in candles:
        store.candles_write([candle])
    one_by_one = stored()
    store.candles_collection().delete_many({})
    store.candles_write(candles)
    assert stored() == one_by_one
    for candle in one_by_one:
        told = [row for row in candles if row.start_ms == candle.start_ms]
        most = max(told, key=lambda row: CERTAINTY[row.state])
        last = [row for row in told if row.state == most.state][-1]
        assert (candle.state, candle.close) == (last.state, last.close)
        assert candle.revision >= last.revision


def test_writers_that_race_lose_no_change_and_double_none() -> None:
    writers, minutes, start = 6, 150, Barrier(6)

    def write(number: int) -> int:
        try:
            start.wait(60)
            return store.candles_write([_candle(minute, close=number) for minute in range(minutes)])
        finally:
            connection.close()

    with ThreadPoolExecutor(writers) as pool:
        changed = list(pool.map(write, range(writers)))
    rows = OHLC.objects.all()
    assert sum(changed) == writers * minutes  # each of the values was the newest once
    assert [row.revision for row in rows] == [writers - 1] * minutes


def test_the_most_certain_of_racing_writers_stays() -> None:
    states = ["confirmed", "closed", "backfilled", "closed", "confirmed", "backfilled"]
    start = Barrier(len(states))

    def write(number: int) -> None:
        try:
            start.wait(60)
            for minute in range(100):
                store.candles_write([_candle(minute, close=float(CERTAINTY[states[number]]), state=states[number])])
        finally:
            connection.close()

    with ThreadPoolExecutor(len(states)) as pool:
        list(pool.map(write, range(len(states))))
    assert {(row.state, row.close) for row in OHLC.objects.all()} == {("confirmed", 3.0)}
    assert OHLC.objects.filter(revision__gt=0).exists()  # they did meet


def test_candles_of_other_instruments_and_intervals_do_not_leak_in() -> None:
    store.candles_write([_candle(0), _candle(0)._replace(instrument=8), _candle(0, interval="5m")])
    assert len(store.candles_read(7, "1m", from_ms=0, to_ms=2**45, limit=10)) == 1
