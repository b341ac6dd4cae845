"""What the feed does with its journal between frames: hand it to the disk each 100 ms, keep it within its limits each 10 s."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from broker.journal import Journal
from broker.journal_keeping import JournalLimits, Kept, journal_keep

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.1
"""A killed process loses at most so much of what it had received."""
KEEP_SECONDS = 10.0


class JournalTender:
    """Of one shard's journal.

    Args:
        stored_us: returns the stamp up to which the store has every frame.
        flushed: called after each flush: what came before it may be stored.

    Attributes:
        counts: `journal_segments_removed_total`.
    """

    def __init__(self, journal: Journal, limits: JournalLimits, *, stored_us: Callable[[], int], flushed: Callable[[], None]) -> None:
        self.counts: Counter[str] = Counter(journal_segments_removed_total=0)
        self._journal = journal
        self._limits = limits
        self._stored_us = stored_us
        self._flushed = flushed
        self._kept: Kept | None = None
        self._trouble: str | None = None

    @property
    def trouble(self) -> str:
        """A sentence on what is wrong with the journal or its disk, or "". The journal itself logs when its disk refuses."""
        if self._journal.failing:
            return f"the journal's disk takes nothing, frames wait in memory: {self._journal.failing}"
        return self._trouble or ""

    def gauges(self) -> dict[str, float]:
        """Return `journal_alarm` (1: the disk is below its floor), `journal_total_bytes`, `disk_free_bytes`; none before the first step."""
        kept = self._kept
        if kept is None:
            return {}
        return {"journal_alarm": int(kept.alarm is not None), "journal_total_bytes": kept.journal_bytes, "disk_free_bytes": kept.free_bytes}

    async def flush(self) -> None:
        """Hand the journal's chunk to the system at least every FLUSH_SECONDS, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._journal.flush()
            self._flushed()

    async def keep(self) -> None:
        """Keep the journal within its limits, until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(KEEP_SECONDS)

    async def step(self) -> None:
        """Remove what is to go; log loudly, once, when the disk stays below its floor."""
        try:
            self._kept = kept = await asyncio.to_thread(journal_keep, self._journal.folder, self._limits, stored_us=self._stored_us())
        except OSError as error:
            self._tell(f"the journal cannot be kept within its limits: {error}")
            return
        if kept.segments_removed:
            self.counts["journal_segments_removed_total"] += kept.segments_removed
            log.info("journal: %d segments removed, %.1f MB", kept.segments_removed, kept.bytes_removed / 1e6)
        self._tell(kept.alarm)

    def _tell(self, trouble: str | None) -> None:
        if trouble and not self._trouble:
            log.critical("journal: %s", trouble)
        elif self._trouble and not trouble:
            log.warning("journal: in order again")
        self._trouble = trouble
