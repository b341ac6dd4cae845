"""Journals of feed shards that are no more: what the store does not have of them is brought there, then they are kept within limits.

There are such when a copy runs with fewer feeds than before. Each feed process looks after those beside its own journal; the journal's
own lock lets one of them have each.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from broker.journal import Journal, JournalBusy
from broker.journal_keeping import JournalLimits, journal_keep
from broker.journal_segments import segment_paths
from broker.store_writer import StoreWriter

log = logging.getLogger(__name__)

KEEP_SECONDS = 600.0
"""The limits are applied so often."""
RETRY_SECONDS = 60.0
"""A journal that another feed holds is tried again so often: when that feed ends, nobody else would look after it."""


class Leftovers(threading.Thread):
    """Looks after the journals of removed shards as long as the process runs; ends at once where there are none.

    Args:
        folder: of all journals; each shard's is called by its number.
        shards: how many feeds there are now.
        limits: how much of a journal is kept.
        name_unknown: as of StoreWriter.
        batch_ticks, segment_bytes: as of the feed.

    Attributes:
        drained: shards whose journal the store has whole.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shards: int,
        limits: JournalLimits,
        name_unknown: Callable[[Sequence[str]], Mapping[str, int]],
        batch_ticks: int,
        segment_bytes: int,
    ) -> None:
        super().__init__(name="leftovers", daemon=True)
        self.drained: set[int] = set()
        self._folder = folder
        self._shards = shards
        self._limits = limits
        self._name_unknown = name_unknown
        self._batch_ticks = batch_ticks
        self._segment_bytes = segment_bytes
        self._stopping = threading.Event()
        self._writer: StoreWriter | None = None

    def run(self) -> None:
        """Bring each journal into the store once nobody else holds it, and apply the limits from time to time."""
        waiting = self._removed()
        held: list[Journal] = []
        stored: dict[Path, int] = {}
        while (waiting or stored) and not self._stopping.is_set():
            for shard in list(waiting):
                if (journal := self._open(shard)) is not None:
                    waiting.remove(shard)
                    held.append(journal)
                    if (stored_us := self._drain(journal)) is not None:
                        stored[journal.folder] = stored_us
            for folder, stored_us in stored.items():
                self._keep(folder, stored_us)
            self._stopping.wait(RETRY_SECONDS if waiting else KEEP_SECONDS)
        for journal in held:
            journal.close()

    def stop(self, seconds: float) -> None:
        """End within about `seconds`; what is not stored yet is at the next start."""
        self._stopping.set()
        if self._writer is not None:
            self._writer.stop(seconds / 2)
        self.join(seconds)

    def _removed(self) -> list[int]:
        shards = [int(path.name) for path in self._folder.glob("[0-9]") if segment_paths(path)]
        return sorted(shard for shard in shards if shard >= self._shards)

    def _open(self, shard: int) -> Journal | None:
        journal = Journal(self._folder / str(shard), shard=shard, segment_bytes=self._segment_bytes)
        try:
            journal.open()
        except JournalBusy:
            return None  # another feed of this machine looks after it, as long as it runs
        except OSError as error:
            log.error("leftovers: %s cannot be read: %s", journal.folder, error)
            return None
        return journal

    def _drain(self, journal: Journal) -> int | None:
        """Store what is missing, however long the store takes; None when asked to stop before."""
        if self._stopping.is_set():
            return None
        self._writer = StoreWriter(
            journal.folder,
            shard=journal.shard,
            journal_last_us=journal.last_us,
            name_unknown=self._name_unknown,
            batch_ticks=self._batch_ticks,
            batch_ms=1000,
            queue_ticks=1,
        )
        self._writer.start()
        if not self._writer.stop(threading.TIMEOUT_MAX):
            return None
        stored = self._writer.counts["ticks_stored_total"]
        if stored:
            log.warning("leftovers: %d ticks of shard %d, which is no more, were not in the store; now they are", stored, journal.shard)
        self.drained.add(journal.shard)
        return self._writer.stored_us

    def _keep(self, folder: Path, stored_us: int) -> None:
        try:
            kept = journal_keep(folder, self._limits, stored_us=stored_us)
        except OSError as error:
            log.error("leftovers: %s cannot be kept within its limits: %s", folder, error)
            return
        if kept.segments_removed:
            log.info("leftovers: %d segments of %s removed", kept.segments_removed, folder)
