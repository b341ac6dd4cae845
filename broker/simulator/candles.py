"""Candles of any unit out of 1-minute and daily bars, and the rules of the historical-candle paths. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any

from broker.simulator.calendar import DAY_MS, MINUTE_MS, SESSION_START_MINUTE, day_of, midnight_ms
from broker.simulator.errors import ApiError
from broker.simulator.quotes import ist_text
from broker.simulator.source import Bar

INTERVALS = {"minutes": 300, "hours": 5, "days": 1, "weeks": 1, "months": 1}
"""Unit → largest interval; the smallest is 1. Source: FACTS §5."""
INTRADAY_UNITS = ("minutes", "hours", "days")
FINE_MINUTES = 15
FIRST_DAY = {"minutes": date(2022, 1, 1), "hours": date(2022, 1, 1)}
"""Earliest day that is kept. Source: FACTS §5."""
FIRST_DAILY = date(2000, 1, 1)


def checked_interval(unit: str, interval: str, units: Iterable[str] = tuple(INTERVALS)) -> int:
    """The interval of a path as a number.

    Raises:
        ApiError: UDAPI1146 unit, UDAPI1147 interval.
    """
    if unit not in units:
        raise ApiError("UDAPI1146", field="unit", value=unit)
    if not (interval.isascii() and interval.isdigit() and len(interval) < 5 and 1 <= int(interval) <= INTERVALS[unit]):
        raise ApiError("UDAPI1147", field="interval", value=interval)
    return int(interval)


def checked_range(unit: str, interval: int, to_text: str, from_text: str | None) -> tuple[date, date]:
    """First and last day of a request, both inclusive; without a from_date, the last day or (days and longer) a decade.

    Raises:
        ApiError: UDAPI1022 or UDAPI1015 for a bad date, UDAPI1015 from after to, UDAPI1148 too long or too old.
    """
    last = _day(to_text, "UDAPI1022", "to_date")
    first = _day(from_text, "UDAPI1015", "from_date") if from_text is not None else _default_first(unit, last)
    if first > last:
        raise ApiError("UDAPI1015", field="from_date", value=from_text)
    if first < FIRST_DAY.get(unit, FIRST_DAILY) or first < _earliest(unit, interval, last):
        raise ApiError("UDAPI1148", field="from_date", value=first.isoformat())
    return first, last


def _day(text: str, code: str, field: str) -> date:
    try:
        if len(text) != 10:
            raise ValueError(text)
        return date.fromisoformat(text)
    except ValueError as error:
        raise ApiError(code, field=field, value=text) from error


def _default_first(unit: str, last: date) -> date:
    return last if unit in ("minutes", "hours") else max(FIRST_DAILY, last - timedelta(days=3652))


def _earliest(unit: str, interval: int, last: date) -> date:
    """How far back one call may reach: a month, a quarter, a decade (FACTS §5); weeks and months have no limit."""
    if unit == "minutes" and interval <= FINE_MINUTES:
        days = 31
    elif unit in ("minutes", "hours"):
        days = 92
    elif unit == "days":
        days = 3653
    else:
        return FIRST_DAILY
    return last - timedelta(days=days) if last - date.min > timedelta(days=days) else date.min


def gathered(bars: Iterable[Bar], unit: str, interval: int) -> list[Bar]:
    """Bars of the unit, oldest first. Minutes and hours are counted from 09:15 IST and never cross midnight.

    Args:
        bars: 1-minute bars for minutes and hours, daily bars for the rest; oldest first.
    """
    start_of = _start_of(unit, interval)
    made: list[Bar] = []
    for bar in bars:
        start = start_of(bar.start_ms)
        if made and made[-1].start_ms == start:
            last = made[-1]
            high, low, volume = max(last.high, bar.high), min(last.low, bar.low), last.volume + bar.volume
            made[-1] = Bar(start, last.open, high, low, bar.close, volume, bar.open_interest)
        else:
            made.append(bar._replace(start_ms=start))
    return made


def _start_of(unit: str, interval: int) -> Callable[[int], int]:
    if unit == "days":
        return lambda ms: midnight_ms(day_of(ms))
    if unit == "weeks":
        return lambda ms: midnight_ms(day_of(ms) - timedelta(days=day_of(ms).weekday()))
    if unit == "months":
        return lambda ms: midnight_ms(day_of(ms).replace(day=1))
    width = interval * MINUTE_MS * (60 if unit == "hours" else 1)

    def start(ms: int) -> int:
        midnight = midnight_ms(day_of(ms))
        anchor = midnight + SESSION_START_MINUTE * MINUTE_MS
        return max(midnight, anchor + (ms - anchor) // width * width)

    return start


def candle_rows(bars: Iterable[Bar]) -> list[list[Any]]:
    """Bars as the broker sends them: newest first, Indian time."""
    rows = [[_second(bar.start_ms), bar.open, bar.high, bar.low, bar.close, bar.volume, bar.open_interest] for bar in bars]
    return rows[::-1]


def _second(ms: int) -> str:
    return ist_text(ms).replace(".000+", "+")


def span_ms(first: date, last: date) -> tuple[int, int]:
    """First and last day, both inclusive, as [from, to) in ms UTC."""
    return midnight_ms(first), midnight_ms(last) + DAY_MS
