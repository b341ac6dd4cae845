"""The newest quotes of one hub, and the giving of each to who follows it. A tick's whole way inside a web process is here.

Nothing is encoded: fragments are made once per entry and kind. Quotes never go back: an entry is replaced by a newer one only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from channels.db import database_sync_to_async
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from instruments.universe_changes import instruments_named
from marketdata.models import LatestQuote
from marketdata.outbox import Outbox
from marketdata.standing import EXPIRED
from marketdata.subscriptions import Subscriptions
from marketdata.wire import FULL, FULL_DEPTH, LTPC, QuoteEntry, entry_unpack, tick_fragment

logger = logging.getLogger(__name__)

UNTOLD_SECONDS = 30.0
"""Feeds that have been live for so long have told a quote of all that they follow: the broker sends one with each subscription."""
LOOK_SECONDS = 1.0
"""Whether they are live is looked at so often."""
LONG_AGO = float("-inf")


class HubQuotes:
    """Owned by the hub's loop.

    Args:
        entries: instrument id → newest quote; changed here alone.
        subscriptions: who follows what.
        counts: where `marked_total` is counted.
        touched: who was given something is added, and has to be woken.
        current_epochs: returns the runs of the feed that are going on.
        live_epochs: returns the same while nothing is in doubt and clients may rely on all of them; else none.
        market_ms: returns market time · ms UTC.
    """

    def __init__(
        self,
        entries: dict[int, QuoteEntry],
        subscriptions: Subscriptions,
        counts: Counter[str],
        touched: set[Outbox],
        current_epochs: Callable[[], set[int]],
        live_epochs: Callable[[], set[int]],
        market_ms: Callable[[], int],
    ) -> None:
        self._entries, self._counts, self._touched = entries, counts, touched
        self._current_epochs, self._live_epochs, self._market_ms = current_epochs, live_epochs, market_ms
        self._followers, self._chains, self._notices = subscriptions.followers, subscriptions.chains, subscriptions.notices
        self._epochs: dict[int, int] = {}
        self._fragments: tuple[dict[int, bytes], ...] = ({}, {}, {})

    def epoch_of(self, instrument: int) -> int:
        """Return the run of the feed that an instrument's quote is of; 0 where it is unknown."""
        return self._epochs.get(instrument, 0)

    def take_all(self, stamped: Iterable[tuple[int, QuoteEntry]]) -> int:
        """Take entries with their epochs; return how many were newer than what was known. Who is `touched` is woken next."""
        return sum([self._take(epoch, entry) for epoch, entry in stamped])

    def _take(self, epoch: int, entry: QuoteEntry) -> bool:
        """Replace an entry by a newer one and give it to who follows it; False: it is not newer."""
        instrument = entry.instrument
        old = self._entries.get(instrument)
        if old is not None:
            known = self._epochs[instrument]
            if epoch < known or (epoch == known and entry.seq <= old.seq):
                return False
        self._entries[instrument] = entry
        self._epochs[instrument] = epoch
        self._chains.mark(instrument)
        for fragments in self._fragments:
            fragments.pop(instrument, None)
        if self._notices.is_awaited(instrument) and epoch in self._current_epochs():
            self._notices.arrive(entry, time.monotonic())
        depth = entry.depth_changed or old is None
        self._give(entry, LTPC, depth)
        self._give(entry, FULL_DEPTH if depth else FULL, depth)
        return True

    def _give(self, entry: QuoteEntry, kind: int, depth: bool) -> None:
        """Give an entry to who follows it in one mode: its bytes where they are taken at once, a mark elsewhere."""
        instrument = entry.instrument
        outboxes = self._followers.of(instrument, kind and FULL)
        if not outboxes:
            return
        self._counts["marked_total"] += len(outboxes)
        fragment = self._fragment(instrument, kind)
        self._touched |= outboxes
        for outbox in outboxes:
            window = outbox.window
            if window is None:
                outbox.mark(instrument, depth)
            else:
                window.append(fragment)

    def fragments(self, outbox: Outbox) -> list[bytes]:
        """Drain an outbox's quotes: one ready-made `market:tick` item for each dirty key."""
        return [self._fragment(instrument, kind) for instrument, kind in outbox.drain()]

    def _fragment(self, instrument: int, kind: int) -> bytes:
        fragment = self._fragments[kind].get(instrument)
        if fragment is None:
            fragment = self._fragments[kind][instrument] = tick_fragment(self._entries[instrument], kind)
        return fragment

    async def untold_step(self) -> None:
        """Wait; have what feeds that were live for UNTOLD_SECONDS told nothing of leave: it did so while this hub did not listen."""
        before = self._live_epochs()
        await asyncio.sleep(UNTOLD_SECONDS if before else LOOK_SECONDS)
        epochs = self._live_epochs()
        if not before or epochs != before:
            return
        untold = [each for each, epoch in self._epochs.items() if epoch not in epochs and not self._notices.has_left(each)]
        try:
            held = await database_sync_to_async(instruments_named, thread_sensitive=False)(untold) if untold else {}
        except (PyMongoError, DatabaseError) as error:
            logger.debug("asked again soon whether what left has expired: %s", error)
            return
        for instrument in untold:
            if self.epoch_of(instrument) not in self._current_epochs():  # nothing came meanwhile
                known = held.get(instrument)
                self._notices.leave(instrument, EXPIRED if known and known.ending(self._market_ms()) else "rules", LONG_AGO)

    def forget_old(self, older_ms: int) -> None:
        """Drop quotes that nobody follows and that are so much older than the newest."""
        limit = max((entry.broker_ms for entry in self._entries.values()), default=0) - older_ms
        for entry in list(self._entries.values()):
            if entry.broker_ms < limit and not self._followers.anyone(entry.instrument):
                del self._entries[entry.instrument], self._epochs[entry.instrument]
                for fragments in self._fragments:
                    fragments.pop(entry.instrument, None)


def stored_entries(instruments: Iterable[int] | None = None) -> list[tuple[int, QuoteEntry]]:
    """Return what MongoDB holds of some instruments, or of all, as of epoch 0; empty when it is away."""
    rows = LatestQuote.objects.all() if instruments is None else LatestQuote.objects.filter(pk__in=list(instruments))
    try:
        return [(0, entry_unpack(bytes(packed))[1]) for packed in rows.values_list("entry", flat=True)]
    except (PyMongoError, DatabaseError, ValueError) as error:
        logger.warning("stored quotes could not be read: %s", error)
        return []
