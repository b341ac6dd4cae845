"""The feed's voice: changed quotes and candles to the hubs once a window, quotes to the shared hash once a second. Each is encoded once.

A server that does not answer costs this task its time-out and nothing else: changes merge in the pipeline meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from broker.candles import ShardCandles
from broker.pipeline import Pipeline
from marketdata import bus, live_state
from marketdata.domain.candle import Candle
from marketdata.domain.feed_status import FeedStatus
from marketdata.wire import QuoteEntry, quote_entry

COUNTS = (
    "quotes_published_total",
    "quotes_unsent_total",
    "publish_failed_total",
    "live_state_failed_total",
    "candles_published_total",
    "candles_unsent_total",
)


class Publisher:
    """Encodes and publishes one shard's quotes.

    Attributes:
        epoch: this run, ms UTC of its start.
        n: number of the last group message.
        counts: of the quotes that the pipeline gave: `quotes_published_total`, `quotes_unsent_total` (nobody took the message;
            hubs see the jump in `n` and load the hash); `publish_failed_total`, `live_state_failed_total` (messages, writes).
            Of the candles that were drained, forming ones too: `candles_published_total`, `candles_unsent_total`.
        under_way: quotes that are being sent at this moment.
    """

    def __init__(self, pipeline: Pipeline, candles: ShardCandles, *, shard: int, epoch: int) -> None:
        self.epoch = epoch
        self.n = self.under_way = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._pipeline = pipeline
        self._candles = candles
        self._shard = shard
        self._entries: dict[int, QuoteEntry] = {}
        self._unsaved: dict[int, QuoteEntry] = {}
        self._knows_left_behind = False
        self._one_at_a_time = asyncio.Lock()

    async def publish(self, keys: Mapping[int, str], status: FeedStatus | None = None) -> None:
        """Publish what changed since the last call, and the report where one is given.

        Raises:
            bus.Unavailable: nobody got it; hubs see the jump in `n` and load the hash.
        """
        changed = []
        for quote, depth_changed in self._pipeline.drain():
            instrument = quote.instrument
            key = keys.get(instrument)
            if key is None:  # its key has passed to another instrument
                self._pipeline.counts["quotes_forgotten_total"] += 1
                continue
            entry = quote_entry(quote, key, depth_changed, self._entries.get(instrument))
            self._entries[instrument] = self._unsaved[instrument] = entry
            changed.append(entry)
        candles = self._candles.drain()
        self.under_way += len(changed)
        outcome = "unsent"
        try:
            async with self._one_at_a_time:  # hubs take a number that is overtaken for a loss
                await self._send(changed, status, candles)
            outcome = "published"
        finally:  # cancelled at the end of the process, too
            self.under_way -= len(changed)
            self.counts[f"quotes_{outcome}_total"] += len(changed)
            self.counts[f"candles_{outcome}_total"] += len(candles)

    async def _send(self, changed: list[QuoteEntry], status: FeedStatus | None, candles: list[Candle]) -> None:
        self.n += 1
        try:
            await bus.publish(bus.BusBatch(self._shard, self.epoch, self.n, changed, status, candles))
        except bus.Unavailable:
            self.counts["publish_failed_total"] += 1
            raise

    async def save(self, status: FeedStatus) -> None:
        """Write the quotes that changed since the last call, and the report, to the shared state.

        Raises:
            live_state.Unavailable: with the next call every quote is written, as the server may have lost them all.
        """
        unsaved, self._unsaved = self._unsaved, {}
        saved = False
        try:
            await live_state.aquotes_write(unsaved.values(), self.epoch)
            await live_state.astatus_write(status)
            saved = True
        except live_state.Unavailable:
            self.counts["live_state_failed_total"] += 1
            raise
        finally:
            if not saved:  # cancelled at the end of the process, too
                self._unsaved = dict(self._entries)

    def forget_unfollowed(self) -> None:
        """Drop the entries of instruments that the pipeline no longer has."""
        for instrument in [instrument for instrument in self._entries if instrument not in self._pipeline.quotes]:
            del self._entries[instrument]
            self._unsaved.pop(instrument, None)

    async def left_behind(self, shards: int) -> set[int]:
        """Return once, then nothing: the shard's instruments of which the shared state has a quote, those of earlier runs among them.

        Args:
            shards: how many there are; an instrument's is its id mod `shards`.

        Raises:
            live_state.Unavailable: ask again.
        """
        if self._knows_left_behind:
            return set()
        known = await live_state.aquotes_known()
        self._knows_left_behind = True
        return {instrument for instrument in known if instrument % shards == self._shard}
