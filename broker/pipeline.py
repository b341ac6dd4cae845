"""Frames folded into the latest quotes, and what of them clients have not seen yet. Pure: no clock, no I/O.

Memory follows subscriptions: one Quote an instrument, one entry in `dirty` at the most.
"""

from __future__ import annotations

from collections import Counter

from broker.upstox.decode import Frame
from marketdata.domain.quote import DEPTH_CHANGED, REPEATED, Quote
from marketdata.domain.tick import TickKind

COUNTS = ("ticks_changed_total", "repeated_total", "out_of_order_total", "ticks_unknown_total", "merged_total", "quotes_forgotten_total")


LEAP_MS = 3_600_000
"""A step of market time by more than an hour, either way, is a leap: a replay's night, or a wrong clock."""


class Pipeline:
    """The state of one feed shard's instruments within one epoch.

    Attributes:
        quotes: instrument id → its quote.
        segments: segment → status name, as last reported.
        auctions: name → status and since when, as last reported: as of Frame.
        market_ms: the newest broker time, ms UTC; 0 before the first. Market time does not step back, and leaps only where two
            frames in turn agree.
        counts: of ticks: `ticks_changed_total` (a quote moved), `repeated_total`, `out_of_order_total`, `ticks_unknown_total`
            (their key has no instrument yet); together every tick that was decoded. Of the changes: `merged_total` (another
            followed before it was drained), `quotes_forgotten_total` (its instrument was dropped before); the rest was
            drained, or waits.
    """

    def __init__(self) -> None:
        self.quotes: dict[int, Quote] = {}
        self.segments: dict[str, str] = {}
        self.auctions: dict[str, tuple[str, int]] = {}
        self.market_ms = 0
        self._leapt_ms = 0
        """What the frame before said, where it was a leap."""
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._dirty: dict[int, int] = {}
        self._last_seqs: dict[int, int] = {}
        """Of instruments that were forgotten: should they come back within the epoch, a lower `seq` would be taken for an old quote."""

    def apply(self, frame: Frame) -> None:
        """Fold one frame."""
        broker_ms = frame.broker_ms
        step_ms = broker_ms - self.market_ms
        if -LEAP_MS <= step_ms <= LEAP_MS:
            self._leapt_ms = 0
            if step_ms > 0:
                self.market_ms = broker_ms
        elif broker_ms:
            broker_ms = self._leap(broker_ms)
        if frame.segments:
            self.segments = self.segments | frame.segments
        if frame.auctions:
            self.auctions = self.auctions | dict(frame.auctions)
        quotes, dirty, counts = self.quotes, self._dirty, self.counts
        snapshot = frame.kind is TickKind.SNAPSHOT
        changed = merged = repeated = 0
        for tick in frame.ticks:
            instrument = tick[0]
            quote = quotes.get(instrument)
            if quote is None:
                quote = quotes[instrument] = Quote(instrument)
                quote.seq = self._last_seqs.pop(instrument, 0)
            change = quote.apply(tick, broker_ms, snapshot=snapshot)
            if change > 0:
                changed += 1
                was = dirty.get(instrument)
                if was is None:
                    dirty[instrument] = change
                else:  # the earlier change is not told by itself: clients get the newest quote
                    merged += 1
                    dirty[instrument] = was | change
            elif change == REPEATED:
                repeated += 1
        counts["ticks_changed_total"] += changed
        counts["merged_total"] += merged
        counts["repeated_total"] += repeated
        counts["out_of_order_total"] += len(frame.ticks) - changed - repeated
        counts["ticks_unknown_total"] += len(frame.unknown)

    def _leap(self, broker_ms: int) -> int:
        """Let one wrong clock move nothing, and a second frame that says the same be believed; return the frame's time for its quotes."""
        if not self.market_ms or abs(broker_ms - self._leapt_ms) <= LEAP_MS:
            self.market_ms = broker_ms
        self._leapt_ms = broker_ms
        return min(broker_ms, self.market_ms)

    @property
    def doubts(self) -> bool:
        """Whether the newest frame's clock is a leap that no second frame has confirmed."""
        return abs(self._leapt_ms - self.market_ms) > LEAP_MS if self._leapt_ms else False

    @property
    def waiting(self) -> int:
        """How many quotes `drain` would return."""
        return len(self._dirty)

    def drain(self) -> list[tuple[Quote, bool]]:
        """Return each quote that changed since the last call, and whether its depth did; begins anew."""
        changes = [(self.quotes[instrument], bool(change & DEPTH_CHANGED)) for instrument, change in self._dirty.items()]
        self._dirty = {}
        return changes

    def forget(self, instruments: set[int]) -> None:
        """Drop the state of instruments that are no longer followed."""
        for instrument in instruments:
            quote = self.quotes.pop(instrument, None)
            if quote is not None:
                self._last_seqs[instrument] = quote.seq
            if self._dirty.pop(instrument, None) is not None:
                self.counts["quotes_forgotten_total"] += 1
