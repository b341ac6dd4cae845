"""When a minute trades: the rows of the law in broker/hours.py, on days of the exchange's own calendar (FACTS §6), in three host zones."""

from __future__ import annotations

import pytest

from broker.hours import MOST_REPORTS, TradingHours
from marketdata.domain.session import Calendar, Hours
from tests.zones import host_zone, ist  # noqa: F401

pytestmark = pytest.mark.usefixtures("host_zone")


def day(exchange: str, date: str, opens: str = "", closes: str = "") -> Hours:
    """Hours of a day; without times a day on which nothing trades."""
    midnight = ist(f"{date} 00:00")
    return Hours(exchange, midnight, ist(f"{date} {opens}") if opens else 0, ist(f"{date} {closes}") if closes else 0)


KNOWN = Calendar(
    [
        day("NSE", "2026-07-31", "09:15", "15:30"),
        day("NFO", "2026-07-31", "09:15", "15:30"),
        day("NFO", "2026-08-03", "09:15", "15:40"),
        day("NSE", "2026-11-08", "18:00", "19:15"),  # Muhurat, a Sunday
        day("NFO", "2026-11-08", "18:00", "19:15"),
        day("NSE", "2026-11-21"),  # a Saturday
        day("NSE", "2026-11-23", "09:15", "15:30"),
        day("NFO", "2026-11-23", "09:15", "15:40"),
        day("MCX", "2026-11-23", "09:00", "23:30"),
        day("NSE", "2026-11-24"),  # Guru Nanak Jayanti
    ]
)


def hours(calendar: Calendar = KNOWN) -> TradingHours:
    made = TradingHours()
    made.take_calendar(calendar)
    return made


def told(made: TradingHours, segment: str, *reports: tuple[str, str]) -> TradingHours:
    """Give a feed's reports: when, and which status."""
    for at, status in reports:
        made.observe({segment: status}, ist(at))
    return made


@pytest.mark.parametrize(
    ("segment", "minute", "trades"),
    [
        ("NSE_EQ", "2026-11-23 09:14", False),
        ("NSE_EQ", "2026-11-23 09:15", True),
        ("NSE_EQ", "2026-11-23 15:29", True),
        ("NSE_EQ", "2026-11-23 15:30", False),
        ("NSE_INDEX", "2026-11-23 15:29", True),
        ("NSE_FO", "2026-11-23 15:39", True),
        ("NSE_FO", "2026-11-23 15:40", False),
        ("NSE_FO", "2026-07-31 15:29", True),
        ("NSE_FO", "2026-07-31 15:30", False),
        ("NSE_FO", "2026-08-03 15:30", True),
        ("MCX_FO", "2026-11-23 08:59", False),
        ("MCX_FO", "2026-11-23 09:00", True),
        ("MCX_FO", "2026-11-23 23:29", True),
        ("MCX_FO", "2026-11-23 23:30", False),
        ("NSE_EQ", "2026-11-08 11:00", False),
        ("NSE_EQ", "2026-11-08 17:59", False),
        ("NSE_EQ", "2026-11-08 18:00", True),
        ("NSE_FO", "2026-11-08 19:14", True),
        ("NSE_FO", "2026-11-08 19:15", False),
        ("NSE_EQ", "2026-11-24 11:00", False),
        ("NSE_EQ", "2026-11-25 03:00", True),  # not known
        ("BSE_EQ", "2026-11-23 03:00", True),  # not known
    ],
)
def test_a_known_days_hours_count(segment: str, minute: str, trades: bool) -> None:
    assert hours().trades(segment, ist(minute)) is trades


def test_a_special_session_on_a_saturday_is_not_lost() -> None:
    made = told(hours(), "NSE_EQ", ("2026-11-21 10:59:30", "PRE_OPEN_END"), ("2026-11-21 11:00:01", "NORMAL_OPEN"))
    assert not made.trades("NSE_EQ", ist("2026-11-21 11:00")), "one report is not believed yet"
    told(made, "NSE_EQ", ("2026-11-21 11:01:00", "NORMAL_OPEN"))
    assert not made.trades("NSE_EQ", ist("2026-11-21 11:00")), "59 s neither"
    told(made, "NSE_EQ", ("2026-11-21 11:01:01", "NORMAL_OPEN"))
    assert made.trades("NSE_EQ", ist("2026-11-21 11:00"))
    assert not made.trades("NSE_EQ", ist("2026-11-21 10:59"))
    told(made, "NSE_EQ", ("2026-11-21 12:30:02", "NORMAL_CLOSE"))
    assert made.trades("NSE_EQ", ist("2026-11-21 12:29"))
    assert not made.trades("NSE_EQ", ist("2026-11-21 12:30"))


def test_a_session_that_goes_on_is_extended_a_late_report_extends_nothing() -> None:
    late = told(hours(), "NSE_EQ", ("2026-11-23 09:15", "NORMAL_OPEN"), ("2026-11-23 15:30:59", "NORMAL_OPEN"))
    assert not late.trades("NSE_EQ", ist("2026-11-23 15:30"))
    longer = told(late, "NSE_EQ", ("2026-11-23 15:31", "NORMAL_OPEN"))
    assert longer.trades("NSE_EQ", ist("2026-11-23 15:30"))
    assert longer.trades("NSE_EQ", ist("2026-11-23 15:50")), "while nobody says otherwise"
    told(longer, "NSE_EQ", ("2026-11-23 16:00:03", "CLOSING_START"))
    assert longer.trades("NSE_EQ", ist("2026-11-23 15:59"))
    assert not longer.trades("NSE_EQ", ist("2026-11-23 16:00"))
    assert not longer.trades("NSE_EQ", ist("2026-11-23 09:14"))


def test_a_session_that_begins_before_its_time_is_kept() -> None:
    made = told(hours(), "NSE_EQ", ("2026-11-23 09:00", "NORMAL_OPEN"), ("2026-11-23 09:01", "NORMAL_OPEN"))
    assert made.trades("NSE_EQ", ist("2026-11-23 09:00"))
    assert not made.trades("NSE_EQ", ist("2026-11-23 08:59"))


def test_the_plan_stands_against_a_status_that_says_closed() -> None:
    made = told(hours(), "NSE_EQ", ("2026-11-23 09:10", "PRE_OPEN_END"), ("2026-11-23 11:00", "NORMAL_CLOSE"))
    assert made.trades("NSE_EQ", ist("2026-11-23 11:05"))


def test_an_unknown_day_is_bounded_by_what_the_feed_says() -> None:
    made = hours(Calendar())
    assert made.trades("NSE_EQ", ist("2026-11-23 04:00")), "nothing is known"
    told(made, "NSE_EQ", ("2026-11-23 09:08:00", "PRE_OPEN_END"))
    assert made.trades("NSE_EQ", ist("2026-11-23 09:07")), "before anybody looked"
    assert not made.trades("NSE_EQ", ist("2026-11-23 09:08"))
    told(made, "NSE_EQ", ("2026-11-23 09:15:02", "NORMAL_OPEN"))
    assert not made.trades("NSE_EQ", ist("2026-11-23 09:14"))
    assert made.trades("NSE_EQ", ist("2026-11-23 09:15"))
    told(made, "NSE_EQ", ("2026-11-23 15:30:04", "CLOSING_START"), ("2026-11-23 15:44", "CLOSING_END"))
    assert made.trades("NSE_EQ", ist("2026-11-23 15:29"))
    assert not made.trades("NSE_EQ", ist("2026-11-23 15:30"))
    assert not made.trades("NSE_EQ", ist("2026-11-23 15:43")), "the post-close session"
    assert made.trades("NSE_FO", ist("2026-11-23 15:43")), "of another segment nothing was said"


def test_yesterdays_status_says_nothing_of_an_unknown_day() -> None:
    made = told(hours(Calendar()), "NSE_EQ", ("2026-11-23 16:00", "NORMAL_CLOSE"))
    assert made.trades("NSE_EQ", ist("2026-11-24 10:59"))
    told(made, "NSE_EQ", ("2026-11-24 11:00", "NORMAL_OPEN"), ("2026-11-26 11:00", "NORMAL_OPEN"))
    assert made.trades("NSE_EQ", ist("2026-11-24 10:59"))
    assert made.trades("NSE_EQ", ist("2026-11-23 16:30")), "what is older than two days is forgotten"


def test_a_replay_that_begins_anew_is_taken_anew() -> None:
    made = told(hours(Calendar()), "NSE_EQ", ("2025-12-15 15:31", "NORMAL_CLOSE"), ("2025-12-15 09:32", "NORMAL_OPEN"))
    assert made.trades("NSE_EQ", ist("2025-12-15 15:35"))


def test_nothing_is_taken_before_there_is_a_market_time() -> None:
    made = hours(Calendar())
    made.observe({"NSE_EQ": "NORMAL_CLOSE"}, 0)
    assert made.trades("NSE_EQ", ist("1970-01-01 05:40"))


def test_a_status_that_flaps_is_bounded() -> None:
    made = hours(Calendar())
    for number in range(10 * MOST_REPORTS):
        made.observe({"NSE_EQ": f"STATUS_{number}"}, ist("2026-11-23 10:00") + number)
    assert sum(map(len, made._reports.values())) == MOST_REPORTS


def test_the_closing_auction_ends_the_trading_of_those_that_take_part() -> None:
    made = hours()
    assert made.trades("NSE_EQ", ist("2026-11-23 15:20"), cas=True), "nobody has said so yet"
    made.observe_auctions({"NSE_EQ:CAS": ("CTS_CLOSE", ist("2026-11-23 15:15"))})
    made.observe_auctions({"NSE_EQ:CAS": ("CAS_LM_START", ist("2026-11-23 15:20"))})
    made.observe_auctions({"NSE_EQ:PRE": ("PRE_OPEN_END", ist("2026-11-23 09:08"))})
    assert made.trades("NSE_EQ", ist("2026-11-23 15:14"), cas=True)
    assert not made.trades("NSE_EQ", ist("2026-11-23 15:15"), cas=True)
    assert not made.trades("NSE_EQ", ist("2026-11-23 15:29"), cas=True)
    assert made.trades("NSE_EQ", ist("2026-11-23 15:29")), "a stock without derivatives"
    assert made.trades("NSE_FO", ist("2026-11-23 15:39"), cas=True), "another segment"


def test_a_morning_that_still_shows_yesterdays_auction_closes_nothing() -> None:
    made = hours(Calendar())
    made.observe_auctions({"NSE:CAS": ("CAS_STOP", ist("2026-11-23 15:30"))})
    assert made.trades("NSE_EQ", ist("2026-11-24 10:00"), cas=True)
    assert not made.trades("NSE_EQ", ist("2026-11-23 15:30"), cas=True), "also by the exchange's name"


@pytest.mark.parametrize(
    ("segments", "begin", "end", "traded"),
    [
        ("NSE_FO", "2026-11-23 10:00:10", "2026-11-23 10:01:15", ("2026-11-23 10:00:10", "2026-11-23 10:01:15")),
        ("NSE_FO", "2026-11-23 09:08:00", "2026-11-23 09:15:02", ("2026-11-23 09:15:00", "2026-11-23 09:15:02")),
        ("MCX_FO", "2026-11-23 23:28:40", "2026-11-23 23:59:00", ("2026-11-23 23:28:40", "2026-11-23 23:30:00")),
        ("NSE_EQ NSE_FO", "2026-11-23 15:29:10", "2026-11-23 16:00:00", ("2026-11-23 15:29:10", "2026-11-23 15:40:00")),
        ("NSE_EQ", "2026-11-23 15:44:00", "2026-11-24 09:00:00", None),
        ("", "2026-11-23 10:00:00", "2026-11-23 11:00:00", None),
    ],
)
def test_of_a_silence_only_what_lies_between_trading_counts(segments: str, begin: str, end: str, traded: tuple[str, str] | None) -> None:
    *made, traded_ms = hours().traded_within(segments.split(), seconds(begin), seconds(end))
    assert tuple(made) == ((seconds(begin), seconds(begin)) if traded is None else (seconds(traded[0]), seconds(traded[1])))
    assert (traded_ms > 0) == (traded is not None)


def test_a_night_between_two_ticks_is_no_silence() -> None:
    days = [day("NFO", "2026-11-23", "09:15", "15:40"), day("NFO", "2026-11-24"), day("NFO", "2026-11-25", "09:15", "15:40")]
    known = hours(Calendar(days))
    start_ms, end_ms, traded_ms = known.traded_within(["NSE_FO"], seconds("2026-11-23 15:39:40"), seconds("2026-11-25 09:15:25"))
    assert (start_ms, end_ms) == (seconds("2026-11-23 15:39:40"), seconds("2026-11-25 09:15:25"))
    assert traded_ms == 45_000  # 20 s before the close, a holiday, 25 s after the open


def seconds(text: str) -> int:
    return ist(text[:-3]) + int(text[-2:]) * 1000
