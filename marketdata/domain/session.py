"""When a segment trades continuously: the broker's calendar, by segment and day. Pure; Indian time by arithmetic.

Nothing in here knows a usual close: hours come from the broker's timings, or they are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from marketdata.domain.candle import DAY_MS, MCX_OPEN_MS, SESSION_OPEN_MS, Anchors, day_start_ms

EXCHANGES = {
    "NSE_EQ": "NSE",
    "NSE_INDEX": "NSE",
    "NSE_FO": "NFO",
    "NCD_FO": "CDS",
    "NSE_COM": "NSCOM",
    "BSE_EQ": "BSE",
    "BSE_INDEX": "BSE",
    "BSE_FO": "BFO",
    "BCD_FO": "BCD",
    "MCX_FO": "MCX",
    "MCX_INDEX": "MCX",
    "MCX_COM": "MCX",
}
"""Segment → the exchange code of the broker's timings and holidays. Source: FACTS §5."""
USUAL_OPEN_MS = {"MCX": MCX_OPEN_MS, "NSCOM": MCX_OPEN_MS, "CDS": MCX_OPEN_MS, "BCD": MCX_OPEN_MS}
"""Exchange → offset of its usual open in the IST day, where that is not 09:15."""


class Hours(NamedTuple):
    """One exchange's continuous trading on one day: [open_ms, close_ms), ms UTC; both 0 on a day without trading.

    Attributes:
        exchange: "NSE", "NFO", "MCX", …
        day_ms: 00:00 IST, ms UTC.
        open_ms, close_ms: ms UTC.
        description: "Muhurat Trading", a holiday's name, or "".
    """

    exchange: str
    day_ms: int
    open_ms: int
    close_ms: int
    description: str = ""

    @property
    def trades(self) -> bool:
        """Whether there is a session at all."""
        return self.close_ms > self.open_ms


class Calendar:
    """The known days of all exchanges."""

    def __init__(self, days: Iterable[Hours] = ()) -> None:
        self._days = {(hours.exchange, hours.day_ms): hours for hours in days}
        self._special: dict[str, dict[int, int]] = {}
        for hours in self._days.values():
            offset = hours.open_ms - hours.day_ms
            if hours.trades and not offset <= _usual_open(hours.exchange) < hours.close_ms - hours.day_ms:
                self._special.setdefault(hours.exchange, {})[hours.day_ms] = offset

    def hours(self, segment: str, time_ms: int) -> Hours | None:
        """Return the hours of the segment (or exchange) on the IST day of `time_ms`; None where that day is not known."""
        return self._days.get((EXCHANGES.get(segment, segment), day_start_ms(time_ms)))

    def days(self, segment: str) -> list[Hours]:
        """Return the known days of the segment, oldest first."""
        exchange = EXCHANGES.get(segment, segment)
        return sorted((hours for hours in self._days.values() if hours.exchange == exchange), key=lambda hours: hours.day_ms)

    def anchors(self, segment: str) -> Anchors:
        """Return from where a segment's intervals are counted: its usual open where the day's session holds it, else the day's own."""
        exchange = EXCHANGES.get(segment, segment)
        return Anchors(_usual_open(exchange), self._special.get(exchange, {}))

    def between(self, from_ms: int, to_ms: int) -> list[Hours]:
        """Return all known days with from_ms <= day_ms < to_ms, by day and exchange."""
        found = (hours for hours in self._days.values() if from_ms <= hours.day_ms < to_ms)
        return sorted(found, key=lambda hours: (hours.day_ms, hours.exchange))

    def trades_within(self, segment: str, start_ms: int, end_ms: int) -> bool:
        """Whether a planned session of the segment lies wholly or partly in [start_ms, end_ms); a day that is not known holds none."""
        return any(
            hours is not None and hours.open_ms < end_ms and hours.close_ms > start_ms
            for hours in (self.hours(segment, day_ms) for day_ms in range(day_start_ms(start_ms), end_ms, DAY_MS))
        )


def _usual_open(exchange: str) -> int:
    return USUAL_OPEN_MS.get(exchange, SESSION_OPEN_MS)
