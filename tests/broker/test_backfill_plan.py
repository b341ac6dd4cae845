"""What is asked of the broker's past, and what of its answer is written: by plain calls."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import backfill_plan as plan
from broker.backfill_plan import Moved, Subject, day_ms, followed_stretches, joined, minutes_around, month_spans, sort_out, usable
from broker.upstox.protocol import Bar

IST = timezone(timedelta(hours=5, minutes=30))
MINUTE = 60_000
DAY = date(2026, 11, 20)
OPTION = Subject(7, "NSE_FO|1", "NSE_FO")
INDEX = Subject(8, "NSE_INDEX|Nifty 50", "NSE_INDEX")


def at(hour: int, minute: int, second: int = 0) -> int:
    """A time of 20 November 2026 in India, ms UTC."""
    return round(datetime(2026, 11, 20, hour, minute, second, tzinfo=IST).timestamp() * 1000)


def bar(start_ms: int, *, close: float = 101.0, volume: int = 75) -> Bar:
    return Bar(start_ms, 100.0, max(102.0, close), 99.0, close, volume, 10.0)


def sorted_out(
    bars: list[Bar],
    states: dict[int, str],
    *,
    subject: Subject = OPTION,
    holes: list[tuple[int, int]] | None = None,
    now: int = at(18, 0),
    followed: tuple[int, int] = (0, at(23, 59)),
    whole: bool = False,
) -> tuple[list[tuple[int, str]], list[tuple[int, int]], int]:
    """(start, state) of what is to be written, the missing stretches, the odd rows; trading is from 09:15 to 15:40."""

    def trades(minute_ms: int) -> bool:
        return at(9, 15) <= minute_ms < at(15, 40)

    def follows(minute_ms: int) -> bool:
        return followed[0] <= minute_ms < followed[1]

    found = sort_out(subject, bars, {DAY}, states=states, holes=holes or [], now_ms=now, trades=trades, followed=follows, whole=whole)
    return [(candle.start_ms, candle.state) for candle in found.candles], found.missing, found.odd


def test_a_hole_is_filled_whatever_ticks_had_made_of_its_edges_and_nothing_confirmed_is_touched() -> None:
    bars = [bar(at(10, minute)) for minute in range(8)]
    states = {at(10, 0): "confirmed", at(10, 1): "confirmed", at(10, 2): "closed", at(10, 6): "closed", at(10, 7): "confirmed"}
    hole = minutes_around(at(10, 1, 30), at(10, 6, 10))
    assert hole == (at(10, 1), at(10, 7))
    written, missing, odd = sorted_out(bars, states, holes=[hole])
    assert written == [(at(10, minute), "backfilled") for minute in (2, 3, 4, 5, 6)]
    assert (missing, odd) == ([], 0)


def test_a_minute_from_ticks_alone_is_confirmed_and_one_between_that_we_lack_is_missing() -> None:
    bars = [bar(at(10, minute)) for minute in range(8)]
    states = {at(10, 1): "confirmed", at(10, 2): "closed", at(10, 5): "backfilled", at(10, 7): "confirmed"}
    written, missing, _ = sorted_out(bars, states, followed=(at(10, 1), at(10, 8)))
    assert written == [(at(10, 2), "confirmed"), *((at(10, minute), "backfilled") for minute in (3, 4, 6))]
    assert missing == [(at(10, 3), at(10, 5)), (at(10, 6), at(10, 7))]


def test_the_first_and_the_last_minute_of_a_session_can_be_missing() -> None:
    bars = [bar(at(9, 15)), bar(at(9, 16)), bar(at(15, 39))]
    written, missing, _ = sorted_out(bars, {at(9, 16): "confirmed"})
    assert written == [(at(9, 15), "backfilled"), (at(15, 39), "backfilled")]
    assert missing == [(at(9, 15), at(9, 16)), (at(15, 39), at(15, 40))]


def test_what_was_not_followed_is_not_missing_but_a_chart_has_no_hole_in_it() -> None:
    bars = [bar(at(10, minute)) for minute in range(8)]
    states = {at(10, 2): "confirmed", at(10, 5): "confirmed"}
    written, missing, _ = sorted_out(bars, states, followed=(at(10, 4), at(10, 7)))
    assert missing == [(at(10, 4), at(10, 5)), (at(10, 6), at(10, 7))]
    assert [start for start, _ in written] == [at(10, 3), at(10, 4), at(10, 6)], "nothing before the first, nothing after it was given up"


def test_a_key_is_followed_from_its_entry_until_it_leaves_and_a_start_tells_all() -> None:
    changes = [
        Moved(at(9, 0), True, {"A", "B", "C"}, ()),
        Moved(at(10, 0), False, {"D"}, {"A"}),
        Moved(at(11, 0), False, {"A"}, {"D"}),
        Moved(at(12, 0), True, {"A", "B"}, ()),
        Moved(at(13, 0), False, {"B"}, {"B"}),
    ]
    assert followed_stretches(changes, (at(9, 15), at(15, 30))) == {
        "A": [(at(9, 15), at(10, 0)), (at(11, 0), at(15, 30))],
        "B": [(at(9, 15), at(13, 0)), (at(13, 0), at(15, 30))],
        "C": [(at(9, 15), at(12, 0))],
        "D": [(at(10, 0), at(11, 0))],
    }


def test_a_minute_without_a_trade_is_not_missing_but_an_index_has_no_volume() -> None:
    states = {at(10, 0): "confirmed", at(10, 2): "confirmed"}
    bars = [bar(at(10, 1), volume=0)]
    assert sorted_out(bars, states)[1] == []
    assert sorted_out(bars, states, subject=INDEX)[1] == [(at(10, 1), at(10, 2))]


def test_what_may_still_be_on_its_way_to_the_store_is_not_missing() -> None:
    states = {at(10, 0): "confirmed", at(10, 4): "confirmed"}
    bars = [bar(at(10, 1)), bar(at(10, 2))]
    assert sorted_out(bars, states, now=at(10, 7))[1] == [(at(10, 1), at(10, 2))]


def test_the_forming_minute_and_one_that_has_hardly_ended_are_left_out() -> None:
    bars = [bar(at(10, minute)) for minute in range(4)]
    written, _, odd = sorted_out(bars, {}, holes=[(at(10, 0), at(10, 9))], now=at(10, 3, 30))
    assert written == [(at(10, 0), "backfilled"), (at(10, 1), "backfilled")]
    assert odd == 0


def test_only_hours_of_trading_count() -> None:
    bars = [bar(at(9, 7)), bar(at(9, 14)), bar(at(9, 15)), bar(at(15, 39)), bar(at(15, 40)), bar(at(15, 59))]
    assert [start for start, _ in sorted_out(bars, {}, whole=True)[0]] == [at(9, 15), at(15, 39)]


def test_odd_rows_are_left_out_and_counted_and_other_days_are_neither() -> None:
    rows = [
        bar(at(10, 1)),
        bar(at(10, 0)),  # newest first, as the broker sends them
        bar(at(10, 0), close=100.5),  # twice
        Bar(at(10, 2), 0.0, 0.0, 0.0, 0.0, 0, 0.0),
        Bar(at(10, 3), 100.0, 99.0, 98.0, 99.0, 1, 0.0),  # opened above its high
        bar(at(10, 4, 30)),
        bar(at(10, 0) - 86_400_000),
    ]
    kept, odd = usable(rows, {DAY})
    assert [row.start_ms for row in kept] == [at(10, 0), at(10, 1)]
    assert odd == 4


def test_a_candle_says_what_its_instrument_has() -> None:
    row = bar(at(10, 0), volume=75)
    assert plan.candle_of(OPTION, row, "1m", "backfilled")[7:] == (75, 10.0, "backfilled", 0, None)
    assert plan.candle_of(INDEX, row, "1m", "confirmed")[7:10] == (0, None, "confirmed")
    assert plan.candle_of(Subject(9, "NSE_EQ|INE1", "NSE_EQ"), row, "1d", "confirmed").open_interest is None


def test_months_are_cut_at_their_ends_newest_first_and_what_is_known_is_left_out() -> None:
    days = [date(2026, 1, 30) + timedelta(days=forth) for forth in range(35)]
    assert month_spans(days) == [
        (date(2026, 3, 1), date(2026, 3, 5)),
        (date(2026, 2, 1), date(2026, 2, 28)),
        (date(2026, 1, 30), date(2026, 1, 31)),
    ]
    assert month_spans(day for day in days if day != date(2026, 2, 10))[1:3] == [
        (date(2026, 2, 11), date(2026, 2, 28)),
        (date(2026, 2, 1), date(2026, 2, 9)),
    ]


@given(st.sets(st.dates(date(2022, 1, 1), date(2026, 12, 31)), max_size=60))
def test_spans_hold_each_day_once_and_no_span_is_longer_than_a_month(days: set[date]) -> None:
    spans = month_spans(days)
    held = [first + timedelta(days=forth) for first, last in spans for forth in range((last - first).days + 1)]
    assert sorted(held) == sorted(days)
    assert all((first.year, first.month) == (last.year, last.month) for first, last in spans)
    assert spans == sorted(spans, reverse=True)


def test_days_are_cut_into_decades() -> None:
    spans = list(plan.decade_spans(date(2000, 1, 1), date(2026, 11, 20)))
    assert spans[0] == (date(2017, 1, 1), date(2026, 11, 20))
    assert spans[-1][0] == date(2000, 1, 1)
    assert all((last - first).days < 3653 for first, last in spans)
    assert [later[0] - timedelta(days=1) for later in spans[:-1]] == [earlier[1] for earlier in spans[1:]]


@given(st.sets(st.integers(0, 400), max_size=80))
def test_minutes_that_follow_on_each_other_are_one_stretch(numbers: set[int]) -> None:
    stretches = joined(at(9, 15) + number * MINUTE for number in sorted(numbers))
    held = [minute for start, end in stretches for minute in range(start, end, MINUTE)]
    assert held == [at(9, 15) + number * MINUTE for number in sorted(numbers)]
    assert all(earlier[1] < later[0] for earlier, later in pairwise(stretches))


@pytest.mark.parametrize("host", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_days_are_india_s_whatever_the_host_s_zone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", host)
    time.tzset()
    try:
        assert day_ms(DAY) == at(0, 0)
        assert plan.day_of(at(0, 0)) == plan.day_of(at(23, 59, 59)) == DAY
        assert plan.day_of(at(0, 0) - 1) == date(2026, 11, 19)
        assert plan.days_within((at(0, 0) - 1, at(0, 0) + 1)) == [DAY, date(2026, 11, 19)]
        assert plan.days_within((at(0, 0) - 60_000, at(0, 0))) == [date(2026, 11, 19)]
        assert datetime.fromtimestamp(day_ms(DAY) / 1000, UTC).hour == 18
    finally:
        monkeypatch.undo()
        time.tzset()
