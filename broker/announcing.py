"""Tells what the feed follows: each change to clients and to the store, and what clients demand in vain. The feed waits for none of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from bson import ObjectId

from broker.report import Report
from broker.resolving import Change
from broker.store_calls import STORE_ERRORS, ask_store
from instruments.universe_changes import universe_change_record
from marketdata import bus

log = logging.getLogger(__name__)

REFUSED_SECONDS = 5.0
"""While clients demand something in vain, they are told so often why: a hub that has started meanwhile does not know it."""
CHANGES_WAITING = 100
"""So many changes wait for a Redis or a store that is away."""
COUNTS = ("universe_changes_unsent_total", "universe_changes_unstored_total")


class Announced(NamedTuple):
    """A change with an identifier of its own, under which it is stored once however often that is tried."""

    identifier: str
    change: Change


class Announcer:
    """The changes of one shard that are still to be told. A loop of its own runs `run`.

    Attributes:
        counts: of changes that were dropped, because CHANGES_WAITING more came before Redis was there again
            (`universe_changes_unsent_total`), or the store (`universe_changes_unstored_total`).
    """

    def __init__(self, report: Report, *, shard: int) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._report = report
        self._shard = shard
        self._unsent: deque[Announced] = deque()
        self._unstored: deque[Announced] = deque()
        self._refused: dict[int, str] = {}
        self._due = asyncio.Event()

    def change(self, change: Change) -> None:
        """Tell a change as soon as may be."""
        announced = Announced(str(ObjectId()), change)
        self._unsent.append(announced)
        self._unstored.append(announced)
        for waiting, name in ((self._unsent, COUNTS[0]), (self._unstored, COUNTS[1])):
            while len(waiting) > CHANGES_WAITING:  # dropped: the oldest; the log has it
                waiting.popleft()
                self.counts[name] += 1
        self._due.set()

    def refuse(self, refused: Mapping[int, str]) -> None:
        """Take over what is demanded in vain, instrument id → why; told at once where it is other than before."""
        if refused != self._refused:
            self._refused = dict(refused)
            self._due.set()

    async def run(self) -> None:
        """Tell whatever there is, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), REFUSED_SECONDS)
            self._due.clear()
            await self.step()

    async def step(self) -> None:
        """Tell clients what has changed and what is refused, and store what has changed; what fails waits for the next step."""
        await self._empty(self._unsent, self._send, "telling what is followed")
        if self._refused:
            with contextlib.suppress(bus.Unavailable):  # told again soon
                await bus.publish_notice(bus.Notice(refused=self._refused))
        await self._empty(self._unstored, self._store, "storing what is followed")

    async def _empty(self, waiting: deque[Announced], work: Callable[[Announced], Awaitable[None]], what: str) -> None:
        failure: Exception | None = None
        while waiting and failure is None:
            first = waiting[0]
            try:
                await work(first)
            except (bus.Unavailable, *STORE_ERRORS) as error:
                failure = error
            else:
                if waiting and waiting[0] is first:  # it may have been dropped meanwhile
                    waiting.popleft()
        self._report.failing(what, failure)

    async def _send(self, announced: Announced) -> None:
        change = announced.change
        left = {key: (each.instrument, each.why, each.follows) for key, each in change.left.items()}
        await bus.publish_notice(bus.Notice(universe=bus.UniverseNotice(change.at_ms, change.causes, change.entered, left)))

    async def _store(self, announced: Announced) -> None:
        change = announced.change
        record = partial(
            universe_change_record,
            identifier=announced.identifier,
            shard=self._shard,
            at_ms=change.at_ms,
            causes=change.causes,
            entered=change.entered,
            left={key: each.why for key, each in change.left.items()},
            moved=change.moved,
            by_mode=change.by_mode,
        )
        await ask_store(record)
