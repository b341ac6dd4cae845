"""When each segment trades, as the feed knows it: the broker's calendar, and the statuses of the feed where they say otherwise. Pure.

The law, for a minute that begins at `minute_ms`; the first row that applies counts:

    | instrument      | the day by the calendar | reported by the feed in market time            | the minute trades                     |
    |-----------------|-------------------------|------------------------------------------------|---------------------------------------|
    | in the closing  |                         | CTS_CLOSE or CAS_… since before its half       | no                                    |
    |   auction (cas) |                         |                                                |                                       |
    | any             | known, minute in hours  |                                                | yes                                   |
    | any             | known, minute outside   | NORMAL_OPEN for EXTRA_MS or more outside hours | while NORMAL_OPEN: a session that     |
    |                 |   (a holiday: all day)  |                                                |   nobody planned is not lost          |
    | any             | known, minute outside   | otherwise                                      | no                                    |
    | any             | not known               | nothing on that day, or only later             | yes: who knows nothing filters nothing|
    | any             | not known               | something                                      | while NORMAL_OPEN                     |

"While" means for half of the minute or more: reports come up to seconds after the fact. A status counts on the Indian day on which
it was reported. There is no usual close in here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from broker.liveness import TRADING
from marketdata.domain.candle import DAY_MS, MINUTE_MS, day_start_ms
from marketdata.domain.session import EXCHANGES, Calendar, Hours

EXTRA_MS = 60_000
"""So long must NORMAL_OPEN be reported outside the planned hours to be believed: the close itself is reported late."""
HALF_MS = MINUTE_MS // 2
LONGEST_MINUTES = 10_000
"""A week: of a longer stretch its first week is looked at."""
MOST_REPORTS = 100
"""Changes of one segment's status that are kept; a day has about six."""
AUCTION = ":CAS"
"""Ends the name of a closing auction's status in `Frame.auctions`."""


class _Report(NamedTuple):
    """A status, first and last reported at these market times of one day."""

    status: str
    first_ms: int
    last_ms: int


class TradingHours:
    """Of all segments, in market time. Memory: the reports of two days."""

    def __init__(self) -> None:
        self._calendar = Calendar()
        self._reports: dict[str, list[_Report]] = {}
        self._auctioned: dict[tuple[str, int], int] = {}

    def take_calendar(self, calendar: Calendar) -> None:
        """Take the broker's calendar as it is known now."""
        self._calendar = calendar

    def observe(self, segments: Mapping[str, str], market_ms: int) -> None:
        """Take the statuses as they stand: at each market_info, and again each second or so, as busy feeds do not repeat them.

        Args:
            segments: segment → status name.
            market_ms: the market's own time, ms UTC; 0: nothing is known yet, nothing is taken.
        """
        if not market_ms:
            return
        day = day_start_ms(market_ms)
        for segment, status in segments.items():
            reports = self._reports.setdefault(segment, [])
            if reports and reports[-1].last_ms > market_ms:  # a replay that begins anew
                reports.clear()
            last = reports[-1] if reports else None
            if last is not None and last.status == status and last.first_ms >= day:
                reports[-1] = last._replace(last_ms=market_ms)
                continue
            reports.append(_Report(status, market_ms, market_ms))
            while reports[0].first_ms < day - DAY_MS or len(reports) > MOST_REPORTS:
                del reports[0]

    def observe_auctions(self, auctions: Mapping[str, tuple[str, int]]) -> None:
        """Take what a market_info says of auctions: as `Frame.auctions`."""
        for name, (status, since_ms) in auctions.items():
            if name.endswith(AUCTION) and ends_trading(status):
                day = day_start_ms(since_ms)
                place = (name.removesuffix(AUCTION), day)
                self._auctioned[place] = min(self._auctioned.get(place, since_ms), since_ms)
                self._auctioned = {known: since for known, since in self._auctioned.items() if known[1] >= day - DAY_MS}

    def trades(self, segment: str, minute_ms: int, *, cas: bool = False) -> bool:
        """Whether the minute that begins at `minute_ms` belongs to continuous trading; also where nobody knows.

        Args:
            cas: the instrument takes part in the closing auction session, so that its trading may end before its segment's.
        """
        if cas and self._is_auctioned(segment, minute_ms):
            return False
        hours = self._calendar.hours(segment, minute_ms)
        if hours is not None:
            return hours.open_ms <= minute_ms < hours.close_ms or self._is_extra(segment, minute_ms, hours)
        known = self._reports_on(segment, day_start_ms(minute_ms))
        if not known or minute_ms + HALF_MS <= known[0].first_ms:
            return True
        return any(_shares(minute_ms, start, end) for start, end, _ in _open(known))

    def traded_within(self, segments: Collection[str], start_ms: int, end_ms: int) -> tuple[int, int, int]:
        """Return the part of a stretch of market time, ms UTC, from the first of these segments' trading in it to the last, and for how
        long of it any of them trades, ms; without trading it is empty. So the night is no part of a silence, wherever it begins."""
        first_ms = start_ms // MINUTE_MS * MINUTE_MS
        minutes = range(first_ms, min(end_ms, first_ms + LONGEST_MINUTES * MINUTE_MS), MINUTE_MS)
        traded = [minute_ms for minute_ms in minutes if any(self.trades(segment, minute_ms) for segment in segments)]
        if not traded:
            return start_ms, start_ms, 0
        parts = [min(end_ms, minute_ms + MINUTE_MS) - max(start_ms, minute_ms) for minute_ms in traded]
        return max(start_ms, traded[0]), min(end_ms, traded[-1] + MINUTE_MS), sum(parts)

    def _is_auctioned(self, segment: str, minute_ms: int) -> bool:
        day = day_start_ms(minute_ms)
        names = (segment, EXCHANGES.get(segment, segment))  # FACTS §3.4 does not say by which name the broker gives it
        since = (self._auctioned.get((name, day)) for name in names)  # one look each: the writer's thread asks, too
        return any(minute_ms + HALF_MS > since_ms for since_ms in since if since_ms is not None)

    def _is_extra(self, segment: str, minute_ms: int, hours: Hours) -> bool:
        """Whether the minute lies in a session that was not planned, or not for so long."""
        for start, end, last in _open(self._reports_on(segment, day_start_ms(minute_ms))):
            outside = last - start
            if hours.trades:
                outside = max(last - max(start, hours.close_ms), min(last, hours.open_ms) - start)
            if outside >= EXTRA_MS and _shares(minute_ms, start, end):
                return True
        return False

    def _reports_on(self, segment: str, day_ms: int) -> list[_Report]:
        return [report for report in self._reports.get(segment, ()) if day_ms <= report.first_ms < day_ms + DAY_MS]


def ends_trading(status: str) -> bool:
    """Whether a closing auction in this state has ended the continuous trading of its shares."""
    return status == "CTS_CLOSE" or status.startswith("CAS_")


def _open(reports: list[_Report]) -> Iterator[tuple[int, int, int]]:
    """Give from when to when it was NORMAL_OPEN, and when that was reported last; what lasts ends with its day."""
    for number, report in enumerate(reports):
        if report.status == TRADING:
            end = reports[number + 1].first_ms if number + 1 < len(reports) else day_start_ms(report.first_ms) + DAY_MS
            yield report.first_ms, end, report.last_ms


def _shares(minute_ms: int, start_ms: int, end_ms: int) -> bool:
    return min(minute_ms + MINUTE_MS, end_ms) - max(minute_ms, start_ms) >= HALF_MS
