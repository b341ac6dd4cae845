"""What the simulated exchange serves: the port between a market (simulated or recorded) and the wire.

Two implementations: `market.Market` (a seeded random walk) and `replay.Replay` (recorded frames). The wire
(`feed_server`, `rest_server`) knows only this port.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from broker.upstox import MarketDataFeedV3_pb2 as pb


class Update(NamedTuple):
    """One conflated update of the whole market: what a feed frame is cut from.

    Attributes:
        broker_ms: the exchange's clock, ms UTC; the frame's `currentTs`.
        feeds: instrument key → its `Feed` in full (full_d5) form. Only keys that changed.
    """

    broker_ms: int
    feeds: dict[str, pb.Feed]


class Bar(NamedTuple):
    """One candle of every trade. `start_ms` ms UTC · prices INR · `volume` units · `open_interest` units."""

    start_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    open_interest: int


class MarketSource(Protocol):
    """A market that can be advanced and asked. Not thread-safe; one event loop drives it."""

    def now_ms(self) -> int:
        """The market's own time, ms UTC (recorded time in a replay)."""

    def master_rows(self) -> list[dict[str, Any]]:
        """The instrument master, rows shaped as the broker's JSON (FACTS §4)."""

    def segments(self) -> dict[str, str]:
        """Segment → MarketStatus name (`NORMAL_OPEN`…), now."""

    def auctions(self) -> dict[str, tuple[str, int]]:
        """Segment → status of its closing auction now, and since when (ms UTC); empty while there is none."""

    def due(self, wall_ms: int, wanted: set[str]) -> list[Update]:
        """Advance to the wall clock and return what is to be sent, oldest first.

        Args:
            wall_ms: now by this host's clock, ms UTC; never decreasing.
            wanted: keys that any connection subscribes; only these appear in the updates.
        """

    def snapshot(self, keys: set[str]) -> dict[str, pb.Feed]:
        """The present full-mode `Feed` of each known key of `keys`; unknown keys are silently left out (as the broker does)."""

    def minute_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        """1-minute candles made of *every* trade with from_ms <= start_ms < to_ms, oldest first; the forming one included."""

    def day_bars(self, key: str, from_ms: int, to_ms: int) -> list[Bar]:
        """Daily candles (start 00:00 IST), oldest first."""

    def finished(self) -> bool:
        """True once a recording has been sent to its end; a simulated market never ends."""
