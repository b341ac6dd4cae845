"""The exchange's calendar: trading days, expiry days, hours. Pure: a date or a time goes in, nothing reads a clock.

Indian Standard Time is UTC+5:30 all year, so a date is plain arithmetic on milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Literal, NamedTuple

Hours = Literal["always", "real"]

IST_OFFSET_MS = 19_800_000
DAY_MS = 86_400_000
MINUTE_MS = 60_000
_EPOCH = date(1970, 1, 1)

SESSION_START_MINUTE = 9 * 60 + 15
PRE_OPEN_START_MINUTE = 9 * 60
PRE_OPEN_END_MINUTE = 9 * 60 + 8
#: Minute of the day (IST) at which continuous trading ends. Source: FACTS §6 (closing auction session, since 3 August 2026).
CASH_CLOSE_MINUTE = 15 * 60 + 30
DERIVATIVES_CLOSE_MINUTE = 15 * 60 + 40
_DERIVATIVES_CLOSE_CHANGED = date(2026, 8, 3)

#: Segments that a `market_info` frame names. Source: FACTS §3.5.
SEGMENTS = (
    "NSE_EQ", "NSE_FO", "NSE_INDEX", "NSE_COM", "NCD_FO", "BSE_EQ", "BSE_FO", "BSE_INDEX", "BCD_FO", "MCX_FO", "MCX_INDEX",
)  # fmt: skip
_CASH_SEGMENTS = frozenset({"NSE_EQ", "NSE_INDEX", "BSE_EQ", "BSE_INDEX"})

#: NSE trading holidays on weekdays. 2025 and 2026: the exchange's yearly circulars (2026 as in FACTS §6).
#: 2027: only the days that are known by rule (fixed dates, Good Friday); days that follow the moon are not yet in it.
HOLIDAYS: dict[date, str] = {
    date(2025, 2, 26): "Mahashivratri",
    date(2025, 3, 14): "Holi",
    date(2025, 3, 31): "Id-Ul-Fitr",
    date(2025, 4, 10): "Shri Mahavir Jayanti",
    date(2025, 4, 14): "Dr. Baba Saheb Ambedkar Jayanti",
    date(2025, 4, 18): "Good Friday",
    date(2025, 5, 1): "Maharashtra Day",
    date(2025, 8, 15): "Independence Day",
    date(2025, 8, 27): "Ganesh Chaturthi",
    date(2025, 10, 2): "Mahatma Gandhi Jayanti",
    date(2025, 10, 21): "Diwali Laxmi Pujan",
    date(2025, 10, 22): "Diwali Balipratipada",
    date(2025, 11, 5): "Guru Nanak Jayanti",
    date(2025, 12, 25): "Christmas",
    date(2026, 1, 15): "Municipal elections in Maharashtra",
    date(2026, 1, 26): "Republic Day",
    date(2026, 3, 3): "Holi",
    date(2026, 3, 26): "Shri Ram Navami",
    date(2026, 3, 31): "Shri Mahavir Jayanti",
    date(2026, 4, 3): "Good Friday",
    date(2026, 4, 14): "Dr. Baba Saheb Ambedkar Jayanti",
    date(2026, 5, 1): "Maharashtra Day",
    date(2026, 5, 28): "Bakri Id",
    date(2026, 6, 26): "Muharram",
    date(2026, 9, 14): "Ganesh Chaturthi",
    date(2026, 10, 2): "Mahatma Gandhi Jayanti",
    date(2026, 10, 20): "Dussehra",
    date(2026, 11, 10): "Diwali Balipratipada",
    date(2026, 11, 24): "Guru Nanak Jayanti",
    date(2026, 12, 25): "Christmas",
    date(2027, 1, 26): "Republic Day",
    date(2027, 3, 26): "Good Friday",
    date(2027, 4, 14): "Dr. Baba Saheb Ambedkar Jayanti",
}


class Expiry(NamedTuple):
    """One expiry. `day` the day on which the contract ends · `weekly` as the master's flag: false in the last-Tuesday slot."""

    day: date
    weekly: bool


def day_of(ms: int) -> date:
    """The date in India at `ms` (ms UTC)."""
    return _EPOCH + timedelta(days=(ms + IST_OFFSET_MS) // DAY_MS)


def midnight_ms(day: date) -> int:
    """00:00 IST of `day`, ms UTC: the `ts` of a daily bar."""
    return (day - _EPOCH).days * DAY_MS - IST_OFFSET_MS


def minute_of_day(ms: int) -> int:
    """Minutes since 00:00 IST, 0–1439."""
    return (ms + IST_OFFSET_MS) % DAY_MS // MINUTE_MS


def expiry_ms(day: date) -> int:
    """What the master writes for an expiry day: 23:59:59 IST, ms UTC (FACTS §4)."""
    return midnight_ms(day) + DAY_MS - 1000


def is_trading_day(day: date) -> bool:
    """Whether the cash market holds its normal session. Special sessions (Muhurat) do not count."""
    return day.weekday() < 5 and day not in HOLIDAYS


def trading_day_at_or_before(day: date) -> date:
    """`day` itself, or the last trading day before it: where an expiry goes that falls on a holiday."""
    while not is_trading_day(day):
        day -= timedelta(days=1)
    return day


def trading_days_before(day: date, count: int) -> list[date]:
    """The last `count` trading days before `day`, oldest first."""
    found: list[date] = []
    while len(found) < count:
        day = trading_day_at_or_before(day - timedelta(days=1))
        found.append(day)
    return found[::-1]


def _is_last_tuesday(day: date) -> bool:
    return (day + timedelta(days=7)).month != day.month


def _tuesdays(day: date) -> Iterator[date]:
    """Tuesdays from the first whose expiry is not over at the start of `day`."""
    tuesday = day + timedelta(days=(1 - day.weekday()) % 7)
    while True:
        if trading_day_at_or_before(tuesday) >= day:
            yield tuesday
        tuesday += timedelta(days=7)


def monthly_expiries(day: date, count: int) -> list[Expiry]:
    """The next `count` monthly expiries that are alive on `day`, nearest first."""
    slots = (tuesday for tuesday in _tuesdays(day) if _is_last_tuesday(tuesday))
    return [Expiry(trading_day_at_or_before(next(slots)), weekly=False) for _ in range(count)]


def weekly_expiries(day: date, weeks: int) -> list[Expiry]:
    """The weekly expiries among the next `weeks` Tuesdays, nearest first; the last Tuesday of a month is a monthly one, not in here."""
    slots = _tuesdays(day)
    return [
        Expiry(trading_day_at_or_before(tuesday), weekly=True)
        for tuesday in (next(slots) for _ in range(weeks))
        if not _is_last_tuesday(tuesday)
    ]


def close_minute(segment: str, day: date) -> int:
    """Minute of the day at which continuous trading of `segment` ends."""
    if segment in _CASH_SEGMENTS or day < _DERIVATIVES_CLOSE_CHANGED:
        return CASH_CLOSE_MINUTE
    return DERIVATIVES_CLOSE_MINUTE


def segment_status(segment: str, ms: int, hours: Hours) -> str:
    """The MarketStatus name of `segment` at `ms`. With hours `always` every minute is NORMAL_OPEN."""
    if hours == "always":
        return "NORMAL_OPEN"
    day, minute = day_of(ms), minute_of_day(ms)
    if not is_trading_day(day) or minute < PRE_OPEN_START_MINUTE:
        return "CLOSING_END" if segment == "NSE_EQ" else "NORMAL_CLOSE"
    if minute < SESSION_START_MINUTE:
        return "PRE_OPEN_START" if minute < PRE_OPEN_END_MINUTE else "PRE_OPEN_END"
    if minute < close_minute(segment, day):
        return "NORMAL_OPEN"
    return "CLOSING_END" if segment == "NSE_EQ" else "NORMAL_CLOSE"


class Session(NamedTuple):
    """A stretch of market time, ms UTC: `end_ms` is now while it runs. `day` is its date in India."""

    day: date
    start_ms: int
    end_ms: int


def session_at(segment: str, ms: int, hours: Hours) -> Session:
    """The session that runs at `ms`, or the last one before. With hours `always` it began at 00:00 IST."""
    day = day_of(ms)
    if hours == "always":
        return Session(day, midnight_ms(day), ms)
    if minute_of_day(ms) < SESSION_START_MINUTE:
        day -= timedelta(days=1)
    day = trading_day_at_or_before(day)
    start = midnight_ms(day)
    return Session(day, start + SESSION_START_MINUTE * MINUTE_MS, min(ms, start + close_minute(segment, day) * MINUTE_MS))


def is_open(segment: str, ms: int, hours: Hours) -> bool:
    """Whether continuous trading runs in `segment` at `ms`."""
    return segment_status(segment, ms, hours) == "NORMAL_OPEN"
