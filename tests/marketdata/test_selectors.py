"""Candles as they are read: every interval, whole at every edge and on every page, with what is newest. Expected by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata import roll_up, store
from marketdata.calendar import calendar_forget, sessions_record
from marketdata.domain.candle import DAY_MS, INTERVAL_MINUTES, MINUTE_MS, SESSION_OPEN_MS, Candle, day_start_ms
from marketdata.domain.session import Hours
from marketdata.models import Gap
from marketdata.ohlc_channels import stored_read
from marketdata.ohlc_series import Series
from marketdata.selectors import aware, candles_of
from tests.instruments.explain import assert_by_index, profiled
from tests.zones import host_zone  # noqa: F401

pytestmark = pytest.mark.django_db

DAY = day_start_ms(1_795_146_300_000)
"""2026-11-20, a Friday."""
OPEN = DAY + SESSION_OPEN_MS
EVER = 1 << 42


@pytest.fixture(autouse=True)
def _no_days_of_other_tests() -> Iterator[None]:
    calendar_forget()
    yield
    calendar_forget()


def minute(at: int, price: float = 100.0, *, state: str = "confirmed", instrument: int = 7, day: int = 0) -> Candle:
    """The minute that begins so many minutes after the open of a day."""
    return Candle(instrument, "1m", OPEN + day * DAY_MS + at * MINUTE_MS, price, price + 1, price - 1, price + 0.5, 10, None, state)


def read(interval: str = "1m", *, limit: int = 10_000, newest_first: bool = False, segment: str = "NSE_EQ", **how: object) -> list[Candle]:
    span = {"from_ms": 0, "to_ms": EVER, **how}
    return candles_of(7, interval, limit=limit, newest_first=newest_first, segment=segment, **span)  # type: ignore[arg-type]


def told(candles: list[Candle]) -> list[tuple[int, float, float, int, str]]:
    """Start in minutes after the open of DAY, open, close, volume, state."""
    return [((row.start_ms - OPEN) // MINUTE_MS, row.open, row.close, row.volume, row.state) for row in candles]


# --- the newest parts -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("host_zone")
def test_candles_do_not_wait_for_the_roll_up() -> None:
    store.candles_write(minute(at, float(at)) for at in range(40))
    market_ms = OPEN + 40 * MINUTE_MS
    expected = {
        "30m": [(0, 0, 29.5, 300, "confirmed"), (30, 30, 39.5, 100, "live")],
        "1h": [(0, 0, 39.5, 400, "live")],
        "1d": [(-555, 0, 39.5, 400, "live")],
        "1w": [(-555 - 4 * 1440, 0, 39.5, 400, "live")],
        "1M": [(-555 - 19 * 1440, 0, 39.5, 400, "live")],
    }
    assert {interval: told(read(interval, market_ms=market_ms)) for interval in expected} == expected
    roll_up.candles_roll_up()
    assert {interval: told(read(interval, market_ms=market_ms)) for interval in expected} == expected


def test_what_the_roll_up_has_not_seen_yet_is_in_the_newest_candles() -> None:
    store.candles_write(minute(at) for at in range(62))
    roll_up.candles_roll_up()
    store.candles_write([minute(62, 200.0), minute(63, 300.0), minute(58, 50.0)])  # new ones, and a correction in the bucket before
    five = read("5m", market_ms=OPEN + 64 * MINUTE_MS)
    assert told(five[-2:]) == [(55, 100, 100.5, 50, "confirmed"), (60, 100, 300.5, 40, "live")]
    assert (five[-2].low, five[-1].high) == (49, 301)
    assert read("1h")[0].low == 49


def test_the_feeds_newest_minutes_are_read_with_the_stored_ones() -> None:
    store.candles_write([minute(0), minute(1, 101.0), minute(2, 102.0, state="closed")])
    recent = [minute(1, 999.0, state="closed"), minute(2, 103.0), minute(3, 104.0, state="live")]
    market_ms = OPEN + 3 * MINUTE_MS + 5_000
    assert told(read(recent=recent, market_ms=market_ms)) == [
        (0, 100, 100.5, 10, "confirmed"), (1, 101, 101.5, 10, "confirmed"), (2, 103, 103.5, 10, "confirmed"), (3, 104, 104.5, 10, "live"),
    ]  # fmt: skip
    for interval in ("3m", "5m"):
        assert read(interval, recent=recent, market_ms=market_ms)[-1].close == 104.5
    assert told(read("1d", recent=recent, market_ms=market_ms)) == [(-555, 100, 104.5, 40, "live")]
    assert [row[0] for row in told(read(recent=recent, limit=2, newest_first=True))] == [3, 2]
    assert [row[0] for row in told(read(recent=recent, limit=2, to_ms=OPEN + 3 * MINUTE_MS, newest_first=True))] == [2, 1]


def test_a_report_of_market_time_that_lags_does_not_reopen_what_ended() -> None:
    store.candles_write(minute(at) for at in range(5))
    assert [row[4] for row in told(read("5m", market_ms=OPEN + 5 * MINUTE_MS - 900))] == ["confirmed"]
    assert [row[4] for row in told(read("3m", market_ms=OPEN + 5 * MINUTE_MS - 900))] == ["confirmed", "live"]


def test_a_day_is_the_brokers_own_once_confirmed() -> None:
    store.candles_write(minute(at) for at in range(10))
    roll_up.candles_roll_up()
    roll_up.daily_confirm([Candle(7, "1d", DAY, 100.0, 101.0, 99.0, 100.25, 120, None, "confirmed")])
    assert told(read("1d", market_ms=OPEN + 10 * MINUTE_MS)) == [(-555, 100, 100.25, 120, "confirmed")]
    assert told(read("1w"))[0][1:] == (100, 100.25, 120, "confirmed")


@pytest.mark.parametrize("interval", ["3m", "10m", "30m", "2h", "4h", "1w", "1M"])
def test_a_folded_candle_says_that_it_was_revised_over_rest_as_on_the_socket(interval: str) -> None:
    store.candles_write(minute(at) for at in range(375))
    roll_up.candles_roll_up()
    assert read(interval)[0].revision == 0
    for times in (1, 2):
        store.candles_write([minute(1, 100.0 + times)])
        roll_up.candles_roll_up()
        series = Series(7, "NSE_EQ|K", interval)
        series.fill(stored_read(7, "NSE_EQ|K", interval, OPEN + 375 * MINUTE_MS))
        assert [row.revision for row in read(interval)] == [row.revision for row in series.candles()]
        assert (read(interval)[0].revision, sum(row.revision for row in read(interval))) == (times, times)


def test_a_stored_interval_has_the_roll_ups_revision_before_it_comes_too() -> None:
    store.candles_write(minute(at, state="closed") for at in range(3))
    store.candles_write(minute(at, 101.0) for at in range(3))  # each was revised
    assert [row.revision for row in read()] == [1, 1, 1]
    before = [(row.interval, row.revision) for interval in ("5m", "1h", "1d", "10m") for row in read(interval)]
    roll_up.candles_roll_up()
    assert before == [(row.interval, row.revision) for interval in ("5m", "1h", "1d", "10m") for row in read(interval)]
    assert {revision for _, revision in before} == {0}, "they were never told with other values"


@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "10m", "1h", "2h"])
def test_a_candle_that_an_unhealed_gap_lies_in_claims_no_more_than_closed(interval: str) -> None:
    store.candles_write(minute(at) for at in range(375) if at not in (31, 32))
    roll_up.candles_roll_up()
    gap = Gap.objects.create(start=aware(OPEN + 31 * MINUTE_MS + 1), end=aware(OPEN + 33 * MINUTE_MS - 1), cause="disconnected")
    Gap.objects.create(start=gap.start, end=gap.end, cause="disconnected", instruments=[8])
    length, after_ms = INTERVAL_MINUTES[interval], OPEN + 10 * DAY_MS
    holds_it = 31 // length * length

    def doubtful() -> list[int]:
        """Minutes after the open at which those begin that are not confirmed: over REST, and the same on the socket."""
        series = Series(7, "NSE_EQ|K", interval)
        series.fill(stored_read(7, "NSE_EQ|K", interval, after_ms))
        found = [row for row in read(interval, market_ms=after_ms) if row.state != "confirmed"]
        assert found == [row for row in series.candles() if row.state != "confirmed"]
        assert {row.state for row in found} <= {"closed"}
        return [at for at, *_ in told(found)]

    wanted = [] if interval == "1m" else [holds_it]
    assert doubtful() == wanted
    Gap.objects.filter(pk=gap.pk).update(heal_state="impossible")
    assert doubtful() == wanted, "nobody will ever know"
    Gap.objects.filter(pk=gap.pk).update(heal_state="healed")
    assert doubtful() == [], "nobody traded"


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("host_zone")
def test_only_sessions_are_shown_and_pages_are_full_all_the_same() -> None:
    sessions_record(Hours("NSE", DAY + day * DAY_MS, OPEN + day * DAY_MS, OPEN + day * DAY_MS + 375 * MINUTE_MS) for day in range(3))
    times = [(day, at) for day in range(3) for at in (-8, -7, 0, 1, 2, 374, 375, 376, 390)]
    store.candles_write(minute(at, day=day) for day, at in times)
    inside = [day * 1440 + at for day, at in times if 0 <= at < 375]
    for limit in (1, 2, 5, 100):
        for newest_first in (False, True):
            found: list[int] = []
            low, high = 0, EVER
            while page := read(limit=limit, newest_first=newest_first, from_ms=low, to_ms=high):
                found += [row[0] for row in told(page)]
                assert len(page) == limit or len(found) == len(inside)
                low, high = (low, page[-1].start_ms) if newest_first else (page[-1].start_ms + 1, high)
            assert found == (inside[::-1] if newest_first else inside)
    assert [row[0] for row in told(read("5m"))] == [day * 1440 + at for day in range(3) for at in (0, 370)]


@pytest.mark.usefixtures("host_zone")
def test_commodities_count_their_hours_from_nine() -> None:
    store.candles_write(minute(at, float(at)) for at in (-15, 44, 45, 105, 164, 165, 224, 225))
    assert told(read("2h", segment="MCX_FO")) == [
        (-15, -15, 45.5, 30, "confirmed"),
        (105, 105, 224.5, 40, "confirmed"),
        (225, 225, 225.5, 10, "confirmed"),
    ]
    assert [row[0] for row in told(read("4h", segment="MCX_FO"))] == [-15, 225]


@pytest.mark.usefixtures("host_zone")
def test_an_evening_of_muhurat_counts_from_its_own_open() -> None:
    opens = DAY + 18 * 60 * MINUTE_MS
    sessions_record([Hours("NSE", DAY, opens, opens + 60 * MINUTE_MS, "Muhurat Trading")])
    evening = (18 * 60) - (9 * 60 + 15)
    store.candles_write(minute(evening + at, float(at)) for at in (-1, 0, 29, 30, 59, 60))
    market_ms = opens + 60 * MINUTE_MS
    assert told(read("30m", market_ms=market_ms)) == [(evening, 0, 29.5, 20, "confirmed"), (evening + 30, 30, 59.5, 20, "confirmed")]
    assert told(read("4h", market_ms=market_ms)) == [(evening, 0, 59.5, 40, "confirmed")]  # it ends with the session
    assert told(read("1d", market_ms=market_ms)) == [(-555, 0, 59.5, 40, "closed")]


# --- silences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("from_minute", [-60, 3, 9])
@pytest.mark.parametrize("hours_known", [True, False])
def test_filled_candles_are_the_same_on_every_page(limit: int, newest_first: bool, from_minute: int, hours_known: bool) -> None:
    sessions_record([Hours("NSE", DAY, OPEN, OPEN + 20 * MINUTE_MS)] if hours_known else [])
    store.candles_write([minute(2, 50.0), minute(7, 60.0), minute(12, 70.0)])
    last = 15 if hours_known else 12  # nobody knows how long it goes on
    closes = {at: 50.5 if at < 7 else 60.5 if at < 12 else 70.5 for at in range(2, last + 1)}
    expected = [(at, close) for at, close in closes.items() if at >= from_minute]
    found: list[tuple[int, float]] = []
    low, high = OPEN + from_minute * MINUTE_MS, EVER
    market_ms = OPEN + 16 * MINUTE_MS + 1_000
    while page := read(limit=limit, newest_first=newest_first, from_ms=low, to_ms=high, fill=True, market_ms=market_ms):
        found += [(row[0], row[2]) for row in told(page)]
        low, high = (low, page[-1].start_ms) if newest_first else (page[-1].start_ms + 1, high)
    assert found == (expected[::-1] if newest_first else expected)


# --- pages and edges --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    interval=st.sampled_from(sorted(INTERVAL_MINUTES)),
    limit=st.integers(1, 7),
    newest_first=st.booleans(),
    rolled=st.integers(0, 2),
    cut=st.integers(0, 2000),
)
def test_pages_together_are_the_whole_whatever_is_rolled_up(interval: str, limit: int, newest_first: bool, rolled: int, cut: int) -> None:
    store.candles_collection().delete_many({})
    store.collection(roll_up.WATERMARKS).delete_many({})
    generator = random.Random(5)
    minutes = [minute(at, generator.uniform(90, 110), day=day) for day in range(4) for at in sorted(generator.sample(range(375), 60))]
    store.candles_write(minutes[: rolled * 100])
    roll_up.candles_roll_up()
    store.candles_write(minutes[rolled * 100 :])
    whole = read(interval)
    assert sum(row.volume for row in whole) == 10 * len(minutes)
    low, high = OPEN + cut * MINUTE_MS, EVER
    expected = [row for row in whole if row.start_ms >= low]
    found: list[Candle] = []
    while page := read(interval, limit=limit, newest_first=newest_first, from_ms=low, to_ms=high):
        assert len(page) <= limit
        found += page
        low, high = (low, page[-1].start_ms) if newest_first else (page[-1].start_ms + 1, high)
    assert found == (expected[::-1] if newest_first else expected)


def test_reading_examines_little_more_than_it_returns() -> None:
    store.candles_write(minute(at, instrument=number, day=day) for number in (6, 7, 8) for day in range(3) for at in range(375))
    roll_up.candles_roll_up()
    with profiled(store.candles_collection().name) as entries:
        assert len(read(limit=100, newest_first=True)) == 100
        assert len(read("30m", limit=10, newest_first=True)) == 10
        assert len(read("1h", limit=10)) == 10
    assert_by_index(entries, at_most=135)
