"""What a feed that starts learns from its journal's end: the minutes that its last run had begun, and when in market time that ended."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from broker.candles import ShardCandles
from broker.journal_reading import JournalReader
from broker.journal_segments import segment_paths, segment_stamp
from broker.pipeline import Pipeline
from broker.upstox.decode import decode
from marketdata.domain.candle import MINUTE_MS, Candle

log = logging.getLogger(__name__)

WARM_US = 150_000_000
"""So much of the journal's end is read: the minute that was forming, the one before for the day's volume, and half a minute."""
WARM_SECONDS = 5.0
"""A start takes no longer for it; the newest frames are missing then."""


def warm_up(candles: ShardCandles, folder: Path, last_us: int) -> int:
    """Give the candles the frames of the journal's end, as they came. Frames that cannot be read are left to the store's writer to count.

    Of a minute whose beginning is not read only the day's volume counts: its candle was told, and would be a worse one now.

    Args:
        last_us: stamp of the journal's newest record; 0: there is none.

    Returns:
        Market time of its newest frame, ms UTC; 0 where there is none.
    """
    if not last_us:
        return 0
    from_us = max(last_us - WARM_US, 0)
    is_cut = any(segment_stamp(path) <= from_us for path in segment_paths(folder)[:1])
    whole_ms = 0
    """Market time of the first minute that is read from its beginning."""
    reader = JournalReader(folder, after_us=from_us)
    market = Pipeline()
    minutes: dict[int, bytes] = {}
    finished: dict[tuple[int, int], Candle] = {}
    until = time.monotonic() + WARM_SECONDS
    while time.monotonic() < until and (records := reader.read()):
        for record in records:
            try:
                frame = decode(record.data, record.instruments, minutes)
            except Exception as error:
                log.debug("a frame of the journal cannot be read: %s", error)
                continue
            if is_cut and frame.broker_ms:
                is_cut = False
                whole_ms = -(-(frame.broker_ms - (record.received_us - from_us) // 1000) // MINUTE_MS) * MINUTE_MS
            if frame.broker_ms < whole_ms + 2 * MINUTE_MS:
                ticks = [tick if (tick.last_trade_ms or 0) >= whole_ms else tick._replace(last_price=None) for tick in frame.ticks]
                frame = frame._replace(ticks=ticks)
            market.apply(frame._replace(ticks=[], unknown=()))
            candles.apply(frame, record.received_us, record.instruments, market.market_ms, time.monotonic())
            finished |= {(candle.instrument, candle.start_ms): candle for candle in candles.drain()}
    candles.tell_again(finished.values())
    log.info("feed: the journal's last minutes are read, %d finished candles are told again", len(finished))
    return market.market_ms
