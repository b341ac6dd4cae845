"""The market's clock, driven by the host's: the same, or one of its own that begins elsewhere and runs faster. Nothing here reads a clock.

Only the market follows it: frames, trades, statuses, the calendar, what is listed. Tokens, codes, rate limits, pings and the ends
of faults stay on the host's clock.
"""

from __future__ import annotations

from typing import Protocol


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
