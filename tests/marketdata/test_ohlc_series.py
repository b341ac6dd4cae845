"""A series against a model: whatever comes in whatever order, a client that drains now and then has the candles as they are."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.commands import CANDLES_MAX
from marketdata.domain.candle import MINUTE_MS, NSE_ANCHORS, Candle, day_start_ms
from marketdata.domain.session import Calendar, Hours
from marketdata.ohlc_series import LATE_MS, MANY, NOTHING, Series, Stored, first_part_ms, supersedes
from tests.zones import host_zone  # noqa: F401

INDIA = ZoneInfo("Asia/Kolkata")
OPEN = datetime(2026, 9, 21, 9, 15, tzinfo=INDIA)
OPEN_MS = int(OPEN.timestamp() * 1000)
DAY_MS = day_start_ms(OPEN_MS)
STATES = ("live", "closed", "backfilled", "confirmed")


def minute(number: int, close: float = 100.0, state: str = "confirmed", revision: int = 0, volume: int = 10) -> Candle:
    """Return the candle of a minute of the session; `number` counts from the open."""
    start = OPEN_MS + number * MINUTE_MS
    return Candle(1, "1m", start, 100.0, max(100.0, close), min(100.0, close), close, volume, None, state, revision)


def stored(
    minutes: list[Candle] | None = None, candles: list[Candle] | None = None, *, market_ms: int = 0, interval: str = "5m", **more: Any
) -> Stored:
    from_ms = first_part_ms(minutes[-1].start_ms if minutes else OPEN_MS, interval, NSE_ANCHORS)
    return Stored(
        more.get("calendar", Calendar()),
        market_ms,
        from_ms,
        minutes or [],
        more.get("days_from_ms", 0),
        more.get("days", []),
        candles or [],
    )


def series_of(interval: str, *minutes: Candle, **more: Any) -> Series:
    series = Series(1, "K", interval)
    series.fill(stored(list(minutes), interval=interval, **more))
    return series


class Chart:
    """A client: applies pushes as the page on the protocol says."""

    def __init__(self, key: str = "K", candles: int = 300) -> None:
        self.key = key
        self.seen, self.wanted = NOTHING, candles
        self.candles: dict[int, tuple[Any, ...]] = {}
        self.snapshots = self.pushes = self.merged = 0

    def drain(self, series: Series) -> None:
        drained = series.drain(self.seen, self.wanted)
        for frame in drained.frames:
            message = json.loads(frame)
            assert (message["event"], message["key"], message["interval"]) == ("market:ohlc", self.key, series.interval)
            if "snapshot" in message:
                assert drained.is_snapshot
                self.snapshots += 1
                self.candles = {}
            else:
                assert message["seq"] > self.seen
                self.pushes += 1
            self.seen = message["seq"]
            for item in message.get("candles", [message]):
                self.candles[item["candle"][0]] = (*item["candle"][1:], item["state"], item["revision"])
        self.merged += drained.merged
        assert drained.seen == self.seen


def told(series: Series) -> dict[int, tuple[Any, ...]]:
    return {candle.start_ms: tuple(candle[3:11]) for candle in series.candles()}


# --- one minute after the other -------------------------------------------------------------------------------------------
def test_the_first_drain_is_the_whole_and_the_next_what_has_changed() -> None:
    series, chart = series_of("1m"), Chart()
    chart.drain(series)
    assert (chart.snapshots, chart.candles) == (1, {}), "nothing is told too"
    series.take(minute(0, 101.0, "live"))
    chart.drain(series)
    series.take(minute(0, 102.0, "live"))
    series.take(minute(0, 103.0))
    chart.drain(series)
    assert (chart.snapshots, chart.pushes, chart.merged) == (1, 2, 1)
    assert chart.candles == told(series) == {OPEN_MS: (100.0, 103.0, 100.0, 103.0, 10, None, "confirmed", 0)}
    chart.drain(series)
    assert chart.pushes == 2, "nothing new"


def test_nothing_is_given_before_the_store_was_read() -> None:
    series, chart = Series(1, "K", "5m"), Chart()
    series.take(minute(3, 103.0, "live"))
    chart.drain(series)
    assert (chart.snapshots, chart.seen) == (0, NOTHING)
    assert series.fill(stored([minute(0, 101.0, volume=5), minute(1, 99.0, volume=7)]))
    chart.drain(series)
    assert chart.candles == {OPEN_MS: (100.0, 103.0, 99.0, 103.0, 22, None, "live", 0)}


def test_equal_candles_are_no_change() -> None:
    series = series_of("5m", minute(0))
    assert series.take(minute(1, 101.0, "live"))
    assert not series.take(minute(1, 101.0, "live"))
    assert not series.take(minute(0))
    assert not series.take(minute(1, 101.0, "live")._replace(ticks=8)), "clients are not told of ticks"


@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
def test_a_less_certain_minute_never_replaces_a_more_certain_one(old: str, new: str) -> None:
    replaces = STATES.index(new) >= STATES.index(old)
    assert supersedes(minute(0, state=new), minute(0, state=old)) is replaces
    series = series_of("1m")
    series.take(minute(0, 101.0, old))
    assert series.take(minute(0, 102.0, new)) is replaces


def test_a_minute_is_not_taken_back_to_an_older_revision() -> None:
    series = series_of("1m")
    series.take(minute(0, 102.0, revision=1))
    assert not series.take(minute(0, 101.0, revision=0))
    assert series.take(minute(0, 103.0, revision=2))


# --- what is live ---------------------------------------------------------------------------------------------------------
def test_a_candle_is_live_until_market_time_has_passed_its_end() -> None:
    series, chart = series_of("5m"), Chart()
    for number in range(4):
        series.take(minute(number))
    chart.drain(series)
    assert chart.candles[OPEN_MS][6] == "live", "its last minute may come"
    assert not series.pass_time(OPEN_MS + 5 * MINUTE_MS - 1)
    assert series.pass_time(OPEN_MS + 5 * MINUTE_MS)
    chart.drain(series)
    assert chart.candles[OPEN_MS][6:] == ("confirmed", 0)


def test_a_candle_stays_live_while_a_minute_of_it_is() -> None:
    series = series_of("3m", minute(0), minute(1))
    series.take(minute(2, state="live"))
    series.pass_time(OPEN_MS + 4 * MINUTE_MS)
    assert [candle.state for candle in series.candles()] == ["live"]
    series.take(minute(2, state="closed"))
    assert [candle.state for candle in series.candles()] == ["closed"]
    series.take(minute(2))
    assert [candle.state for candle in series.candles()] == ["confirmed"]


def test_the_next_minute_ends_the_candle_before() -> None:
    series = series_of("5m", *(minute(number) for number in range(4)))
    series.take(minute(5, state="live"))
    assert [candle.state for candle in series.candles()] == ["confirmed", "live"]


def test_a_day_is_closed_at_most_until_the_brokers_own_has_come() -> None:
    series = series_of("1d", minute(0), minute(1))
    day_ms = OPEN_MS - (9 * 60 + 15) * MINUTE_MS
    series.pass_time(day_ms + 1440 * MINUTE_MS)
    assert [(candle.start_ms, candle.state) for candle in series.candles()] == [(day_ms, "closed")]
    final = Candle(1, "1d", day_ms, 100.0, 104.0, 99.0, 101.5, 25, None, "confirmed", 1)
    assert series.fill(stored(candles=[final], interval="1d"))
    assert series.candles() == [final]
    series.take(minute(1, 108.0, revision=1))
    assert series.candles() == [final], "the broker's own day stands"


# --- corrections ----------------------------------------------------------------------------------------------------------
def test_a_correction_of_the_bucket_before_is_folded_and_its_revision_is_the_stores() -> None:
    series, chart = series_of("5m", *(minute(number) for number in range(5))), Chart()
    series.take(minute(5, state="live"))
    chart.drain(series)
    series.take(minute(2, 110.0, revision=1))
    chart.drain(series)
    assert chart.candles[OPEN_MS] == (100.0, 110.0, 100.0, 100.0, 50, None, "confirmed", 0), "as over REST before the roll-up"
    assert (chart.snapshots, chart.pushes) == (1, 1)
    assert series.fill(stored(candles=[series.candles()[0]._replace(revision=1)]))
    chart.drain(series)
    assert chart.candles[OPEN_MS][6:] == ("confirmed", 1)


def test_what_is_too_old_to_be_folded_is_the_stores() -> None:
    series = series_of("5m", *(minute(number) for number in range(5)))
    later = LATE_MS // MINUTE_MS + 10
    series.take(minute(later))
    before = series.candles()
    assert not series.take(minute(2, 110.0, revision=1))
    healed = before[0]._replace(high=110.0, state="backfilled", revision=1)
    assert series.fill(stored(candles=[healed]))
    assert series.candles()[0] == healed
    wrong = Candle(1, "5m", OPEN_MS + later * MINUTE_MS // (5 * MINUTE_MS) * 5 * MINUTE_MS, 1, 1, 1, 1, 1, None, "confirmed")
    assert wrong.start_ms in told(series)
    assert not series.fill(stored(candles=[wrong])), "here its minutes are known better"


def test_a_calendar_that_counts_from_elsewhere_gives_the_whole_again() -> None:
    series, chart = Series(1, "NSE_EQ|K", "1h"), Chart("NSE_EQ|K")
    series.fill(stored([minute(0), minute(1, 105.0)]))
    chart.drain(series)
    assert list(chart.candles) == [OPEN_MS]
    longer = Hours("NSE", DAY_MS, OPEN_MS - 10 * MINUTE_MS, OPEN_MS + 45 * MINUTE_MS)
    series.fill(stored(calendar=Calendar([longer])))
    chart.drain(series)
    assert chart.snapshots == 1, "its session holds the usual open"
    series.fill(stored(calendar=Calendar([longer._replace(open_ms=OPEN_MS + MINUTE_MS)])))
    chart.drain(series)
    assert chart.snapshots == 2
    assert chart.candles == {OPEN_MS + MINUTE_MS: (100.0, 105.0, 100.0, 105.0, 10, None, "live", 0)}


def test_commodities_count_from_nine() -> None:
    series = Series(1, "MCX_FO|K", "1h")
    series.take(minute(0))
    series.fill(stored([minute(1, 105.0)]))
    assert told(series) == {OPEN_MS - 15 * MINUTE_MS: (100.0, 105.0, 100.0, 105.0, 20, None, "live", 0)}


def test_what_forms_ends_with_the_session_where_it_is_known() -> None:
    hours = Hours("NSE", DAY_MS, OPEN_MS, OPEN_MS + 50 * MINUTE_MS)
    for interval in ("1h", "1d"):
        series = Series(1, "NSE_EQ|K", interval)
        series.fill(stored([minute(number) for number in range(50)], interval=interval))
        assert [candle.state for candle in series.candles()] == ["live"], "nobody knows"
        series.fill(stored(calendar=Calendar([hours])))
        assert [candle.state for candle in series.candles()] == ["closed" if interval == "1d" else "confirmed"]
        assert not series.take(minute(50, 200.0)), "after it"
    series = Series(1, "NSE_EQ|K", "1m")
    series.fill(stored(calendar=Calendar([Hours("NSE", DAY_MS, 0, 0)])))
    assert not series.take(minute(0)), "a holiday"


def test_the_stored_revision_is_told_with_what_its_minutes_say() -> None:
    series = series_of("5m", minute(0), minute(1, 105.0))
    known = series.candles()[0]
    series.fill(stored(candles=[known._replace(close=1.0, revision=3)]))
    assert series.candles() == [known._replace(revision=3)]
    series.take(minute(2, 106.0))
    assert series.candles()[0][4:11] == (106.0, 100.0, 106.0, 30, None, "live", 3)


def test_a_feed_that_begins_again_gives_the_whole_again() -> None:
    series, chart = series_of("5m", minute(30)), Chart()
    chart.drain(series)
    series.reset()
    chart.drain(series)
    assert chart.snapshots == 1, "not before the store was read"
    series.fill(stored([minute(0, 103.0)]))
    chart.drain(series)
    assert (chart.snapshots, list(chart.candles)) == (2, [OPEN_MS])


# --- clients that are late ------------------------------------------------------------------------------------------------
def test_a_client_that_is_late_by_many_candles_gets_the_whole() -> None:
    series, chart = series_of("1m"), Chart(candles=10)
    chart.drain(series)
    for number in range(MANY):
        series.take(minute(number))
    chart.drain(series)
    assert (chart.snapshots, chart.pushes, len(chart.candles)) == (1, MANY, MANY)
    for number in range(MANY, 2 * MANY + 1):
        series.take(minute(number))
    chart.drain(series)
    assert (chart.snapshots, chart.pushes, len(chart.candles)) == (2, MANY, 10)


def test_a_client_that_has_missed_what_fell_out_gets_the_whole() -> None:
    series, late, keeping_up = series_of("1m"), Chart(candles=CANDLES_MAX), Chart(candles=CANDLES_MAX)
    for number in range(CANDLES_MAX):
        series.take(minute(number, state="live"))
    late.drain(series)
    keeping_up.drain(series)
    series.take(minute(0, 104.0))
    keeping_up.drain(series)
    series.take(minute(CANDLES_MAX))
    for chart in (late, keeping_up):
        chart.drain(series)
    assert (late.snapshots, keeping_up.snapshots) == (2, 1)
    assert len(series.candles()) == CANDLES_MAX
    assert not series.take(minute(0)), "and what is older than the newest is none of its business"


# --- every interval -------------------------------------------------------------------------------------------------------
STARTS = {
    "3m": "2026-09-23 10:30", "5m": "2026-09-23 10:30", "10m": "2026-09-23 10:25", "15m": "2026-09-23 10:30", "30m": "2026-09-23 10:15",
    "1h": "2026-09-23 10:15", "2h": "2026-09-23 09:15", "4h": "2026-09-23 09:15", "1d": "2026-09-23 00:00", "1w": "2026-09-21 00:00",
    "1M": "2026-09-01 00:00",
}  # fmt: skip
"""Interval → start of the candle of Wednesday, 2026-09-23 10:32 IST, read off a calendar."""


@pytest.mark.usefixtures("host_zone")
@pytest.mark.parametrize("interval", STARTS)
def test_every_interval_goes_on_from_what_is_stored(interval: str) -> None:
    at = datetime(2026, 9, 23, 10, 32, tzinfo=INDIA)
    start = int(datetime.fromisoformat(f"{STARTS[interval]}+05:30").timestamp() * 1000)
    at_ms = int(at.timestamp() * 1000)
    since = int(at.replace(hour=9, minute=15).timestamp() * 1000)
    minutes = [minute(0)._replace(start_ms=time_ms, close=101.0) for time_ms in range(since, at_ms, MINUTE_MS)]
    days = [
        Candle(
            1,
            "1d",
            int((at.replace(hour=0, minute=0) - timedelta(days=back)).timestamp() * 1000),
            90.0,
            120.0,
            80.0,
            95.0,
            1000,
            None,
            "confirmed",
        )
        for back in (2, 1)
    ]
    series = Series(1, "K", interval)
    series.fill(
        Stored(
            calendar=Calendar(),
            market_ms=at_ms,
            minutes_from_ms=first_part_ms(at_ms, interval if interval in STARTS and interval not in ("1w", "1M") else "1d", NSE_ANCHORS),
            minutes=minutes,
            days_from_ms=first_part_ms(at_ms, interval, NSE_ANCHORS),
            days=days if interval in ("1w", "1M") else [],
            candles=[],
        )
    )
    series.take(minute(0)._replace(start_ms=at_ms, high=130.0, close=125.0, volume=7, state="live"))
    parts = sum(time_ms >= start for time_ms in range(since, at_ms, MINUTE_MS))
    longer = interval in ("1w", "1M")
    (open_, low) = (90.0, 80.0) if longer else (100.0, 100.0)
    candle = series.candles()[-1]
    assert candle[2:10] == (start, open_, 130.0, low, 125.0, 10 * parts + 7 + 2000 * longer, None, "live")
    assert sum(each.start_ms >= start for each in series.candles()) == 1


# --- whatever the order ---------------------------------------------------------------------------------------------------
values = st.builds(minute, st.integers(0, 24), st.sampled_from([98.0, 100.0, 103.0]), st.sampled_from(STATES), st.integers(0, 2))


def best_of(minutes: list[Candle]) -> dict[int, Candle]:
    """Return the minutes that stand: of equals, the one that came last."""
    found: dict[int, Candle] = {}
    for each in minutes:
        old = found.get(each.start_ms)
        if old is None or (STATES.index(each.state), each.revision) >= (STATES.index(old.state), old.revision):
            found[each.start_ms] = each
    return found


def expected(minutes: list[Candle], length: int, market_ms: int) -> dict[int, tuple[Any, ...]]:
    """Return start → open, high, low, close, volume, interest and state by plain arithmetic from the open."""
    found: dict[int, list[Candle]] = {}
    for _start, each in sorted(best_of(minutes).items()):
        found.setdefault(OPEN_MS + (each.start_ms - OPEN_MS) // (length * MINUTE_MS) * length * MINUTE_MS, []).append(each)
    return {
        start: (
            parts[0].open,
            max(part.high for part in parts),
            min(part.low for part in parts),
            parts[-1].close,
            sum(part.volume for part in parts),
            None,
            "live" if length > 1 and start + length * MINUTE_MS > market_ms else min((part.state for part in parts), key=STATES.index),
        )
        for start, parts in found.items()
    }


@settings(max_examples=200)
@given(
    before=st.lists(values, max_size=12),
    while_loading=st.lists(values, max_size=12),
    after=st.lists(values, max_size=30),
    lost=st.integers(0, 4),
    drains=st.sets(st.integers(0, 60)),
    interval=st.sampled_from(["1m", "3m", "5m", "15m"]),
)
def test_history_and_stream_are_one_whatever_the_order(
    before: list[Candle], while_loading: list[Candle], after: list[Candle], lost: int, drains: set[int], interval: str
) -> None:
    """The store has what came before and some of what came while it was read; the hub's newest minutes have the rest."""
    series, chart = Series(1, "K", interval), Chart(candles=CANDLES_MAX)
    for each in while_loading:
        series.take(each)
        chart.drain(series)
    kept = sorted(best_of(before + while_loading[: len(while_loading) - lost]).values(), key=lambda each: each.start_ms)
    market_ms = OPEN_MS + 30 * MINUTE_MS
    base = Stored(Calendar(), 0, first_part_ms(OPEN_MS, interval, NSE_ANCHORS), [], 0, [], [])
    series.fill(base._replace(candles=kept) if interval == "1m" else base._replace(minutes=kept))
    for number, each in enumerate(after):
        series.take(each)
        if number in drains:
            chart.drain(series)
    series.pass_time(market_ms)
    chart.drain(series)
    all_of_them = [*while_loading, *kept, *after]
    assert {start: values[:7] for start, values in chart.candles.items()} == expected(all_of_them, int(interval[:-1]), market_ms)
    assert chart.candles == told(series)
    assert chart.snapshots == 1
