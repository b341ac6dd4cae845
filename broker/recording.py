"""Tells the store, besides the ticks, what the feed knows of the market's states and of its own holes: each until the store has it."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from broker.holes import Holes, gap_record
from broker.pipeline import Pipeline
from broker.report import Report
from broker.store_calls import STORE_ERRORS, ask_store
from marketdata.store import market_status_write

RECORD_SECONDS = 1.0


class Recorder:
    """Of one shard. Writing twice changes nothing, so what failed is simply done again."""

    def __init__(self, pipeline: Pipeline, holes: Holes, report: Report, *, shard: int) -> None:
        self._pipeline = pipeline
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
            self._report.failing("recording gaps and the market's state", None)
        except STORE_ERRORS as error:
            self._report.failing("recording gaps and the market's state", error)

    async def _record_segments(self) -> None:
        changed = {name: status for name, status in self._pipeline.segments.items() if self._told.get(name) != status}
        if not changed:
            return
        since_ms = self._pipeline.market_ms or time.time_ns() // 1_000_000

        def write() -> None:
            for name, status in changed.items():
                market_status_write(name, status, since_ms)

        await ask_store(write)
        self._told |= changed

    async def _record_holes(self) -> None:
        while self._holes.waiting:
            hole = self._holes.waiting[0]
            is_gap = await ask_store(partial(gap_record, hole, self._shard))
            self._holes.saved(hole, is_gap=is_gap)
