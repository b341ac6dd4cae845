"""Learns when the market trades: the calendar, fetched where it is not known, and the closing auctions that feeds have recorded."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from broker.calendar import calendar_ensure
from broker.candles import ShardCandles
from broker.hours import AUCTION, TradingHours
from broker.pipeline import Pipeline
from broker.report import Report
from broker.store_calls import STORE_ERRORS, ask_store
from instruments.domain.instrument import INDEX_TYPE
from instruments.models import Instrument
from marketdata.domain.candle import day_start_ms
from marketdata.domain.session import EXCHANGES
from marketdata.models import MarketStatus
from marketdata.store import time_ms

CALENDAR_SECONDS = 60.0
RECORDED_AUCTIONS = 20
"""States of auctions that are read again: four a day and exchange."""


class HoursLearner:
    """Keeps the hours of one feed shard right. While the store or the broker is away, what is known stays."""

    def __init__(self, hours: TradingHours, candles: ShardCandles, pipeline: Pipeline, report: Report, *, api_url: str) -> None:
        self._hours, self._candles, self._pipeline, self._report = hours, candles, pipeline, report
        self._api_url = api_url

    async def run(self) -> None:
        """Learn each minute, and on each new day of the market."""
        day_ms, due_at = day_start_ms(self._pipeline.market_ms), time.monotonic() + CALENDAR_SECONDS
        while True:
            await asyncio.sleep(1)
            today_ms = day_start_ms(self._pipeline.market_ms)
            if today_ms != day_ms or time.monotonic() >= due_at:
                await self.learn()
                day_ms, due_at = today_ms, time.monotonic() + CALENDAR_SECONDS

    async def learn(self) -> None:
        """Ask once; a failure is counted and reported."""
        try:
            calendar, failure = await ask_store(partial(calendar_ensure, self._pipeline.market_ms, api_url=self._api_url))
            self._candles.take_calendar(calendar, await ask_store(_auctioned_keys))
            for auction in await ask_store(_auctions_recorded):  # a feed that starts within one is told of its present state alone
                self._hours.observe_auctions(auction)
        except STORE_ERRORS as error:
            failure = error
        self._report.counts["calendar_failed_total"] += failure is not None
        self._report.failing("asking for the calendar", failure)


def _auctions_recorded() -> list[dict[str, tuple[str, int]]]:
    """Return the newest states of the closing auctions that any feed has recorded, oldest first, each as `Frame.auctions`."""
    names = [name + AUCTION for name in {*EXCHANGES, *EXCHANGES.values()}]
    rows = MarketStatus.objects.filter(segment__in=names).order_by("-since")[:RECORDED_AUCTIONS]
    return [{row.segment: (row.status, time_ms(row.since))} for row in reversed(rows)]


def _auctioned_keys() -> frozenset[str]:
    """Return the keys of the shares that take part in the closing auction. An index goes on through it."""
    shares = Instrument.objects.filter(active=True, cas_eligible=True).exclude(instrument_type=INDEX_TYPE)
    return frozenset(shares.values_list("instrument_key", flat=True))
