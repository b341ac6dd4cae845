"""The exchange's calendar: trading days, expiry days, hours. Pure: a date or a time goes in, nothing reads a clock.

Indian Standard Time is UTC+5:30 all year, so a date is plain arithmetic on milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

Hours = Literal["always", "real"]

IST_OFFSET_MS = 19_800_000
DAY_MS = 86_400_000
MINUTE_MS = 60_000
_EPOCH = date(1970, 1, 1)

SESSION_START_MINUTE = 9 * 60 + 15
PRE_OPEN_MINUTES, MATCHING_MINUTES = 15, 7
"""So long before its open a segment of equities begins its pre-open, and ends it: 09:00 and 09:08. Source: FACTS §6."""
#: Minute of the day (IST) at which continuous trading ends. Source: FACTS §6 (closing auction session, since 3 August 2026).
CASH_CLOSE_MINUTE = 15 * 60 + 30
DERIVATIVES_CLOSE_MINUTE = 15 * 60 + 40
CAS_CLOSE_MINUTE = 15 * 60 + 15
CAS_SINCE = date(2026, 8, 3)
CAS = ":CAS"
"""Ends the name under which instruments of the closing auction have hours of their own: NSE_EQ:CAS."""
CAS_STEPS = ((CAS_CLOSE_MINUTE, "CTS_CLOSE"), (15 * 60 + 20, "CAS_LM_START"), (15 * 60 + 28, "CAS_M_STOP"), (15 * 60 + 30, "CAS_STOP"))
"""Minute of the day → what the auction's status becomes. Source: FACTS §3.4 and §6; when market orders stop is made up."""
CURRENCY_MINUTES, COMMODITY_MINUTES = (540, 1020), (540, 1410)
"""Session as minutes of the day: 09:00–17:00 and 09:00–23:30 IST."""
SPECIAL = {date(2026, 11, 8): ("Muhurat Trading", 1080, 1155)}
"""Special sessions: name, first and last minute of the day. Source: FACTS §6."""

#: Segments that a `market_info` frame names. Source: FACTS §3.5.
SEGMENTS = (
    "NSE_EQ", "NSE_FO", "NSE_INDEX", "NSE_COM", "NCD_FO", "BSE_EQ", "BSE_FO", "BSE_INDEX", "BCD_FO", "MCX_FO", "MCX_INDEX",
)  # fmt: skip
_CASH_SEGMENTS = frozenset({"NSE_EQ", "NSE_INDEX", "BSE_EQ", "BSE_INDEX"})
_CURRENCY_SEGMENTS = frozenset({"NCD_FO", "BCD_FO"})
_COMMODITY_SEGMENTS = frozenset({"MCX_FO", "MCX_INDEX", "MCX_COM", "NSE_COM"})

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


def session_minutes(segment: str, day: date) -> tuple[int, int] | None:
    """First minute of the day's continuous trading, and the minute at which it ends; None on a day without.

    Args:
        segment: or a segment with CAS behind it.
    """
    if day in SPECIAL:
        return SPECIAL[day][1:]
    if not is_trading_day(day):
        return None
    if segment in _CURRENCY_SEGMENTS:
        return CURRENCY_MINUTES
    if segment in _COMMODITY_SEGMENTS:
        return COMMODITY_MINUTES
    if day < CAS_SINCE:
        return SESSION_START_MINUTE, CASH_CLOSE_MINUTE
    if segment.endswith(CAS):
        return SESSION_START_MINUTE, CAS_CLOSE_MINUTE
    return SESSION_START_MINUTE, CASH_CLOSE_MINUTE if segment in _CASH_SEGMENTS else DERIVATIVES_CLOSE_MINUTE


def session_at_or_before(segment: str, day: date) -> tuple[date, int, int]:
    """The session of `day`, or the last one before it: its day, its first minute, the minute at which it ends."""
    while (minutes := session_minutes(segment, day)) is None:
        day -= timedelta(days=1)
    return day, *minutes


def segment_status(segment: str, ms: int, hours: Hours) -> str:
    """The MarketStatus name of `segment` at `ms`. With hours `always` every minute is NORMAL_OPEN."""
    if hours == "always":
        return "NORMAL_OPEN"
    minutes, minute = session_minutes(segment, day_of(ms)), minute_of_day(ms)
    has_pre_open = segment not in _CURRENCY_SEGMENTS | _COMMODITY_SEGMENTS
    if minutes and minutes[0] <= minute < minutes[1]:
        return "NORMAL_OPEN"
    if minutes and has_pre_open and minutes[0] - PRE_OPEN_MINUTES <= minute < minutes[0]:
        return "PRE_OPEN_START" if minute < minutes[0] - MATCHING_MINUTES else "PRE_OPEN_END"
    return "CLOSING_END" if segment == "NSE_EQ" else "NORMAL_CLOSE"


def auctions(ms: int, hours: Hours) -> dict[str, tuple[str, int]]:
    """The closing auction at `ms`: segment → (status, since when); empty before it begins, and on days without one."""
    day, minute = day_of(ms), minute_of_day(ms)
    if hours == "always" or day < CAS_SINCE or day in SPECIAL or not is_trading_day(day):
        return {}
    begun = [(status, midnight_ms(day) + since * MINUTE_MS) for since, status in CAS_STEPS if since <= minute]
    return {"NSE_EQ": begun[-1]} if begun else {}


@lru_cache(maxsize=16)
def _turns(day: date) -> tuple[int, ...]:
    sessions = {segment: minutes for segment in SEGMENTS if (minutes := session_minutes(segment, day))}
    steps = {minute for minute, _ in CAS_STEPS} if sessions else set()
    for first, last in sessions.values():
        steps |= {first - PRE_OPEN_MINUTES, first - MATCHING_MINUTES, first, last}
    return tuple(midnight_ms(day) + step * MINUTE_MS for step in sorted(steps))


def turn_after(ms: int, hours: Hours) -> int:
    """The first moment more than 1 ms after `ms` at which a segment's status may change, ms UTC; the end of the day where none is left.

    Who stops 1 ms before it never mixes what came before a close with what comes after.
    """
    turns = _turns(day_of(ms)) if hours == "real" else ()
    return next((turn for turn in turns if turn > ms + 1), midnight_ms(day_of(ms)) + DAY_MS)


def open_span(segments: Collection[str], day: date) -> tuple[int, int] | None:
    """From the first open of these segments on a day to their last close, ms UTC; None: none of them trades."""
    sessions = [minutes for segment in segments if (minutes := session_minutes(segment, day))]
    if not sessions:
        return None
    midnight = midnight_ms(day)
    return midnight + min(first for first, _ in sessions) * MINUTE_MS, midnight + max(last for _, last in sessions) * MINUTE_MS


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
    minutes = session_minutes(segment, day)
    if minutes is None or minute_of_day(ms) < minutes[0]:
        day -= timedelta(days=1)
    day, first, last = session_at_or_before(segment, day)
    start = midnight_ms(day)
    return Session(day, start + first * MINUTE_MS, min(ms, start + last * MINUTE_MS))


def is_open(segment: str, ms: int, hours: Hours) -> bool:
    """Whether continuous trading runs in `segment` at `ms`."""
    return segment_status(segment, ms, hours) == "NORMAL_OPEN"
