"""What one client still has to get: a bounded FIFO of control messages, dirty keys of quotes, and charts that moved. Pure.

Laws: a quote is state, so only that its key is dirty is remembered, never the quote: memory follows subscriptions, not
time. Subscribing marks a key dirty, so the first drain is the snapshot. What must not be merged goes through the FIFO;
past its bound the oldest message is dropped and counted. A client that is owed nothing and takes what it is given may have
its `window` open: then a tick's ready-made bytes are collected there for the length of one batch, instead of a mark.

Every mark is accounted for: what was marked was delivered, merged, forgotten, or is waiting.

A chart is a followed Series of candles, a chain a followed ChainSeries: one number is remembered of each, up to where the client has it.
Each change of a followed chain is drained, merged, or part of a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from marketdata.chain_series import ChainSeries
from marketdata.ohlc_series import NOTHING, Series
from marketdata.wire import FULL_DEPTH

CONTROL_MESSAGES = 256
CONTROL_BYTES = 1_048_576
"""Bounds of the FIFO; the newest message is kept whatever its size."""


class Chart(NamedTuple):
    """A client's place in a series.

    Attributes:
        candles: how many it begins with.
        seen: number of the last change that the client was given; NOTHING before the first.
    """

    candles: int
    seen: int = NOTHING


class Outbox:
    """The lanes of one client.

    Attributes:
        modes: instrument id → LTPC or FULL, of every subscription.
        dirty: instrument id → whether the levels are owed too.
        charts: every followed series → up to where the client has it.
        chains: every followed window of an option chain → number of the last change that the client was given.
        all_gaps: whether it is told of every gap, not only of those in what it follows.
        window: where ticks of the present batch are collected; None while they are to be marked instead.
        collected: what `window` has collected, empty between batches.
        owed_total: whole quotes owed by subscribing or after a loss; each is a mark, beside those of ticks.
        delivered_total: quotes handed to the transport.
        merged_total: quotes that were replaced by a newer one before the client took them.
        forgotten_total: quotes that were owed when the client unsubscribed or went.
        dropped_total: control messages dropped because the client took none.
        sent_bytes: bytes of messages handed to the transport.
        candles_drained_total: changed candles handed to the writer, one by one.
        candles_merged_total: changes of candles that a newer change of the same replaced before they were drained.
        snapshots_drained_total: whole charts handed to the writer.
        chains_drained_total: changes of chains handed to the writer, one by one.
        chains_merged_total: changes of chains that were told together with a newer one.
        chain_snapshots_drained_total: whole chains handed to the writer.
    """

    __slots__ = (
        *("_chains_moved", "_control", "_control_bytes", "_moved", "_notices", "_taken", "all_gaps", "candles_drained_total"),
        *("candles_merged_total", "chain_snapshots_drained_total", "chains", "chains_drained_total", "chains_merged_total", "charts"),
        *("collected", "delivered_total", "dirty", "dropped_total", "forgotten_total", "merged_total", "modes", "owed_total"),
        *("sent_bytes", "snapshots_drained_total", "window"),
    )

    def __init__(self) -> None:
        self.modes: dict[int, int] = {}
        self.dirty: dict[int, bool] = {}
        self.charts: dict[Series, Chart] = {}
        self.chains: dict[ChainSeries, int] = {}
        self.all_gaps = False
        self.window: list[bytes] | None = None
        self.collected: list[bytes] = []
        self.owed_total = self.delivered_total = self.merged_total = self.forgotten_total = 0
        self.dropped_total = self.sent_bytes = 0
        self.candles_drained_total = self.candles_merged_total = self.snapshots_drained_total = 0
        self.chains_drained_total = self.chains_merged_total = self.chain_snapshots_drained_total = 0
        self._moved: dict[Series, None] = {}
        self._chains_moved: dict[ChainSeries, None] = {}
        self._taken = 0
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._notices: dict[int, bytes] = {}

    def subscribe(self, instrument: int, mode: int, *, dirty: bool = True) -> None:
        """Follow an instrument. Its whole quote is owed, unless `dirty` is False (the client has it already)."""
        self.modes[instrument] = mode
        if dirty:
            self.owed_total += 1
            self.mark(instrument, True)

    def unsubscribe(self, instrument: int) -> bool:
        """Follow it no more; nothing of it is owed then. False: it was not followed."""
        # Forgotten: it was owed, and is not wanted any more.
        self.forgotten_total += self.dirty.pop(instrument, None) is not None
        self._notices.pop(instrument, None)
        return self.modes.pop(instrument, None) is not None

    def mark(self, instrument: int, depth: bool) -> None:
        """Note that a followed instrument has a newer quote; `depth`: with other levels. Where there is a window, it is filled instead."""
        dirty = self.dirty
        self.window = None
        if instrument in dirty:
            # Merged: the client gets the newest quote only; that the levels changed is kept.
            self.merged_total += 1
            if depth:
                dirty[instrument] = True
        else:
            dirty[instrument] = depth

    def mark_all(self, known: Container[int]) -> None:
        """Owe the whole quote of everything that is followed and `known`."""
        for instrument in self.modes:
            if instrument in known:
                self.owed_total += 1
                self.mark(instrument, True)

    def drain(self) -> list[tuple[int, int]]:
        """Return what is dirty, each key once, in the order it was marked, as (instrument, LTPC, FULL or FULL_DEPTH); then nothing is."""
        modes = self.modes
        drained = [
            (instrument, (modes[instrument] and FULL_DEPTH) if depth else modes[instrument]) for instrument, depth in self.dirty.items()
        ]
        self.dirty.clear()
        self._taken += len(drained)
        return drained

    def delivered(self) -> None:
        """Note that the transport has all that was drained."""
        self.delivered_total += self._taken
        self._taken = 0

    @property
    def waiting(self) -> int:
        """Quotes that are owed now: dirty, or drained and not yet with the transport."""
        return len(self.dirty) + self._taken + len(self.collected)

    def forget(self) -> None:
        """Owe nothing any more: the client went. What was being sent counts as forgotten too: nobody knows whether it came."""
        self.forgotten_total += self.waiting
        self.dirty.clear()
        self.collected.clear()
        self._taken = 0
        self.window = None

    def open_window(self) -> bool:
        """Let ticks be collected from now on. False: something is owed, which has to go out first."""
        if self.dirty or self._control or self._notices or self._moved or self._chains_moved:
            return False
        self.window = self.collected
        return True

    def window_delivered(self) -> None:
        """Note that the transport has what was collected."""
        self.delivered_total += len(self.collected)
        self.collected.clear()

    def follow_chart(self, series: Series, candles: int) -> None:
        """Follow a series; its newest candles are owed, whether or not the client has them already."""
        self.charts[series] = Chart(candles)
        self.mark_chart(series)

    def unfollow_chart(self, series: Series) -> bool:
        """Follow it no more; nothing of it is owed then. False: it was not followed."""
        self._moved.pop(series, None)
        return self.charts.pop(series, None) is not None

    def mark_chart(self, series: Series) -> None:
        """Note that a followed series has changed."""
        self.window = None
        self._moved[series] = None

    def drain_charts(self) -> Iterator[bytes]:
        """Yield what has changed in the followed series, each once, as it is when its turn comes.

        What changes behind that is owed again: a slow client of busy charts gets all else between two rounds.
        """
        for series in list(self._moved):
            if series not in self._moved:
                continue  # followed no more by now
            del self._moved[series]
            chart = self.charts[series]
            drained = series.drain(chart.seen, chart.candles)
            self.charts[series] = chart._replace(seen=drained.seen)
            # Merged: each change has a number of its own, and only the last of each candle goes out.
            self.candles_merged_total += drained.merged
            self.snapshots_drained_total += drained.is_snapshot
            self.candles_drained_total += 0 if drained.is_snapshot else len(drained.frames)
            yield from drained.frames

    def follow_chain(self, series: ChainSeries) -> None:
        """Follow a window of a chain; the whole is owed, whether or not the client has it already."""
        self.chains[series] = NOTHING
        self.mark_chain(series)

    def unfollow_chain(self, series: ChainSeries) -> bool:
        """Follow it no more; nothing of it is owed then. False: it was not followed."""
        self._chains_moved.pop(series, None)
        return self.chains.pop(series, None) is not None

    def mark_chain(self, series: ChainSeries) -> None:
        """Note that a followed chain has changed."""
        self.window = None
        self._chains_moved[series] = None

    def drain_chains(self) -> Iterator[bytes]:
        """Yield what has changed in the followed chains, each once, as it is when its turn comes; as `drain_charts` does."""
        for series in list(self._chains_moved):
            if series not in self._chains_moved:
                continue  # followed no more by now
            del self._chains_moved[series]
            drained = series.drain(self.chains[series])
            self.chains[series] = drained.seen
            # Merged: strikes have their newest values only, and what a strike was in between is told to nobody who comes later.
            self.chains_merged_total += drained.merged
            self.chain_snapshots_drained_total += drained.is_snapshot
            self.chains_drained_total += 0 if drained.is_snapshot else len(drained.frames)
            yield from drained.frames

    def push(self, message: bytes) -> None:
        """Append a control message: a reply, a status, an error."""
        self.window = None
        self._control.append(message)
        self._control_bytes += len(message)
        # Dropped: the oldest. The client is told how many by the next heartbeat or pong.
        while len(self._control) > CONTROL_MESSAGES or (self._control_bytes > CONTROL_BYTES and len(self._control) > 1):
            self._control_bytes -= len(self._control.popleft())
            self.dropped_total += 1

    def notice(self, instrument: int, message: bytes) -> None:
        """Owe a message about one subscription; a newer one about the same replaces it, so they are bounded by the subscriptions."""
        self.window = None
        self._notices[instrument] = message

    def drain_control(self) -> Sequence[bytes]:
        """Return the control messages in order, then the notices; then there are none."""
        if not self._control and not self._notices:
            return ()
        drained = [*self._control, *self._notices.values()]
        self._control.clear()
        self._control_bytes = 0
        self._notices.clear()
        return drained
