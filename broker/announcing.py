"""Tells what the feed follows: each change to clients and to the store, and what clients demand in vain. The feed waits for none of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

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
COUNTS = ("universe_changes_unsent_total", "universe_changes_unstored_total")


class Announcer:
    """The changes of one shard that are still to be told. A loop of its own runs `run`.

    Attributes:
        counts: of changes: `universe_changes_unsent_total` (nobody took the message), `universe_changes_unstored_total` (the store did
            not take it, twice, or too many waited).
    """

    def __init__(self, report: Report, *, shard: int) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._report = report
        self._shard = shard
        self._unsent: deque[Change] = deque()
        self._unstored: deque[tuple[str, Change]] = deque()
        self._refused: dict[int, str] = {}
        self._due = asyncio.Event()

    def change(self, change: Change) -> None:
        """Tell a change as soon as may be."""
        self._unsent.append(change)
        self._unstored.append((str(ObjectId()), change))
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
        """Tell clients what has changed and what is refused, then store what has changed; what fails is tried once more, then counted."""
        while self._unsent:
            if not await self._twice(partial(self._send, self._unsent.popleft()), "telling what is followed"):
                self.counts[COUNTS[0]] += 1
        if self._refused:
            with contextlib.suppress(bus.Unavailable):  # told again soon
                await bus.publish_notice(bus.Notice(refused=self._refused))
        while self._unstored:
            identifier, change = self._unstored.popleft()
            if not await self._twice(partial(self._store, identifier, change), "storing what is followed"):
                self.counts[COUNTS[1]] += 1

    async def _twice(self, work: Callable[[], Awaitable[None]], what: str) -> bool:
        failure: Exception | None = None
        for _ in range(2):
            try:
                await work()
            except (bus.Unavailable, *STORE_ERRORS) as error:
                failure = error
            else:
                failure = None
                break
        self._report.failing(what, failure)
        return failure is None

    async def _send(self, change: Change) -> None:
        left = {key: (each.instrument, each.why, each.follows) for key, each in change.left.items()}
        await bus.publish_notice(bus.Notice(universe=bus.UniverseNotice(change.at_ms, change.causes, change.entered, left)))

    async def _store(self, identifier: str, change: Change) -> None:
        record = partial(
            universe_change_record,
            identifier=identifier,
            shard=self._shard,
            at_ms=change.at_ms,
            causes=change.causes,
            entered=change.entered,
            left={key: each.why for key, each in change.left.items()},
            moved=change.moved,
            by_mode=change.by_mode,
        )
        await ask_store(record)
