"""The calendar in the shapes of /v2/market/holidays and /v2/market/timings. Pure.

It is the real exchange's calendar, also where the simulated market never closes: `market_info` and /v2/market/status tell what is open.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from broker.simulator.calendar import HOLIDAYS, MINUTE_MS, SESSION_START_MINUTE, close_minute, is_trading_day, midnight_ms

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
CURRENCY, COMMODITY = ("CDS", "BCD"), ("MCX", "NSCOM")
CURRENCY_MINUTES, COMMODITY_MINUTES = (540, 1020), (540, 1410)
"""Session as minutes of the day: 09:00–17:00 and 09:00–23:30 IST."""
SPECIAL = {date(2026, 11, 8): ("Muhurat Trading", 1080, 1155)}
"""Special sessions: name, first and last minute of the day. Source: FACTS §6."""


def holidays_in(year: int) -> list[dict[str, Any]]:
    """The holidays and special sessions of a year, in order."""
    return [row for day in sorted({*HOLIDAYS, *SPECIAL}) if day.year == year for row in holidays_on(day)]


def holidays_on(day: date) -> list[dict[str, Any]]:
    """One row for a holiday or special session; [] for an ordinary day (also for a Sunday)."""
    if day in SPECIAL:
        name, start, end = SPECIAL[day]
        sessions = [_session(exchange, day, start, end) for exchange in SEGMENT_OF]
        return [_row(day, name, "SPECIAL_TIMING", [], sessions)]
    if day in HOLIDAYS:
        return [_row(day, HOLIDAYS[day], "TRADING_HOLIDAY", list(SEGMENT_OF), [])]
    return []


def _row(day: date, name: str, kind: str, closed: list[str], sessions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"date": day.isoformat(), "description": name, "holiday_type": kind, "closed_exchanges": closed, "open_exchanges": sessions}


def timings(day: date) -> list[dict[str, Any]]:
    """The session of each exchange on a day; [] when there is none."""
    if day in SPECIAL:
        _, start, end = SPECIAL[day]
        return [_session(exchange, day, start, end) for exchange in SEGMENT_OF]
    if not is_trading_day(day):
        return []
    return [_session(exchange, day, *_minutes(exchange, day)) for exchange in SEGMENT_OF]


def _minutes(exchange: str, day: date) -> tuple[int, int]:
    if exchange in CURRENCY:
        return CURRENCY_MINUTES
    if exchange in COMMODITY:
        return COMMODITY_MINUTES
    return SESSION_START_MINUTE, close_minute(SEGMENT_OF[exchange], day)


def _session(exchange: str, day: date, start: int, end: int) -> dict[str, Any]:
    midnight = midnight_ms(day)
    return {"exchange": exchange, "start_time": midnight + start * MINUTE_MS, "end_time": midnight + end * MINUTE_MS}
