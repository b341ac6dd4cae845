"""When each segment trades, as the feed knows it: the broker's calendar, and the statuses of the feed where they say otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from marketdata.domain.session import Calendar


class TradingHours:
    """Of all segments, in market time."""

    def __init__(self) -> None:
        self._calendar = Calendar()

    def take_calendar(self, calendar: Calendar) -> None:
        """Take the broker's calendar as it is known now."""
        self._calendar = calendar

    def observe(self, segments: Mapping[str, str], market_ms: int) -> None:
        """Take the statuses of a market_info, at the market's own time (ms UTC)."""

    def trades(self, segment: str, minute_ms: int, *, cas: bool = False) -> bool:
        """Whether the minute that begins at `minute_ms` belongs to continuous trading; also where nobody knows.

        Args:
            cas: the instrument takes part in the closing auction session, so that its trading may end before its segment's.
        """
        hours = self._calendar.hours(segment, minute_ms)
        return hours is None or hours.open_ms <= minute_ms < hours.close_ms
