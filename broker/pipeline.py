"""Frames folded into the latest quotes, and what of them clients have not seen yet. Pure: no clock, no I/O.

Memory follows subscriptions: one Quote an instrument, one entry in `dirty` at the most.
"""

from __future__ import annotations

from broker.upstox.decode import Frame
from marketdata.domain.quote import DEPTH_CHANGED, Quote
from marketdata.domain.tick import TickKind


class Pipeline:
    """The state of one feed shard's instruments within one epoch.

    Attributes:
        quotes: instrument id → its quote.
        segments: segment → status name, as last reported.
        market_ms: the newest broker time, ms UTC; market time never steps back.
    """

    def __init__(self) -> None:
        self.quotes: dict[int, Quote] = {}
        self.segments: dict[str, str] = {}
        self.market_ms = 0
        self._dirty: dict[int, int] = {}

    def apply(self, frame: Frame) -> None:
        """Fold one frame."""
        broker_ms = frame.broker_ms
        if broker_ms > self.market_ms:
            self.market_ms = broker_ms
        if frame.segments:
            self.segments = self.segments | frame.segments
        quotes, dirty = self.quotes, self._dirty
        snapshot = frame.kind is TickKind.SNAPSHOT
        for tick in frame.ticks:
            instrument = tick.instrument
            quote = quotes.get(instrument)
            if quote is None:
                quote = quotes[instrument] = Quote(instrument)
            change = quote.apply(tick, broker_ms, snapshot=snapshot)
            if change:
                dirty[instrument] = dirty.get(instrument, 0) | change

    @property
    def has_changes(self) -> bool:
        """Whether `drain` would return anything."""
        return bool(self._dirty)

    def drain(self) -> list[tuple[Quote, bool]]:
        """Return each quote that changed since the last call, and whether its depth did; begins anew."""
        changes = [(self.quotes[instrument], bool(change & DEPTH_CHANGED)) for instrument, change in self._dirty.items()]
        self._dirty = {}
        return changes

    def forget(self, instruments: set[int]) -> None:
        """Drop the state of instruments that are no longer followed."""
        for instrument in instruments:
            self.quotes.pop(instrument, None)
            self._dirty.pop(instrument, None)
