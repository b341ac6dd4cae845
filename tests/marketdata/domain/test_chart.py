"""What a chart shows: expected by hand, on days whose hours are given."""

from __future__ import annotations

import pytest

from marketdata.domain.candle import DAY_MS, MINUTE_MS, SESSION_OPEN_MS, Candle, day_start_ms
from marketdata.domain.chart import (
    best_of,
    bucket_end_ms,
    bucket_start_ms,
    doubted,
    doubtful_starts,
    in_session,
    live_marked,
    silences_filled,
    with_newer,
)
from marketdata.domain.session import Calendar, Hours

DAY = day_start_ms(1_795_146_300_000)
OPEN = DAY + SESSION_OPEN_MS
CLOSE = DAY + (15 * 60 + 30) * MINUTE_MS
KNOWN = Calendar([Hours("NSE", DAY, OPEN, CLOSE), Hours("NSE", DAY + DAY_MS, 0, 0, "Holiday")])
UNKNOWN = Calendar()
EVENING = DAY + 20 * 60 * MINUTE_MS


def candle(at: int, *, close: float = 100.0, state: str = "confirmed", interval: str = "1m", revision: int = 0) -> Candle:
    """The candle that begins so many minutes after the open."""
    return Candle(7, interval, OPEN + at * MINUTE_MS, 99.0, 102.0, 98.0, close, 10, 5.0, state, revision, 3)


def minutes(candles: list[Candle]) -> list[int]:
    return [(row.start_ms - OPEN) // MINUTE_MS for row in candles]


@pytest.mark.parametrize(
    ("interval", "calendar", "shown"),
    [
        ("1m", KNOWN, [0, 374]),
        ("5m", KNOWN, [0, 374]),
        ("1h", KNOWN, [-10, 0, 374]),
        ("1m", UNKNOWN, [-60, -10, 0, 374, 375, 380, 1440]),
    ],
)
def test_only_what_touches_a_session_is_shown(interval: str, calendar: Calendar, shown: list[int]) -> None:
    candles = [candle(at, interval=interval) for at in (-60, -10, 0, 374, 375, 380, 1440)]
    assert minutes(list(in_session(candles, "NSE_EQ", calendar))) == shown


def test_a_day_without_trading_has_no_daily_candle() -> None:
    days = [candle(0, interval="1d")._replace(start_ms=DAY + number * DAY_MS) for number in range(3)]
    assert list(in_session(days, "NSE_EQ", KNOWN)) == [days[0], days[2]]  # the third is not known


def test_the_most_certain_then_the_newest_version_of_a_minute_is_taken() -> None:
    closed, confirmed, revised = candle(1, state="closed", revision=5), candle(1), candle(1, close=101, revision=1)
    assert best_of([candle(2), closed, revised, confirmed]) == [revised, candle(2)]
    assert best_of([confirmed, closed]) == [confirmed]
    assert best_of([candle(1, state="live"), candle(1, state="live", close=105)]) == [candle(1, state="live", close=105)]


def test_a_fold_takes_the_place_of_what_was_rolled_up_before() -> None:
    stored, fold = candle(5, interval="5m", revision=2), candle(5, interval="5m", state="live", close=101)
    assert with_newer([candle(0, interval="5m"), stored], [fold, candle(10, interval="5m")]) == [
        candle(0, interval="5m"), fold._replace(revision=2), candle(10, interval="5m"),
    ]  # fmt: skip
    assert with_newer([candle(1)], [candle(1, state="closed", close=105)]) == [candle(1)]


def test_a_bar_alone_keeps_the_ticks_that_were_counted() -> None:
    counted = candle(1)._replace(ticks=60)
    assert with_newer([counted], [candle(1)._replace(ticks=None)]) == [counted]
    assert with_newer([counted], [candle(1, revision=1)._replace(ticks=61)])[0].ticks == 61
    assert with_newer([], [candle(1)._replace(ticks=None)])[0].ticks is None


def test_only_the_broker_makes_a_day_certain() -> None:
    day = candle(0, interval="1d", state="closed")
    fold = candle(0, interval="1d", close=101)
    assert with_newer([day], [fold]) == [fold._replace(state="closed")]
    assert with_newer([], [fold._replace(state="live")]) == [fold._replace(state="live")]
    assert with_newer([day._replace(state="confirmed")], [fold]) == [day._replace(state="confirmed")]


@pytest.mark.parametrize(
    ("interval", "start", "market_minute", "state"),
    [
        ("5m", 10, 14, "live"),
        ("5m", 10, 15, "confirmed"),
        ("1h", 360, 374, "live"),
        ("1h", 360, 375, "confirmed"),  # the session ended
        ("1m", 10, 10, "confirmed"),  # its maker knew that it had ended
    ],
)
def test_what_has_not_ended_in_market_time_is_live(interval: str, start: int, market_minute: int, state: str) -> None:
    (marked,) = live_marked([candle(start, interval=interval)], "NSE_EQ", KNOWN, OPEN + market_minute * MINUTE_MS)
    assert marked.state == state


def test_a_day_and_an_hour_end_later_where_the_hours_are_not_known() -> None:
    hour, day = candle(360, interval="1h"), candle(-555, interval="1d", state="closed")
    assert [row.state for row in live_marked([day, hour], "NSE_EQ", UNKNOWN, OPEN + 400 * MINUTE_MS)] == ["live", "live"]
    assert [row.state for row in live_marked([day, hour], "NSE_EQ", UNKNOWN, DAY + DAY_MS)] == ["closed", "confirmed"]
    final = day._replace(state="confirmed")
    assert live_marked([final], "NSE_EQ", UNKNOWN, OPEN) == [final]


def test_a_week_is_live_until_its_sunday_ends() -> None:
    monday = bucket_start_ms(DAY, "1w", KNOWN.anchors("NSE_EQ"))
    week = candle(0, interval="1w", state="closed")._replace(start_ms=monday)
    assert bucket_end_ms(monday, "1w", KNOWN.anchors("NSE_EQ")) == monday + 7 * DAY_MS
    assert live_marked([week], "NSE_EQ", KNOWN, EVENING)[0].state == "live"
    assert live_marked([week], "NSE_EQ", KNOWN, monday + 7 * DAY_MS)[0].state == "closed"


@pytest.mark.parametrize(
    ("interval", "hole", "starts"),
    [
        ("1m", (0, 60), []),
        ("5m", (9, 11), [5, 10]),
        ("1h", (59, 61), [0, 60]),
        ("1h", (-30, 0), []),
        ("1h", (370, 500), [360]),
        ("1d", (9, 11), [-555]),
        ("1w", (9, 11), [-555 - 4 * 1440]),
        ("1d", (380, 1440), []),
    ],
)
def test_a_hole_makes_those_doubtful_that_it_lies_in_within_a_session(interval: str, hole: tuple[int, int], starts: list[int]) -> None:
    holes = [(OPEN + hole[0] * MINUTE_MS, OPEN + hole[1] * MINUTE_MS)]
    assert {OPEN + at * MINUTE_MS for at in starts} == doubtful_starts(holes, interval, "NSE_EQ", KNOWN)


def test_a_day_that_the_broker_has_confirmed_is_sure_whatever_its_minutes_lack() -> None:
    hole = [(OPEN, OPEN + MINUTE_MS)]
    assert doubtful_starts(hole, "1w", "NSE_EQ", KNOWN, sure_days={DAY}) == set()
    assert doubtful_starts(hole, "5m", "NSE_EQ", KNOWN, sure_days={DAY}) == {OPEN}


@pytest.mark.parametrize(("state", "says"), [("live", "live"), ("closed", "closed"), ("backfilled", "closed"), ("confirmed", "closed")])
def test_what_is_doubtful_is_closed_at_most(state: str, says: str) -> None:
    assert doubted(candle(0, state=state, interval="5m"), {OPEN}) == candle(0, state=says, interval="5m")
    assert doubted(candle(5, state=state, interval="5m"), {OPEN}).state == state


def test_silent_minutes_are_flat_at_the_close_before() -> None:
    filled = list(silences_filled([candle(3, close=101.5), candle(6)], "NSE_EQ", UNKNOWN, EVENING))
    assert minutes(filled) == [3, 4, 5, 6]
    assert filled[1] == Candle(7, "1m", OPEN + 4 * MINUTE_MS, 101.5, 101.5, 101.5, 101.5, 0, 5.0, "filled", 0, 0)


@pytest.mark.parametrize(
    ("market_minute", "last"),
    [(372, 371), (374, 373), (375, 374), (800, 374)],
)
def test_silence_after_the_last_trade_is_filled_as_far_as_the_session_has_gone(market_minute: int, last: int) -> None:
    filled = list(silences_filled([candle(370)], "NSE_EQ", KNOWN, OPEN + market_minute * MINUTE_MS))
    assert minutes(filled) == list(range(370, last + 1))


def test_silences_are_made_as_they_are_taken_from_either_end() -> None:
    sparse = [candle(day * 1440 + at) for day in range(400) for at in (0, 100)]
    both = list(silences_filled(sparse[:4], "NSE_EQ", KNOWN, EVENING))
    assert list(silences_filled(sparse[:4], "NSE_EQ", KNOWN, EVENING, newest_first=True)) == both[::-1]
    for newest_first in (False, True):
        calendar = _Asked()
        first = next(silences_filled(sparse, "NSE_EQ", calendar, EVENING, newest_first=newest_first))
        assert (first, calendar.asked) == (sparse[-newest_first], 1), "not the whole of four hundred days"


class _Asked(Calendar):
    """Counts how often it was asked for hours: once a candle."""

    asked = 0

    def hours(self, segment: str, time_ms: int) -> Hours | None:
        self.asked += 1
        return super().hours(segment, time_ms)


def test_an_hour_is_filled_when_the_session_ended_in_it() -> None:
    hours = [candle(240, interval="1h")]
    assert minutes(list(silences_filled(hours, "NSE_EQ", KNOWN, CLOSE))) == [240, 300, 360]
    assert minutes(list(silences_filled(hours, "NSE_EQ", KNOWN, CLOSE - 1))) == [240, 300]


def test_nothing_is_filled_from_one_day_into_the_next() -> None:
    two_days = [candle(373), candle(1440 + 2)]
    assert minutes(list(silences_filled(two_days, "NSE_EQ", KNOWN, EVENING + DAY_MS))) == [373, 374, 1442]
    assert minutes(list(silences_filled(two_days, "NSE_EQ", UNKNOWN, EVENING + DAY_MS))) == [373, 1442]
    days = [candle(-555, interval="1d"), candle(3 * 1440 - 555, interval="1d")]
    assert list(silences_filled(days, "NSE_EQ", KNOWN, EVENING + 9 * DAY_MS)) == days
