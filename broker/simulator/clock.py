"""The market's clock, driven by the host's: the same, or one of its own that begins elsewhere and runs faster. Nothing here reads a clock.

Only the market follows it: frames, trades, statuses, the calendar, what is listed. Tokens, codes, rate limits, pings and the ends
of faults stay on the host's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Protocol

from broker.simulator.calendar import MINUTE_MS, Hours, day_of, open_span, turn_after

BEFORE_OPEN_MS, AFTER_CLOSE_MS = 20 * MINUTE_MS, 10 * MINUTE_MS
"""What nobody trades in begins so long after the last close and ends so long before the first open: pre-open and statuses are seen."""
LONGEST_MS = 100
"""The host's time that counts at most from one turn to the next: a process that was held up has a market that waited."""


class Clock(Protocol):
    """Tells the market's time for the host's. Both ms UTC."""

    def advance(self, wall_ms: int) -> list[int]:
        """Go on to the host's time; return the moments of market time to bring the market to, in order, at least one."""

    def stand(self, wall_ms: int) -> None:
        """Let the host's time pass without the market's."""


class HostClock:
    """The host's clock, behind it by as long as the market was paused."""

    def __init__(self) -> None:
        self._behind_ms = 0
        self._wall_ms: int | None = None

    def advance(self, wall_ms: int) -> list[int]:
        """Go on; one moment."""
        self._wall_ms = wall_ms
        return [wall_ms - self._behind_ms]

    def stand(self, wall_ms: int) -> None:
        """Fall behind by what has passed."""
        if self._wall_ms is not None:
            self._behind_ms += max(0, wall_ms - self._wall_ms)
        self._wall_ms = wall_ms


class MarketClock:
    """A clock of its own: begins at a moment of the market, runs `speed` times as fast, and leaves out what nobody trades in.

    Args:
        start_ms: where it begins, ms UTC.
        speed: its milliseconds in one of the host's.
        hours: with `always` there is no night, and nothing is left out.
        segments: whose hours count.
        stand_seconds: of the host's, for which it stands each evening before it leaves out the night, and each morning after it: however
            fast it runs, whoever follows the market can take leave of what has expired and fetch the day's master.
    """

    def __init__(self, start_ms: int, speed: float, hours: Hours, segments: Collection[str], *, stand_seconds: float) -> None:
        self._now_ms = float(start_ms)
        self._speed, self._hours, self._segments = speed, hours, frozenset(segments)
        self._stand_ms = stand_seconds * 1000
        self._wall_ms: int | None = None
        self._stands_until = 0.0

    def advance(self, wall_ms: int) -> list[int]:
        """Go on: to each moment around a change of a segment's status, and to where it has come."""
        passed = min(wall_ms - (wall_ms if self._wall_ms is None else self._wall_ms), LONGEST_MS)
        self.stand(wall_ms)
        now = int(self._now_ms)
        if wall_ms < self._stands_until:
            return [now]
        begins_ms, ends_ms = self._next_span(now)
        if now < begins_ms:
            return self._stand_at(begins_ms, wall_ms)
        self._now_ms += max(0, passed) * self._speed
        reached = min(int(self._now_ms), ends_ms)
        around = list(self._around_turns(now, reached))
        return around + (self._stand_at(ends_ms, wall_ms) if reached == ends_ms else [reached])

    def stand(self, wall_ms: int) -> None:
        """Let the host's time pass."""
        self._wall_ms = wall_ms

    def _stand_at(self, ms: int, wall_ms: int) -> list[int]:
        self._now_ms, self._stands_until = float(ms), wall_ms + self._stand_ms
        return [ms]

    def _next_span(self, ms: int) -> tuple[int, int]:
        """The stretch that is not left out in which `ms` lies, or the next one."""
        if self._hours == "always":
            return ms, 1 << 62
        day = day_of(ms)
        while (span := open_span(self._segments, day)) is None or ms >= span[1] + AFTER_CLOSE_MS:
            day += timedelta(days=1)
        return span[0] - BEFORE_OPEN_MS, span[1] + AFTER_CLOSE_MS

    def _around_turns(self, from_ms: int, to_ms: int) -> Iterator[int]:
        turn = turn_after(from_ms - 1, self._hours)
        while turn <= to_ms:
            yield from (ms for ms in (turn - 1, turn) if from_ms < ms < to_ms)
            turn = turn_after(turn, self._hours)
