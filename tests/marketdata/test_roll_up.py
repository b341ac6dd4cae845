"""The roll-up: what MongoDB holds after it equals the law of `marketdata.domain.candle`, however the minutes arrived."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instruments.models import Instrument
from marketdata import roll_up, store
from marketdata.calendar import calendar_forget, sessions_record
from marketdata.domain.candle import (
    CERTAINTY,
    DAY_MS,
    MCX_OPEN_MS,
    MINUTE_MS,
    SESSION_OPEN_MS,
    STORED_INTERVALS,
    Anchors,
    Candle,
    candle_id,
    day_start_ms,
    fold_candles,
)
from marketdata.domain.session import Hours
from tests.instruments.explain import profiled
from tests.zones import host_zone  # noqa: F401

pytestmark = pytest.mark.django_db

DAY = day_start_ms(1_795_000_000_000)
OPEN = DAY + SESSION_OPEN_MS
COARSE = STORED_INTERVALS[1:]


@pytest.fixture(autouse=True)
def _no_days_of_other_tests() -> Iterator[None]:
    calendar_forget()
    yield
    calendar_forget()


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
    folded = fold_candles(sorted(candles, key=lambda candle: candle.start_ms), interval, Anchors(anchor_ms))
    if interval == "1d":  # only the broker's own daily bar makes a day certain
        folded = [candle._replace(state=min(candle.state, "closed", key=CERTAINTY.__getitem__)) for candle in folded]
    return folded


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
    store.collection(roll_up.WATERMARKS).delete_many({})
    Instrument.objects.all().delete()
    make_instrument(7, segment)
    anchor = MCX_OPEN_MS if segment == "MCX_FO" else SESSION_OPEN_MS
    candles = [
        Candle(7, "1m", DAY + at * MINUTE_MS, four[1], four[3], four[0], four[2], volume, interest, state)
        for at, four, volume, interest, state in parts
    ]
    for cut in range(cuts):  # in any order, a part at a time
        store.candles_write(candles[cut::cuts])
        roll_up.candles_roll_up()
    for interval in COARSE:
        assert without_revision(stored(7, interval)) == expected(candles, interval, anchor)


def test_a_second_run_changes_nothing() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS, 100 + at) for at in range(90)])
    first = roll_up.candles_roll_up()
    before = list(store.candles_collection().find().sort("_id"))
    second = roll_up.candles_roll_up()
    assert (first.changed, first.complete) == (90, True)
    assert first.written == 18 + 6 + 2 + 1
    assert second.written == 0
    assert list(store.candles_collection().find().sort("_id")) == before


def test_a_corrected_minute_reaches_every_interval_and_raises_the_revision() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS, state="closed") for at in range(5)])
    roll_up.candles_roll_up()
    store.candles_write([minute(1, OPEN + 2 * MINUTE_MS, 500.0)])
    roll_up.candles_roll_up()
    for interval in COARSE:
        (candle,) = stored(1, interval)
        assert (candle.high, candle.low, candle.revision, candle.state) == (501.0, 99.0, 1, "closed")


def test_minutes_filled_in_days_later_are_seen() -> None:
    store.candles_write([minute(1, OPEN + 10 * 86_400_000)])
    roll_up.candles_roll_up()
    store.candles_write([minute(2, OPEN, state="backfilled")])
    assert roll_up.candles_roll_up().written == 4
    assert [candle.start_ms for candle in stored(2, "1d")] == [DAY]


@pytest.mark.usefixtures("host_zone")
def test_what_is_older_than_the_watermark_is_not_read_again() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(2)])
    for at, hours in ((0, 2), (1, 1)):
        identifier = candle_id(1, "1m", OPEN + at * MINUTE_MS)
        store.candles_collection().update_one({"_id": identifier}, {"$set": {"u": datetime.now(UTC) - timedelta(hours=hours)}})
    assert roll_up.candles_roll_up().changed == 2
    store.candles_write([minute(1, OPEN + 2 * MINUTE_MS)])
    assert roll_up.candles_roll_up().changed == 1
    assert roll_up.candles_roll_up().changed == 1  # it is younger than OVERLAP: looked at again
    assert stored(1, "5m")[0].volume == 30


def test_a_clock_that_ran_ahead_does_not_blind_the_roll_up() -> None:
    store.candles_write([minute(1, OPEN)])
    store.candles_collection().update_many({}, {"$set": {"u": datetime.now(UTC) + timedelta(days=30)}})
    roll_up.candles_roll_up()
    store.candles_write([minute(2, OPEN)])
    roll_up.candles_roll_up()
    assert len(stored(2, "1d")) == 1


@pytest.mark.usefixtures("host_zone")
def test_a_clock_that_was_set_back_does_not_blind_the_roll_up() -> None:
    store.collection(roll_up.WATERMARKS).insert_one({"_id": roll_up.ROLL_UP, "u": datetime.now(UTC) + timedelta(hours=2)})
    store.candles_write([minute(1, OPEN)])
    assert roll_up.candles_roll_up().written == 4
    assert roll_up.candles_roll_up().changed == 1


def test_after_an_outage_it_catches_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_up, "CHUNK_MINUTES", 50)
    monkeypatch.setattr(roll_up, "CHUNK_SPANS", 7)
    for at in range(200):  # an own stamp each, as in life
        store.candles_write([minute(1, OPEN + at * MINUTE_MS, 100 + at)])
    stamps = iter(range(1000))
    for row in store.candles_collection().find({}, {"_id": 1}).sort("_id"):
        moment = datetime.now(UTC) - timedelta(hours=9) + timedelta(minutes=2 * next(stamps))
        store.candles_collection().update_one({"_id": row["_id"]}, {"$set": {"u": moment}})
    runs = 0
    while not roll_up.candles_roll_up(seconds=0.0).complete:
        runs += 1
        assert runs < 20
    assert runs >= 3
    candles = [minute(1, OPEN + at * MINUTE_MS, 100 + at) for at in range(200)]
    for interval in COARSE:
        assert without_revision(stored(1, interval)) == expected(candles, interval)


def test_a_run_that_was_killed_between_levels_is_made_good_by_the_next() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(30)])
    roll_up.candles_roll_up()
    store.candles_write([minute(1, OPEN + 3 * MINUTE_MS, 900.0)])
    bounds = {"$gte": candle_id(1, "1m", OPEN), "$lt": candle_id(1, "1m", OPEN + 5 * MINUTE_MS)}
    stages = roll_up._fold("5m", SESSION_OPEN_MS, DatetimeMS(datetime.now(UTC)))
    store.candles_collection().aggregate([{"$match": {"_id": bounds}}, *stages])  # and then the power went
    assert [stored(1, interval)[0].high for interval in COARSE] == [901.0, 101.0, 101.0, 101.0]
    roll_up.candles_roll_up()
    assert [candle.high for interval in COARSE for candle in stored(1, interval)[:1]] == [901.0] * 4


def test_the_roll_up_reads_by_indexes_only() -> None:
    generator = random.Random(1)
    store.candles_write(
        [minute(instrument, OPEN + at * MINUTE_MS, generator.uniform(90, 110)) for instrument in range(1, 21) for at in range(100)]
    )
    roll_up.candles_roll_up()
    store.candles_collection().update_many({"n": "1m"}, {"$set": {"u": datetime.now(UTC) - timedelta(hours=1)}})
    store.candles_write([minute(instrument, OPEN + 7 * MINUTE_MS, 120) for instrument in range(1, 21)])
    with profiled(store.candles_collection().name) as entries:
        assert roll_up.candles_roll_up().written == 20 * len(COARSE)
    assert entries
    for entry in entries:
        assert "COLLSCAN" not in entry["planSummary"]
    # 20 changed minutes are looked at twice; 5 of 1m, 3 of 5m, 4 of 15m and 2 of 1h are folded, as many buckets are counted
    assert sum(entry["docsExamined"] for entry in entries) <= 20 * (2 + 5 + 3 + 4 + 2 + len(COARSE))


# --- revisions --------------------------------------------------------------------------------------------------------


def test_a_forming_candle_that_only_grows_has_no_revision() -> None:
    for at in range(20):
        store.candles_write([minute(1, OPEN + at * MINUTE_MS, 100 + at)])
        roll_up.candles_roll_up()
    assert {candle.revision for interval in COARSE for candle in stored(1, interval)} == {0}
    assert stored(1, "1h")[0].close == 119.5


def test_the_changed_candles_are_given_to_who_healed_the_minutes() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(60) if at != 17])
    roll_up.candles_roll_up()
    hole = (1, OPEN + 17 * MINUTE_MS)
    assert roll_up.candles_roll_up_minutes([hole]) == []
    store.candles_write([minute(*hole, 300.0, state="backfilled")])
    changed = roll_up.candles_roll_up_minutes([hole])
    assert [(candle.interval, (candle.start_ms - OPEN) // MINUTE_MS, candle.high, candle.revision) for candle in changed] == [
        ("5m", 15, 301.0, 1),
        ("15m", 15, 301.0, 1),
        ("1h", 0, 301.0, 1),
        ("1d", -(SESSION_OPEN_MS // MINUTE_MS), 301.0, 1),
    ]
    assert [candle.state for candle in changed] == ["backfilled", "backfilled", "backfilled", "closed"]
    assert roll_up.candles_roll_up_minutes([hole]) == []


def test_the_brokers_own_day_is_final() -> None:
    store.candles_write([minute(1, OPEN + at * MINUTE_MS) for at in range(10)])
    roll_up.candles_roll_up()
    assert [(day.state, day.revision) for day in stored(1, "1d")] == [("closed", 0)]
    own = Candle(1, "1d", DAY, 100.0, 101.0, 98.5, 100.25, 120, None, "backfilled")
    assert roll_up.daily_confirm([own]) == 1
    assert roll_up.daily_confirm([own]) == 0
    confirmed = own._replace(state="confirmed", revision=1)
    assert stored(1, "1d") == [confirmed]
    store.candles_write([minute(1, OPEN + 10 * MINUTE_MS, 500.0)])
    assert roll_up.candles_roll_up().written == 3
    assert stored(1, "1d") == [confirmed]
    assert roll_up.daily_confirm([own._replace(close=100.5)]) == 1
    assert stored(1, "1d") == [confirmed._replace(close=100.5, revision=2)]


# --- sessions: expected by hand ---------------------------------------------------------------------------------------


def at(day_ms: int, hour: int, minutes: int) -> int:
    """A time of an IST day."""
    return day_ms + (hour * 60 + minutes) * MINUTE_MS


def table(instrument: int, interval: str, day_ms: int = DAY) -> list[tuple[str, float, float, int]]:
    """The stored candles as (start in India, open, close, volume)."""
    found = []
    for candle in stored(instrument, interval):
        minutes = (candle.start_ms - day_ms) // MINUTE_MS
        found.append((f"{minutes // 60:02}:{minutes % 60:02}", candle.open, candle.close, candle.volume))
    return found


@pytest.mark.usefixtures("host_zone")
def test_commodities_count_from_nine_to_the_night() -> None:
    make_instrument(9, "MCX_FO")
    sessions_record([Hours("MCX", DAY, at(DAY, 9, 0), at(DAY, 23, 30))])
    times = [
        at(DAY, 8, 59),
        at(DAY, 9, 0),
        at(DAY, 9, 14),
        at(DAY, 9, 15),
        at(DAY, 9, 59),
        at(DAY, 10, 0),
        at(DAY, 23, 29),
        at(DAY, 23, 30),
    ]
    store.candles_write([minute(9, start, float(number)) for number, start in enumerate(times)])
    roll_up.candles_roll_up()
    assert table(9, "15m") == [
        ("09:00", 1, 2.5, 20),
        ("09:15", 3, 3.5, 10),
        ("09:45", 4, 4.5, 10),
        ("10:00", 5, 5.5, 10),
        ("23:15", 6, 6.5, 10),
    ]
    assert table(9, "1h") == [("09:00", 1, 4.5, 40), ("10:00", 5, 5.5, 10), ("23:00", 6, 6.5, 10)]
    assert table(9, "1d") == [("00:00", 1, 6.5, 60)]


@pytest.mark.usefixtures("host_zone")
def test_an_hour_of_muhurat_counts_from_its_own_open() -> None:
    make_instrument(8, "NSE_EQ")
    muhurat = at(day_start_ms(1_730_457_000_000), 0, 0)  # 2024-11-01
    sessions_record([Hours("NSE", muhurat, at(muhurat, 18, 0), at(muhurat, 19, 0), "Muhurat Trading")])
    times = [(17, 59), (18, 0), (18, 4), (18, 5), (18, 15), (18, 59), (19, 0)]
    store.candles_write([minute(8, at(muhurat, *time), float(number)) for number, time in enumerate(times)])
    roll_up.candles_roll_up()
    assert table(8, "5m", muhurat) == [("18:00", 1, 2.5, 20), ("18:05", 3, 3.5, 10), ("18:15", 4, 4.5, 10), ("18:55", 5, 5.5, 10)]
    assert table(8, "15m", muhurat) == [("18:00", 1, 3.5, 30), ("18:15", 4, 4.5, 10), ("18:45", 5, 5.5, 10)]
    assert table(8, "1h", muhurat) == [("18:00", 1, 5.5, 50)]
    assert table(8, "1d", muhurat) == [("00:00", 1, 5.5, 50)]


def test_an_evening_whose_hours_are_learnt_late_is_counted_anew() -> None:
    make_instrument(8, "NSE_EQ")
    evening = DAY + 4 * DAY_MS
    store.candles_write(minute(8, at(evening, 18, number)) for number in range(30))
    store.candles_write([minute(9, at(evening, 18, 0))])
    roll_up.candles_roll_up()
    assert [row[0] for row in table(8, "1h", evening)] == ["17:15", "18:15"], "counted from a usual day's open"
    sessions_record([Hours("NSE", evening, at(evening, 18, 0), at(evening, 19, 0), "Muhurat Trading")])
    store.candles_write([minute(8, at(evening, 18, 40))])
    roll_up.candles_roll_up()
    assert table(8, "1h", evening) == [("18:00", 100, 100.5, 310)]
    assert table(8, "1d", evening) == [("00:00", 100, 100.5, 310)], "no minute twice"
    assert [row[0] for row in table(8, "15m", evening)] == ["18:00", "18:15", "18:30"]
    assert [row[0] for row in table(9, "1h", evening)] == ["17:15"], "nobody knows its segment"


def test_what_trades_outside_of_the_session_makes_no_coarser_candle() -> None:
    make_instrument(7, "NSE_EQ")
    sessions_record([Hours("NSE", DAY, at(DAY, 9, 15), at(DAY, 15, 30)), Hours("NSE", DAY + DAY_MS, 0, 0, "Holiday")])
    times = [at(DAY, 9, 7), at(DAY, 9, 15), at(DAY, 15, 29), at(DAY, 15, 30), at(DAY, 15, 44), at(DAY + DAY_MS, 10, 0)]
    store.candles_write([minute(7, start, float(number)) for number, start in enumerate(times)])
    roll_up.candles_roll_up()
    assert table(7, "5m") == [("09:15", 1, 1.5, 10), ("15:25", 2, 2.5, 10)]
    assert table(7, "1h") == [("09:15", 1, 1.5, 10), ("15:15", 2, 2.5, 10)]
    assert table(7, "1d") == [("00:00", 1, 2.5, 20)]


def test_a_session_that_begins_before_the_usual_open_loses_nothing() -> None:
    make_instrument(7, "NSE_EQ")
    sessions_record([Hours("NSE", DAY, at(DAY, 9, 0), at(DAY, 15, 30))])
    store.candles_write([minute(7, at(DAY, 8, 59)), minute(7, at(DAY, 9, 0)), minute(7, at(DAY, 9, 20))])
    roll_up.candles_roll_up()
    assert table(7, "1h") == [("08:15", 100, 100.5, 10), ("09:15", 100, 100.5, 10)]
    assert table(7, "1d") == [("00:00", 100, 100.5, 20)]
