"""A day as its journals have it: the frames of all shards in order of receipt, and what is missing of them. It reads only."""

from __future__ import annotations

import heapq
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from broker.certificate import Certificate, ShardProof
from broker.journal_reading import JournalReader, Record
from broker.journal_segments import segment_paths, segment_stamp
from marketdata.domain.tick import EPOCH_2020_US, stamp_to_ms

FLUSHED_SECONDS = 1.0
"""A day that is still being written has its journal read once more after so long: the newest frames are on their way to the disk."""
YOUNG_MS = 60_000
"""Of a day that is still being written, ticks so young may be stored before their frame can be read, or not be stored yet."""


class JournalledDay:
    """The frames that were received from `from_ms` on and before `until_ms`, by all shards that have a folder, or by one.

    Args:
        journal: the folder with a folder per shard.
        only: this shard alone; None: all.
        is_written: the day is not over.
        positions: shard → the stamp that its store has committed; 0 for none.
    """

    def __init__(
        self, journal: Path, only: int | None, from_ms: int, until_ms: int, *, is_written: bool, positions: dict[int, int]
    ) -> None:
        self.proofs: dict[int, ShardProof] = {}
        self._began = time.monotonic()
        self._until_ms, self._is_written, self._positions = until_ms, is_written, positions
        self._from_us, self._until_us = from_ms * 1000 - EPOCH_2020_US, until_ms * 1000 - EPOCH_2020_US
        self._readers: dict[int, JournalReader] = {}
        self._begins_us: dict[int, list[int]] = {}
        self._newest_us: dict[int, int] = {}
        """Shard → stamp of the frame that its journal was read to: while frames are walked, the next one."""
        folders = {int(path.name): path for path in sorted(journal.glob("[0-9]*")) if path.name.isdigit()}
        if only is not None:
            folders = {only: folders.get(only, journal / str(only))}
        for shard, folder in folders.items():
            self._open(shard, folder)

    def _open(self, shard: int, folder: Path) -> None:
        paths = segment_paths(folder)
        before = [path.name for path in paths if segment_stamp(path) < self._from_us]
        within = [path.name for path in paths if self._from_us <= segment_stamp(path) < self._until_us]
        stamps, position = [segment_stamp(path) for path in paths], self._positions.get(shard, 0)
        self._begins_us[shard] = stamps
        self.proofs[shard] = ShardProof(
            shard,
            segments=before[-1:] + within,
            begins_ms=stamp_to_ms(stamps[0]) if stamps else None,
            stored_until_ms=stamp_to_ms(position) if position else None,
        )
        self._readers[shard] = JournalReader(folder, after_us=self._from_us - 1)
        self._newest_us[shard] = 0

    def frames(self) -> Iterator[tuple[int, int, Record]]:
        """Yield (stamp, shard, record) in order of receipt."""
        return heapq.merge(*(self._records(shard, reader) for shard, reader in self._readers.items()), key=lambda row: row[0])

    def _records(self, shard: int, reader: JournalReader) -> Iterator[tuple[int, int, Record]]:
        """Yield the day's frames; of a day that is still being written, those too that are just on their way to the disk."""
        proof = self.proofs[shard]
        flushed = not self._is_written
        while True:
            records = reader.read()
            if not records:
                if flushed:
                    return
                time.sleep(max(0.0, self._began + FLUSHED_SECONDS - time.monotonic()))
                flushed = True
            for record in records:
                if record.received_us >= self._until_us:
                    return
                proof.frames += 1
                self._newest_us[shard] = record.received_us
                yield record.received_us, shard, record

    def why_unproved(self, shard: int, stamp: int) -> str | None:
        """Say why no frame explains a stored tick; "" where its frame is just being written, None where there is no excuse."""
        if shard not in self.proofs:
            return f"the journal of shard {shard} is not here" if self._positions[shard] else None
        begins, read_us = self._begins_us[shard], self._newest_us[shard]
        following = bisect_right(begins, stamp)
        if not begins or (following < len(begins) and (read_us <= stamp or begins[following] <= read_us)):
            return f"shard {shard} has no journal segment of then"  # behind one's last frame, before the next one's beginning
        return "" if stamp > read_us and self.is_recent(stamp_to_ms(stamp)) else None

    def is_recent(self, time_ms: int) -> bool:
        """Whether a frame of then may be on its way to the store, or to the disk."""
        return self._is_written and time_ms > self._until_ms - YOUNG_MS

    def finish(self, certificate: Certificate) -> None:
        """Put down what was read, and what of it is damaged, torn or gone."""
        readers = self._readers.values()
        certificate.counts["chunks_damaged"] = sum(reader.damaged_chunks for reader in readers)
        for shard, proof in self.proofs.items():
            proof.last_ms = stamp_to_ms(self._newest_us[shard]) if self._newest_us[shard] else None
            certificate.shards.append(proof)
            if not proof.segments:
                certificate.unproved.append(f"Shard {shard} has no journal of this day.")
        vanished = sum(reader.segments_vanished for reader in readers)
        if vanished:
            certificate.unproved.append(f"{vanished} segments of the journal were removed while they were read.")
        torn = sum(reader.segments_torn for reader in readers)
        if torn:
            certificate.notes.append(f"{torn} segments end without a footer: the feed was killed there, or the disk refused.")
        if not self.proofs:
            certificate.unproved.append("There is no journal here.")
