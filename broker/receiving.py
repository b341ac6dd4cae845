"""One message of the feed on its way in: journal first, then decode, store, fold. Never waits, and no message ends the feed."""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable

from broker.candles import ShardCandles
from broker.following import Following
from broker.journal import Journal
from broker.journal_reading import Record
from broker.liveness import Liveness
from broker.pipeline import Pipeline
from broker.store_writer import StoreWriter
from broker.upstox.decode import decode
from broker.upstox.protocol import ProtocolViolation, parse_feed_text
from marketdata.domain.tick import TickKind

log = logging.getLogger(__name__)

TEXT_CHARACTERS = 2000
"""So much of a text frame goes into the journal."""
COLLECT_OBJECTS = 50_000
"""Objects after which Python looks for cycles. Ticks are tuples and have none; looking at each 700 took a sixth of the way of a tick."""


def spare_the_collector() -> None:
    """Let the garbage collector leave what is loaded alone, and look at the rest less often. For a process that decodes all day."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_OBJECTS, 20, 20)


class Receiver:
    """Takes the messages of one shard, in order.

    Args:
        counts: takes `frames_received_total`, which is `frames_decoded_total` + `frames_rejected_total`; `ticks_decoded_total`,
            those with unknown keys too; `text_frames_total`.
        on_ticks: called after each frame with ticks; must be cheap.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        following: Following,
        pipeline: Pipeline,
        candles: ShardCandles,
        liveness: Liveness,
        writer: StoreWriter,
        counts: Counter[str],
        on_ticks: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._following = following
        self._pipeline = pipeline
        self._candles = candles
        self._liveness = liveness
        self._writer = writer
        self._counts = counts
        self._on_ticks = on_ticks
        self._minutes: dict[int, bytes] = {}
        self._is_greeted = False
        self._unasked_told = False

    def opened(self) -> None:
        """A connection was made: its first market_info replaces what is known of the segments, as the broker may leave one out."""
        self._is_greeted = False
        self._liveness.opened(time.monotonic())
        self._journal.event({"event": "opened"}, _now_us())

    def closed(self) -> None:
        """The connection is gone."""
        self._journal.event({"event": "closed"}, _now_us())

    def take(self, message: bytes | str) -> None:
        """Take one message."""
        now_us = _now_us()
        liveness, counts = self._liveness, self._counts
        liveness.frame_at = time.monotonic()
        if isinstance(message, str):
            self._take_text(message, now_us)
            return
        counts["frames_received_total"] += 1
        stamp = self._journal.append(message, now_us)
        instruments = self._following.instruments
        try:
            frame = decode(message, instruments, self._minutes)
        except Exception as error:  # bytes from outside; one frame must not end the feed, nor again after each restart
            self._reject(error)
            return
        counts["frames_decoded_total"] += 1
        counts["ticks_decoded_total"] += len(frame.ticks) + len(frame.unknown)
        self._writer.offer(Record(stamp, message, instruments), frame, journalled=self._journal.holds(stamp))
        if frame.segments and not self._is_greeted:
            self._is_greeted = True
            self._pipeline.segments = {}
        self._pipeline.apply(frame)
        self._candles.apply(frame, stamp, instruments, self._pipeline.market_ms, liveness.frame_at)
        if frame.unknown and not self._unasked_told:
            self._unasked_told = True
            log.warning("feed: keys that nobody asked for; they are stored and not shown: %s", ", ".join(frame.unknown[:5])[:300])
        if frame.ticks:
            liveness.data_at = liveness.frame_at
            if frame.kind is TickKind.LIVE:
                liveness.live_at = liveness.frame_at
            self._on_ticks()

    def _take_text(self, message: str, now_us: int) -> None:
        self._counts["text_frames_total"] += 1
        self._journal.event({"event": "text", "text": message[:TEXT_CHARACTERS]}, now_us)
        complaint = parse_feed_text(message)
        log.warning("feed: text frame: %s", complaint or message[:200])

    def _reject(self, error: Exception) -> None:
        self._counts["frames_rejected_total"] += 1
        if self._counts["frames_rejected_total"] in (1, 10, 100, 1000):
            unforeseen = None if isinstance(error, ProtocolViolation) else error
            log.warning("feed: frame rejected (%d so far): %s", self._counts["frames_rejected_total"], error, exc_info=unforeseen)


def _now_us() -> int:
    return time.time_ns() // 1000
