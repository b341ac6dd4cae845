"""A replay of which a stretch of the day is never sent: a hole such as a broken connection leaves, at a known place.

The market goes on unseen in it: recorded time passes, minutes finish, and REST knows all of them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from broker.simulator.calendar import MINUTE_MS, day_of, midnight_ms
from broker.simulator.replay import Replay
from broker.simulator.source import Update
from broker.upstox import MarketDataFeedV3_pb2 as pb


class Stretch(NamedTuple):
    """A stretch of every day: [from_minute, to_minute), minutes since 00:00 IST."""

    from_minute: int
    to_minute: int

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """Return the stretch of `HH:MM-HH:MM`.

        Raises:
            ValueError: it is not of this form, or ends before it begins.
        """
        first, dash, last = text.partition("-")
        stretch = cls(_minute(first), _minute(last))
        if not dash or stretch.from_minute >= stretch.to_minute:
            raise ValueError(f"{text!r} does not end after it begins")
        return stretch

    def holds(self, time_ms: int) -> bool:
        """Whether a time, ms UTC, lies in it."""
        return self.from_minute <= (time_ms - midnight_ms(day_of(time_ms))) // MINUTE_MS < self.to_minute


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    if not (len(hour) == len(minute) == 2 and (hour + minute).isascii() and (hour + minute).isdigit()):
        raise ValueError(f"{text!r} is not HH:MM")
    if not (int(hour) < 24 and int(minute) < 60):
        raise ValueError(f"{text!r} is no time of day")
    return int(hour) * 60 + int(minute)


class CutOutReplay(Replay):
    """A replay that keeps what was recorded within the stretch to itself."""

    def __init__(
        self,
        frames: Iterable[bytes],
        stretch: Stretch,
        *,
        speed: float = 1.0,
        loop: bool = False,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        """Index a recording, as `Replay` does."""
        super().__init__(frames, speed=speed, loop=loop, rows=rows)
        self._stretch = stretch

    def due(self, wall_ms: int, wanted: set[str]) -> list[Update]:
        """The frames whose time has come, without those of the stretch."""
        return [update for update in super().due(wall_ms, wanted) if not self._stretch.holds(update.broker_ms)]

    def snapshot(self, keys: set[str]) -> dict[str, pb.Feed]:
        """As `Replay` gives it; nothing while the market is in the stretch, so that a new connection does not look into it."""
        return {} if self._stretch.holds(self.now_ms()) else super().snapshot(keys)
