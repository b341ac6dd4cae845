"""The loop that lets what is followed roll with the market: once a second it looks at the rules, decides, and asks the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from broker.announcing import Announcer
from broker.connecting import Connector
from broker.following import Following
from broker.report import Report
from broker.store_calls import STORE_ERRORS
from broker.upstox.protocol import FeedUnavailable

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
PATIENCE_SECONDS = 1.0
"""What the rules mean is waited for so long; a store that hangs holds up neither demand nor a new connection."""
CLOCK_SECONDS = 2.0
"""The first frame, which says what time it is in the market, is waited for so long: a replay's contracts are not those of our clock."""
FIRST_ROUND_SECONDS = 0.05
RETRY_SECONDS = 5.0
"""The store is asked again so long after it did not answer."""


class Roller:
    """Keeps one shard's subscription as rules and clients want it.

    Attributes:
        due: set to have the next round begin at once: a connection has been opened.
    """

    def __init__(self, following: Following, announcer: Announcer, connector: Connector, report: Report) -> None:
        self.due = asyncio.Event()
        self._following = following
        self._announcer = announcer
        self._connector = connector
        self._report = report
        self._asking: asyncio.Task[None] | None = None
        self._ask_at = float("-inf")
        self._clock_by = 0.0

    async def run(self) -> None:
        """Go round for ever."""
        self._clock_by = time.monotonic() + CLOCK_SECONDS
        try:
            while True:
                began = time.monotonic()
                await self.step()
                pause = ROUND_SECONDS if self._knows_time() else FIRST_ROUND_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.due.wait(), max(FIRST_ROUND_SECONDS, pause - (time.monotonic() - began)))
                self.due.clear()
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def step(self) -> None:
        """One round. Whatever the store does, it ends. Nothing is decided before it is known what has expired."""
        if not self._knows_time():
            return
        await self._ask_rules()
        change = await self._following.decide()
        if change is not None:
            self._announcer.change(change)
        self._announcer.refuse(self._following.refused)
        if self._connector.connection is not None:
            try:
                await self._following.reconcile(self._connector.connection)
            except FeedUnavailable as error:
                log.info("feed: the connection ended while subscribing: %s", error)  # the connector sees it too

    def _knows_time(self) -> bool:
        return self._following.knows_time or time.monotonic() >= self._clock_by

    async def _ask_rules(self) -> None:
        if self._asking is None and time.monotonic() >= self._ask_at:
            self._asking = asyncio.create_task(self._following.resolve(), name="asking the rules")
        if self._asking is None:
            return
        done, _ = await asyncio.wait({self._asking}, timeout=PATIENCE_SECONDS)
        if not done:
            return
        asked, self._asking = self._asking, None
        error = asked.exception()
        if error is not None and not isinstance(error, STORE_ERRORS):
            raise error
        self._report.failing("asking the rules", error if isinstance(error, Exception) else None)
        if error is not None:
            self._ask_at = time.monotonic() + RETRY_SECONDS  # meanwhile what is known of them is followed
            self._report.counts["universe_failed_total"] += 1
