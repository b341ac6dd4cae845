"""The calendar and the intervals in Indian time, whatever the host's zone. Expected times are written by hand (FACTS §6)."""

from __future__ import annotations

import pytest

from marketdata.domain.candle import INTERVAL_MINUTES, MCX_OPEN_MS, interval_end_ms, interval_start_ms
from marketdata.domain.session import Calendar, Hours
from tests.zones import host_zone, ist  # noqa: F401

pytestmark = pytest.mark.usefixtures("host_zone")

MUHURAT = Hours("NSE", ist("2026-11-08 00:00"), ist("2026-11-08 18:00"), ist("2026-11-08 19:15"), "Muhurat Trading")
MONDAY = Hours("NSE", ist("2026-11-23 00:00"), ist("2026-11-23 09:15"), ist("2026-11-23 15:30"))
HOLIDAY = Hours("NSE", ist("2026-11-24 00:00"), 0, 0, "Guru Nanak Jayanti")
METALS = Hours("MCX", ist("2026-11-23 00:00"), ist("2026-11-23 09:00"), ist("2026-11-23 23:30"))
EVENING = Hours("MCX", ist("2026-11-24 00:00"), ist("2026-11-24 17:00"), ist("2026-11-24 23:30"))
KNOWN = Calendar([METALS, EVENING, MUHURAT, MONDAY, HOLIDAY])


@pytest.mark.parametrize(
    ("interval", "time", "start", "end"),
    [
        ("1m", "2026-11-23 09:15:59", "2026-11-23 09:15", "2026-11-23 09:16"),
        ("3m", "2026-11-23 09:20:00", "2026-11-23 09:18", "2026-11-23 09:21"),
        ("5m", "2026-11-23 15:39:59", "2026-11-23 15:35", "2026-11-23 15:40"),
        ("10m", "2026-11-23 10:00:00", "2026-11-23 09:55", "2026-11-23 10:05"),
        ("15m", "2026-11-23 15:29:59", "2026-11-23 15:15", "2026-11-23 15:30"),
        ("30m", "2026-11-23 15:20:00", "2026-11-23 15:15", "2026-11-23 15:45"),
        ("1h", "2026-11-23 10:14:59", "2026-11-23 09:15", "2026-11-23 10:15"),
        ("2h", "2026-11-23 15:39:00", "2026-11-23 15:15", "2026-11-23 17:15"),
        ("4h", "2026-11-23 13:15:00", "2026-11-23 13:15", "2026-11-23 17:15"),
        ("4h", "2026-11-23 23:59:00", "2026-11-23 21:15", "2026-11-24 00:00"),
        ("1d", "2026-11-23 00:00:00", "2026-11-23 00:00", "2026-11-24 00:00"),
        ("1d", "2026-11-23 23:59:59", "2026-11-23 00:00", "2026-11-24 00:00"),
        ("1w", "2026-11-22 23:59:59", "2026-11-16 00:00", "2026-11-23 00:00"),  # a Sunday
        ("1w", "2026-11-23 00:00:00", "2026-11-23 00:00", "2026-11-30 00:00"),  # a Monday
        ("1w", "2026-11-08 18:30:00", "2026-11-02 00:00", "2026-11-09 00:00"),  # Muhurat
        ("1M", "2026-11-30 23:59:59", "2026-11-01 00:00", "2026-12-01 00:00"),
        ("1M", "2026-12-31 20:00:00", "2026-12-01 00:00", "2027-01-01 00:00"),
        ("1M", "2028-02-29 10:00:00", "2028-02-01 00:00", "2028-03-01 00:00"),
    ],
)
def test_intervals_lie_in_indian_time(interval: str, time: str, start: str, end: str) -> None:
    assert interval_start_ms(ist(time), interval) == ist(start)
    assert interval_end_ms(ist(start), interval) == ist(end)


def test_every_interval_has_its_case() -> None:
    (mark,) = (mark for mark in test_intervals_lie_in_indian_time.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(INTERVAL_MINUTES)


@pytest.mark.parametrize(
    ("segment", "day", "time", "interval", "start", "end"),
    [
        ("MCX_FO", "2026-11-23", "23:10", "1h", "23:00", "24:00"),
        ("MCX_FO", "2026-11-23", "23:10", "2h", "23:00", "24:00"),
        ("MCX_FO", "2026-11-23", "09:29", "30m", "09:00", "09:30"),
        ("NSE_EQ", "2026-11-23", "09:44", "30m", "09:15", "09:45"),
        ("NSE_EQ", "2026-11-08", "18:59", "1h", "18:00", "19:00"),  # counted from Muhurat's own open
        ("NSE_EQ", "2026-11-08", "19:14", "1h", "19:00", "20:00"),
        ("MCX_FO", "2026-11-24", "17:29", "30m", "17:00", "17:30"),
    ],
)
def test_intervals_are_counted_from_each_sessions_open(segment: str, day: str, time: str, interval: str, start: str, end: str) -> None:
    anchor = KNOWN.anchors(segment).of(ist(f"{day} 00:00"))
    begun = interval_start_ms(ist(f"{day} {time}"), interval, anchor)
    assert begun == ist(f"{day} {start}")
    midnight = ist(f"{day} 00:00") + 86_400_000
    assert interval_end_ms(begun, interval, anchor) == (midnight if end == "24:00" else ist(f"{day} {end}"))


def test_an_open_that_is_the_usual_one_needs_no_anchor_of_its_own() -> None:
    assert KNOWN.anchors("NSE_EQ").special == {ist("2026-11-08 00:00"): 18 * 3_600_000}
    assert KNOWN.anchors("MCX_FO").usual_ms == MCX_OPEN_MS == 9 * 3_600_000
    assert KNOWN.anchors("NCD_FO").usual_ms == 9 * 3_600_000
    assert KNOWN.anchors("NSE_FO") == (33_300_000, {})  # 09:15
    whole = Calendar([Hours("NSE", ist("2026-11-21 00:00"), ist("2026-11-21 00:00"), ist("2026-11-22 00:00"))])
    assert whole.anchors("NSE_EQ").special == {}, "a market that never closes holds the usual open"


@pytest.mark.parametrize("time", ["00:00:00", "05:29:59", "05:30:00", "18:29:59", "18:30:00", "23:59:59"])
def test_a_days_hours_are_found_from_any_moment_of_its_indian_day(time: str) -> None:
    assert KNOWN.hours("NSE_EQ", ist(f"2026-11-23 {time}")) == MONDAY
    assert KNOWN.hours("NSE_INDEX", ist(f"2026-11-24 {time}")) == HOLIDAY
    assert KNOWN.hours("MCX_INDEX", ist(f"2026-11-23 {time}")) == METALS
    assert KNOWN.hours("NSE_FO", ist(f"2026-11-23 {time}")) is None
    assert KNOWN.hours("NSE", ist(f"2026-11-23 {time}")) == MONDAY, "by the exchange, too"


def test_days_come_in_order() -> None:
    assert KNOWN.between(ist("2026-11-23 00:00"), ist("2026-11-25 00:00")) == [METALS, MONDAY, EVENING, HOLIDAY]
    assert KNOWN.between(ist("2026-11-09 00:00"), ist("2026-11-23 00:00")) == []
    assert KNOWN.days("MCX_FO") == [METALS, EVENING]
    assert KNOWN.days("NSE_EQ") == [MUHURAT, MONDAY, HOLIDAY]


@pytest.mark.parametrize(
    ("start", "end", "within"),
    [
        ("2026-11-23 09:00", "2026-11-23 09:15", False),
        ("2026-11-23 09:00", "2026-11-23 09:15:01", True),
        ("2026-11-23 15:30", "2026-11-25 12:00", False),
        ("2026-11-23 15:29:59", "2026-11-24 08:00", True),
        ("2026-11-07 00:00", "2026-11-09 00:00", True),
        ("2026-11-08 09:00", "2026-11-08 17:00", False),
        ("2026-11-24 00:00", "2026-11-24 23:59", False),
    ],
)
def test_whether_a_stretch_holds_some_of_a_session(start: str, end: str, within: bool) -> None:
    assert KNOWN.trades_within("NSE_EQ", ist(start), ist(end)) is within
