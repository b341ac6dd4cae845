from __future__ import annotations

import json
import os
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.simulator import calendar

INDIA = ZoneInfo("Asia/Kolkata")
SHARED = Path(os.environ.get("TRADINGOK_SHARED", Path(__file__).parents[4] / "shared" / "upstox" / "data"))


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=INDIA).timestamp() * 1000)


@pytest.mark.realdata
def test_expiries_are_those_that_the_exchange_held() -> None:
    path = SHARED / "nifty_actual_expiry_calendar_2021_2026.json"
    if not path.exists():
        pytest.skip(f"needs the expiry calendar of the captured data: {path}")
    # Tuesdays since September 2025. The August 2026 weeklies end where the file's own view of them ended.
    rows = [row for row in json.loads(path.read_text())["rows"] if row["original_scheduled_expiry"] >= "2025-09-02"]
    held = {(row["actual_expiry_date"], row["expiry_type"]) for row in rows if row["actual_expiry_date"] <= "2026-08-25"}
    first, last = date(2025, 9, 1), date(2026, 8, 25)
    found = set()
    day = first
    while day <= last:
        for expiry in (calendar.monthly_expiries(day, 1)[0], *calendar.weekly_expiries(day, 2)):
            if expiry.day <= last:
                found.add((expiry.day.isoformat(), "weekly" if expiry.weekly else "monthly"))
        day += timedelta(days=1)
    assert len(held) > 45
    assert found == held


def test_a_november_monthly_on_a_holiday_ends_the_day_before() -> None:
    assert calendar.monthly_expiries(date(2026, 11, 22), 3) == [
        (date(2026, 11, 23), False), (date(2026, 12, 29), False), (date(2027, 1, 25), False),
    ]  # fmt: skip
    assert [expiry.day.day for expiry in calendar.weekly_expiries(date(2026, 11, 22), 6)] == [1, 8, 15, 22]


@pytest.mark.parametrize(("day", "nearest"), [("2026-11-23", "2026-11-23"), ("2026-11-24", "2026-12-29"), ("2026-03-31", "2026-04-28")])
def test_an_expiry_lives_through_its_own_day_and_no_longer(day: str, nearest: str) -> None:
    assert calendar.monthly_expiries(date.fromisoformat(day), 1)[0].day == date.fromisoformat(nearest)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))
def test_days_and_minutes_are_those_of_india(moment: datetime) -> None:
    at = ms(moment.isoformat())
    assert calendar.day_of(at) == moment.date()
    assert calendar.minute_of_day(at) == moment.hour * 60 + moment.minute
    assert calendar.midnight_ms(moment.date()) == ms(f"{moment:%Y-%m-%d}T00:00:00")


def test_the_expiry_of_the_master_is_the_last_second_of_the_day() -> None:
    # NSE_FO rows of 25 August 2026 in the broker's master.
    assert calendar.expiry_ms(date(2026, 8, 25)) == 1787682599000


@pytest.mark.parametrize(
    ("at", "equity", "future"),
    [
        ("2026-11-23T08:59:59", "CLOSING_END", "NORMAL_CLOSE"),
        ("2026-11-23T09:00:00", "PRE_OPEN_START", "PRE_OPEN_START"),
        ("2026-11-23T09:08:00", "PRE_OPEN_END", "PRE_OPEN_END"),
        ("2026-11-23T09:15:00", "NORMAL_OPEN", "NORMAL_OPEN"),
        ("2026-11-23T15:29:59", "NORMAL_OPEN", "NORMAL_OPEN"),
        ("2026-11-23T15:30:00", "CLOSING_END", "NORMAL_OPEN"),
        ("2026-11-23T15:40:00", "CLOSING_END", "NORMAL_CLOSE"),
        ("2026-07-31T15:30:00", "CLOSING_END", "NORMAL_CLOSE"),
        ("2026-11-24T12:00:00", "CLOSING_END", "NORMAL_CLOSE"),
        ("2026-11-22T12:00:00", "CLOSING_END", "NORMAL_CLOSE"),
    ],
)
def test_real_hours_follow_the_clock_and_the_holidays(at: str, equity: str, future: str) -> None:
    assert calendar.segment_status("NSE_EQ", ms(at), "real") == equity
    assert calendar.segment_status("NSE_FO", ms(at), "real") == future
    assert calendar.segment_status("NSE_FO", ms(at), "always") == "NORMAL_OPEN"


@pytest.mark.parametrize(
    ("segment", "at", "status"),
    [
        ("MCX_FO", "2026-11-23T08:59:59", "NORMAL_CLOSE"),
        ("MCX_FO", "2026-11-23T23:29:59", "NORMAL_OPEN"),
        ("MCX_FO", "2026-11-23T23:30:00", "NORMAL_CLOSE"),
        ("NCD_FO", "2026-11-23T16:59:59", "NORMAL_OPEN"),
        ("NSE_EQ", "2026-11-08T17:45:00", "PRE_OPEN_START"),
        ("NSE_EQ", "2026-11-08T18:00:00", "NORMAL_OPEN"),
        ("NSE_FO", "2026-11-08T19:14:59", "NORMAL_OPEN"),
        ("NSE_EQ", "2026-11-08T19:15:00", "CLOSING_END"),
    ],
)
def test_commodities_currencies_and_muhurat_have_their_own_hours(segment: str, at: str, status: str) -> None:
    assert calendar.segment_status(segment, ms(at), "real") == status


@pytest.mark.parametrize(
    ("at", "status", "since"),
    [
        ("2026-11-23T15:14:59", None, ""),
        ("2026-11-23T15:15:00", "CTS_CLOSE", "2026-11-23T15:15:00"),
        ("2026-11-23T15:21:07", "CAS_LM_START", "2026-11-23T15:20:00"),
        ("2026-11-23T20:00:00", "CAS_STOP", "2026-11-23T15:30:00"),
        ("2026-11-24T15:20:00", None, ""),
        ("2026-11-08T18:30:00", None, ""),
        ("2026-07-31T15:20:00", None, ""),
        ("2026-08-03T15:20:00", "CAS_LM_START", "2026-08-03T15:20:00"),
    ],
)
def test_the_closing_auction_is_told_on_its_days(at: str, status: str | None, since: str) -> None:
    assert calendar.auctions(ms(at), "real") == ({"NSE_EQ": (status, ms(since))} if status else {})
    assert calendar.auctions(ms(at), "always") == {}


def test_those_of_the_closing_auction_stop_at_a_quarter_past_three() -> None:
    assert calendar.session_minutes("NSE_EQ:CAS", date(2026, 7, 31)) == (555, 930)
    assert calendar.session_minutes("NSE_EQ:CAS", date(2026, 8, 3)) == (555, 915)
    assert calendar.session_minutes("NSE_EQ", date(2026, 8, 3)) == (555, 930)


def test_a_session_is_the_running_one_or_the_last() -> None:
    holiday = calendar.session_at("NSE_FO", ms("2026-11-24T12:00:00"), "real")
    assert holiday == (date(2026, 11, 23), ms("2026-11-23T09:15:00"), ms("2026-11-23T15:40:00"))
    running = calendar.session_at("NSE_EQ", ms("2026-11-23T10:00:30"), "real")
    assert running == (date(2026, 11, 23), ms("2026-11-23T09:15:00"), ms("2026-11-23T10:00:30"))
    early = calendar.session_at("NSE_EQ", ms("2026-11-23T09:00:00"), "real")
    assert early.day == date(2026, 11, 20)
    always = calendar.session_at("NSE_EQ", ms("2026-11-22T03:00:00"), "always")
    assert always == (date(2026, 11, 22), ms("2026-11-22T00:00:00"), ms("2026-11-22T03:00:00"))


@pytest.mark.parametrize(
    ("at", "hours", "turn"),
    [
        ("2026-11-12T08:00:00", "real", "2026-11-12T08:45:00"),  # currency and commodities before their 09:00
        ("2026-11-12T09:08:30", "real", "2026-11-12T09:15:00"),
        ("2026-11-12T09:14:59.999", "real", "2026-11-12T15:15:00"),  # the turn is a millisecond away: the next one
        ("2026-11-12T15:29:00", "real", "2026-11-12T15:30:00"),
        ("2026-11-12T15:30:00", "real", "2026-11-12T15:40:00"),
        ("2026-11-12T23:40:00", "real", "2026-11-13T00:00:00"),
        ("2026-11-10T09:00:00", "real", "2026-11-11T00:00:00"),  # a holiday
        ("2026-11-08T17:50:00", "real", "2026-11-08T17:53:00"),  # Muhurat: pre-open ends
        ("2026-11-12T09:00:00", "always", "2026-11-13T00:00:00"),
    ],
)
def test_the_next_change_of_a_status_is_known(at: str, hours: calendar.Hours, turn: str) -> None:
    assert calendar.turn_after(ms(at), hours) == ms(turn)


def test_no_status_changes_between_two_turns() -> None:
    at, end = ms("2026-11-06T00:00:00"), ms("2026-11-12T00:00:00")
    while at < end:
        turn = calendar.turn_after(at, "real")
        for segment in calendar.SEGMENTS:
            assert calendar.segment_status(segment, at, "real") == calendar.segment_status(segment, turn - 1, "real"), (segment, at)
        assert calendar.auctions(at, "real") == calendar.auctions(turn - 1, "real")
        at = turn


def test_a_span_is_from_the_first_open_to_the_last_close() -> None:
    day = date(2026, 11, 12)
    assert calendar.open_span({"NSE_INDEX", "NSE_EQ"}, day) == (ms("2026-11-12T09:15:00"), ms("2026-11-12T15:30:00"))
    assert calendar.open_span({"NSE_EQ", "NSE_FO"}, day) == (ms("2026-11-12T09:15:00"), ms("2026-11-12T15:40:00"))
    assert calendar.open_span({"NSE_EQ", "MCX_FO"}, day) == (ms("2026-11-12T09:00:00"), ms("2026-11-12T23:30:00"))
    assert calendar.open_span({"NSE_EQ"}, date(2026, 11, 8)) == (ms("2026-11-08T18:00:00"), ms("2026-11-08T19:15:00"))
    assert calendar.open_span({"NSE_EQ"}, date(2026, 11, 10)) is None
