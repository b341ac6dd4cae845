"""Tells the store what the feed knows besides the ticks: the market's states, its own holes, its candles. Each until the store has it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from broker.candles import ShardCandles
from broker.holes import Hole, Holes, gap_record
from broker.pipeline import Pipeline
from broker.report import Report
from broker.store_calls import STORE_ERRORS, ask_store
from marketdata import bus
from marketdata.domain.candle import candle_id
from marketdata.domain.gap import GapNotice
from marketdata.domain.minutes import Finished
from marketdata.models import Gap
from marketdata.store import candles_write, market_status_write, time_ms

log = logging.getLogger(__name__)

RECORD_SECONDS = 1.0
BATCH_CANDLES = 1000


class Recorder:
    """Of one shard. Writing twice changes nothing, so what failed is simply done again."""

    def __init__(self, pipeline: Pipeline, candles: ShardCandles, holes: Holes, report: Report, *, shard: int) -> None:
        self._pipeline = pipeline
        self._candles = candles
        self._holes = holes
        self._report = report
        self._shard = shard
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Record what is new, each second, until cancelled."""
        while True:
            await asyncio.sleep(RECORD_SECONDS)
            await self.step()

    async def step(self) -> None:
        """Record what is new now. A store that does not answer is logged once; what is left waits for the next step."""
        try:
            await self._record_segments()
            await self._record_holes()
            await self._record_candles()
            self._report.failing("recording gaps and the market's state", None)
        except STORE_ERRORS as error:
            self._report.failing("recording gaps and the market's state", error)

    async def _record_segments(self) -> None:
        since_ms = self._pipeline.market_ms or time.time_ns() // 1_000_000
        now = {name: (status, since_ms) for name, status in self._pipeline.segments.items()} | self._pipeline.auctions
        changed = {name: told for name, told in now.items() if self._told.get(name) != told[0]}
        if not changed:
            return

        def write() -> None:
            for name, (status, told_ms) in changed.items():
                market_status_write(name, status, told_ms)

        await ask_store(write)
        self._told |= {name: status for name, (status, _) in changed.items()}

    async def _record_holes(self) -> None:
        while self._holes.waiting:
            hole = self._holes.waiting[0]
            gap = await ask_store(partial(_gap_of, hole, self._shard))
            self._holes.saved(hole, is_gap=gap is not None)
            if gap is not None:
                try:
                    await bus.publish_notice(bus.Notice([], [gap]))
                except bus.Unavailable as error:
                    log.info("feed: clients were not told of a gap, they find it in the store: %s", error)

    async def _record_candles(self) -> None:
        while batch := self._candles.take(BATCH_CANDLES):
            try:
                await ask_store(partial(_candles_of, batch))
            except BaseException:  # cancelled at the end of the process, too: the last step finds them
                self._candles.give_back()
                raise
            self._candles.written()


def _candles_of(batch: Sequence[Finished]) -> None:
    built = {candle_id(candle.instrument, candle.interval, candle.start_ms): values for candle, values in batch if values is not None}
    candles_write([each.candle for each in batch], built)


def _gap_of(hole: Hole, shard: int) -> GapNotice | None:
    """Bring a hole into the store; return the gap that it is, if it is one."""
    if not gap_record(hole, shard):
        return None
    gap = Gap.objects.exclude(cause=Gap.Cause.MISSING).filter(shard=shard, start=datetime.fromtimestamp(hole.start_ms / 1000, UTC)).first()
    if gap is None:  # deleted in between
        return None
    end_ms = hole.end_ms if gap.end is None else time_ms(gap.end)
    return GapNotice(
        str(gap.pk), shard, hole.start_ms, end_ms, gap.cause, gap.heal_state, gap.heal_detail, list(gap.instruments), gap.candles_healed
    )
