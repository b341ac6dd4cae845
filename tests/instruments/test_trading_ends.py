"""An expiry ends when the calendar says that trading ends, and at the usual hour on days that it does not know."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from instruments import trading_ends
from instruments.domain.instrument import IST
from instruments.selectors import underlying_expiries
from instruments.services import instruments_refresh
from instruments.trading_ends import trading_end_ms
from marketdata.calendar import sessions_record, trading_end_known
from marketdata.domain.session import Hours
from tests.instruments.rows import DAY_1, MONTHLY, WEEKLY, market

pytestmark = pytest.mark.django_db
SPECIAL = date(2026, 11, 8)
HOLIDAY = date(2026, 11, 24)


def ist(day: date, hour: int = 0, minute: int = 0) -> int:
    return round(datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST).timestamp() * 1000)


def hours(exchange: str, day: date, opens: tuple[int, int], closes: tuple[int, int]) -> Hours:
    return Hours(exchange, ist(day), ist(day, *opens), ist(day, *closes))


@pytest.mark.parametrize(
    ("segment", "day", "end"),
    [
        ("NSE_FO", date(2026, 7, 28), (15, 30)),  # before the closing auction
        ("NSE_FO", date(2026, 8, 3), (15, 40)),
        ("BSE_FO", date(2026, 11, 26), (15, 40)),
    ],
)
def test_a_day_that_no_calendar_knows_ends_at_the_usual_hour(segment: str, day: date, end: tuple[int, int]) -> None:
    assert trading_end_known(segment, day) is None
    assert trading_end_ms(segment, day) == ist(day, *end)


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        (WEEKLY, (9, 15), (15, 30)),  # as before the closing auction, although it is past
        (WEEKLY, (9, 15), (15, 40)),
        (WEEKLY, (9, 15), (17, 0)),  # prolonged after an outage
        (SPECIAL, (18, 0), (19, 15)),  # Muhurat trading on a Sunday
        (date(2026, 7, 28), (9, 15), (12, 30)),
    ],
)
def test_the_calendars_hour_is_the_end_whatever_is_usual(day: date, opens: tuple[int, int], closes: tuple[int, int]) -> None:
    sessions_record([hours("NFO", day, opens, closes), hours("NSE", day, (9, 15), (15, 15))])
    assert trading_end_ms("NSE_FO", day) == ist(day, *closes)
    assert trading_end_ms("BSE_FO", day) != ist(day, 15, 15)  # another exchange's calendar is not ours


def test_a_holiday_announced_after_the_master_leaves_the_usual_hour_until_the_master_is_corrected() -> None:
    sessions_record([Hours("NFO", ist(HOLIDAY), 0, 0, "Guru Nanak Jayanti")])
    assert trading_end_known("NSE_FO", HOLIDAY) is None
    assert trading_end_ms("NSE_FO", HOLIDAY) == ist(HOLIDAY, 15, 40)


@pytest.mark.parametrize("closes", [(14, 0), (15, 30), (15, 40), (19, 15)])
def test_this_weeks_expiry_is_the_next_one_from_the_calendars_end_on(closes: tuple[int, int]) -> None:
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    sessions_record([hours("NFO", WEEKLY, (9, 15), closes)])
    end = datetime.fromtimestamp(ist(WEEKLY, *closes) / 1000, UTC)
    nearest = [underlying_expiries("NIFTY", moment)[0] for moment in (end - timedelta(milliseconds=1), end)]
    assert [(each.expiry.date, each.words[0]) for each in nearest] == [(WEEKLY, "@w0"), (MONTHLY, "@w0")]


def test_without_a_calendar_the_usual_hours_hold() -> None:
    sessions_record([hours("NFO", WEEKLY, (9, 15), (17, 0))])
    trading_ends.provide(lambda segment, day: None)
    try:
        assert trading_end_ms("NSE_FO", WEEKLY) == ist(WEEKLY, 15, 40)
    finally:
        trading_ends.provide(trading_end_known)
    assert trading_end_ms("NSE_FO", WEEKLY) == ist(WEEKLY, 17, 0)
