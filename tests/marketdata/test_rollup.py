"""The roll-up: what MongoDB holds after it equals the law of `marketdata.domain.candle`, however the minutes arrived."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instruments.models import Instrument
from marketdata import services, store
from marketdata.domain.candle import (
    INTERVAL_MINUTES,
    MCX_OPEN_MS,
    MINUTE_MS,
    SESSION_OPEN_MS,
    STORED_INTERVALS,
    Anchors,
    Candle,
    candle_id,
    day_start_ms,
    fold_candles,
    interval_start_ms,
)

pytestmark = pytest.mark.django_db

DAY = day_start_ms(1_795_000_000_000)
OPEN = DAY + SESSION_OPEN_MS
COARSE = STORED_INTERVALS[1:]


def minute(instrument: int, start_ms: int, price: float = 100.0, *, state: str = "confirmed", volume: int = 10) -> Candle:
    return Candle(instrument, "1m", start_ms, price, price + 1, price - 1, price + 0.5, volume, None, state)


def make_instrument(identifier: int, segment: str) -> None:
    key = f"{segment}|{identifier}"
    Instrument.objects.create(
        id=identifier, identity=key, instrument_key=key, segment=segment, exchange=segment[:3], instrument_type="FUT",
        trading_symbol=key, name=key, active_from=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def stored(instrument: int, interval: str) -> list[Candle]:
    rows = store.candles_collection().find({"i": instrument, "n": interval}).sort("_id")
    return [store.candle_from_document(row) for row in rows]


def expected(candles: Iterable[Candle], interval: str, anchor_ms: int = SESSION_OPEN_MS) -> list[Candle]:
    return fold_candles(sorted(candles, key=lambda candle: candle.start_ms), interval, Anchors(anchor_ms))


def without_revision(candles: Iterable[Candle]) -> list[Candle]:
    return [candle._replace(revision=0) for candle in candles]


prices = st.integers(1, 200_000).map(lambda paise: paise / 20)
bars = st.builds(
    lambda at, four, volume, interest, state: (at, four, volume, interest, state),
    st.integers(0, 3 * 1440 - 1),
    st.lists(prices, min_size=4, max_size=4).map(sorted),
    st.integers(0, 10**9),
    st.none() | st.integers(0, 10**9).map(float),
    st.sampled_from(["closed", "confirmed", "backfilled", "live"]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(bars, max_size=60, unique_by=lambda part: part[0]), cuts=st.integers(1, 4), segment=st.sampled_from(["NSE_FO", "MCX_FO"])
)
def test_the_stored_roll_up_equals_the_law(parts: list[Any], cuts: int, segment: str) -> None:
    store.candles_collection().delete_many({})
    store.collection(services.WATERMARKS).delete_many({})
    Instrument.objects.all().delete()
    make_instrument(7, segment)
    anchor = MCX_OPEN_MS if segment == "MCX_FO" else SESSION_OPEN_MS
    candles = [
        Candle(7, "1m", DAY + at * MINUTE_MS, four[1], four[3], four[0], four[2], volume, interest, state)
        for at, four, volume, interest, state in parts
    ]
    for cut in range(cuts):  # in any order, a part at a time
        store.candles_write(candles[cut::cuts])
        services.candles_roll_up()
    for interval in COARSE:
        assert without_revision(stored(7, interval)) == expected(candles, interval, anchor)


@pytest.mark.parametrize("anchor", [SESSION_OPEN_MS, MCX_OPEN_MS])
@pytest.mark.parametrize(("finer", "interval"), list(zip(STORED_INTERVALS, COARSE, strict=False)))
def test_the_parts_of_a_candle_are_all_that_may_lie_in_it(finer: str, interval: str, anchor: int) -> None:
    for at in range(0, 1440, INTERVAL_MINUTES[finer]):
        start = interval_start_ms(DAY + at * MINUTE_MS, interval, anchor)
        parts = list(services._part_starts(start, finer, interval, anchor))
        assert interval_start_ms(DAY + at * MINUTE_MS, finer, anchor) in parts
        assert parts == sorted(set(parts))
        assert {interval_start_ms(part, interval, anchor) for part in parts} == {start}


def test_a_second_run_changes_nothing() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS, 100 + at) for at in range(90)])
    first = services.candles_roll_up()
    before = list(store.candles_collection().find().sort("_id"))
    second = services.candles_roll_up()
    assert (first.changed, first.complete) == (90, True)
    assert first.written == 18 + 6 + 2 + 1
    assert second.written == 0
    assert list(store.candles_collection().find().sort("_id")) == before


def test_a_corrected_minute_reaches_every_interval_and_raises_the_revision() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS, state="closed") for at in range(5)])
    services.candles_roll_up()
    store.candles_write([minute(1, OPEN + 2 * MINUTE_MS, 500.0)])
    services.candles_roll_up()
    for interval in COARSE:
        (candle,) = stored(1, interval)
        assert (candle.high, candle.low, candle.revision, candle.state) == (501.0, 99.0, 1, "closed")


def test_minutes_filled_in_days_later_are_seen() -> None:
    store.candles_write([minute(1, OPEN + 10 * 86_400_000)])
    services.candles_roll_up()
    store.candles_write([minute(2, OPEN, state="backfilled")])
    assert services.candles_roll_up().written == 4
    assert [candle.start_ms for candle in stored(2, "1d")] == [DAY]


def test_what_is_older_than_the_watermark_is_not_read_again() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(2)])
    for at, hours in ((0, 2), (1, 1)):
        identifier = candle_id(1, "1m", OPEN + at * MINUTE_MS)
        store.candles_collection().update_one({"_id": identifier}, {"$set": {"u": datetime.now(UTC) - timedelta(hours=hours)}})
    assert services.candles_roll_up().changed == 2
    store.candles_write([minute(1, OPEN + 2 * MINUTE_MS)])
    assert services.candles_roll_up().changed == 2  # the new one, and the last one before it, inside the overlap
    assert stored(1, "5m")[0].volume == 30


def test_a_clock_that_ran_ahead_does_not_blind_the_roll_up() -> None:
    store.candles_write([minute(1, OPEN)])
    store.candles_collection().update_many({}, {"$set": {"u": datetime.now(UTC) + timedelta(days=30)}})
    services.candles_roll_up()
    store.candles_write([minute(2, OPEN)])
    services.candles_roll_up()
    assert len(stored(2, "1d")) == 1


def test_a_clock_that_was_set_back_does_not_blind_the_roll_up() -> None:
    store.collection(services.WATERMARKS).insert_one({"_id": services.ROLL_UP, "u": datetime.now(UTC) + timedelta(hours=2)})
    store.candles_write([minute(1, OPEN)])
    assert services.candles_roll_up().written == 4
    assert services.candles_roll_up().changed == 1


def test_after_an_outage_it_catches_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "CHUNK_MINUTES", 50)
    monkeypatch.setattr(services, "CHUNK_BUCKETS", 7)
    for at in range(200):  # an own stamp each, as in life
        store.candles_write([minute(1, OPEN + at * MINUTE_MS, 100 + at)])
    stamps = iter(range(1000))
    for row in store.candles_collection().find({}, {"_id": 1}).sort("_id"):
        moment = datetime.now(UTC) - timedelta(hours=9) + timedelta(minutes=2 * next(stamps))
        store.candles_collection().update_one({"_id": row["_id"]}, {"$set": {"u": moment}})
    runs = 0
    while not services.candles_roll_up(seconds=0.0).complete:
        runs += 1
        assert runs < 20
    assert runs >= 3
    candles = [minute(1, OPEN + at * MINUTE_MS, 100 + at) for at in range(200)]
    for interval in COARSE:
        assert without_revision(stored(1, interval)) == expected(candles, interval)


def test_a_run_that_was_killed_between_levels_is_made_good_by_the_next() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(30)])
    services.candles_roll_up()
    store.candles_write([minute(1, OPEN + 3 * MINUTE_MS, 900.0)])
    buckets = [(1, interval_start_ms(OPEN + 3 * MINUTE_MS, "5m"))]
    services._write_derived(services._fold_stored(buckets, "1m", "5m", {}))  # and then the power went
    services.candles_roll_up()
    assert [candle.high for interval in COARSE for candle in stored(1, interval)[:1]] == [901.0] * 4


def test_the_roll_up_reads_by_indexes_only() -> None:
    generator = random.Random(1)
    store.candles_write(
        [minute(instrument, OPEN + at * MINUTE_MS, generator.uniform(90, 110)) for instrument in range(1, 21) for at in range(100)]
    )
    services.candles_roll_up()
    candles = store.candles_collection()
    since = datetime.now(UTC) + timedelta(seconds=1)
    explained = candles.find({"n": "1m", "u": {"$gte": since}}, {"u": 1}).sort("u", 1).explain()
    assert "COLLSCAN" not in str(explained)
    assert "'stage': 'SORT'" not in str(explained["queryPlanner"]["winningPlan"])
    assert explained["executionStats"]["totalDocsExamined"] == 0
    identifiers = [candle_id(1, "1m", OPEN + at * MINUTE_MS) for at in range(5)]
    explained = candles.find({"_id": {"$in": identifiers}}).sort("_id", 1).explain()
    assert "COLLSCAN" not in str(explained)
    assert explained["executionStats"]["totalDocsExamined"] == 5
