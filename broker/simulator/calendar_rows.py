"""The calendar in the shapes of /v2/market/holidays and /v2/market/timings. Pure.

Where the simulated market never closes, each day of each exchange goes from 00:00 to 24:00, and there is no holiday.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from broker.simulator.calendar import HOLIDAYS, MINUTE_MS, SPECIAL, Hours, midnight_ms, session_minutes

SEGMENT_OF = {
    "NSE": "NSE_EQ",
    "NFO": "NSE_FO",
    "CDS": "NCD_FO",
    "BSE": "BSE_EQ",
    "BFO": "BSE_FO",
    "BCD": "BCD_FO",
    "MCX": "MCX_FO",
    "NSCOM": "NSE_COM",
}
"""Exchange code of the calendar paths → segment. Source: FACTS §5."""
WHOLE_DAY = (0, 1440)


def holidays_in(year: int, hours: Hours) -> list[dict[str, Any]]:
    """The holidays and special sessions of a year, in order."""
    return [row for day in sorted({*HOLIDAYS, *SPECIAL}) if day.year == year for row in holidays_on(day, hours)]


def holidays_on(day: date, hours: Hours) -> list[dict[str, Any]]:
    """One row for a holiday or special session; [] for an ordinary day (also for a Sunday)."""
    if hours == "always":
        return []
    if day in SPECIAL:
        return [_row(day, SPECIAL[day][0], "SPECIAL_TIMING", [], timings(day, hours))]
    if day in HOLIDAYS:
        return [_row(day, HOLIDAYS[day], "TRADING_HOLIDAY", list(SEGMENT_OF), [])]
    return []


def _row(day: date, name: str, kind: str, closed: list[str], sessions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"date": day.isoformat(), "description": name, "holiday_type": kind, "closed_exchanges": closed, "open_exchanges": sessions}


def timings(day: date, hours: Hours) -> list[dict[str, Any]]:
    """The session of each exchange on a day; [] when there is none."""
    minutes = {exchange: WHOLE_DAY if hours == "always" else session_minutes(segment, day) for exchange, segment in SEGMENT_OF.items()}
    return [_session(exchange, day, *session) for exchange, session in minutes.items() if session]


def _session(exchange: str, day: date, start: int, end: int) -> dict[str, Any]:
    midnight = midnight_ms(day)
    return {"exchange": exchange, "start_time": midnight + start * MINUTE_MS, "end_time": midnight + end * MINUTE_MS}
