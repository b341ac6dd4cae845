"""Keeps a shard's journal within its days and its size, and the disk above its floor.

Only closed segments go, oldest first, and only when the store has all that they hold: never the newest file, never one whose
successor begins behind what is stored. One step, called from time to time, in a thread:

    kept = await asyncio.to_thread(journal_keep, config.folder, config.journal_limits, stored_us=self._writer.stored_us)
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from broker.journal_segments import segment_paths, segment_stamp

DAY_SECONDS = 86_400


@dataclass(frozen=True)
class JournalLimits:
    """How much of a journal is kept.

    Attributes:
        days: age of a segment's last byte, beyond which it goes.
        most_bytes: size of all segments, beyond which the oldest go.
        floor_bytes: free space on the disk, below which the oldest go, whatever their age.
    """

    days: float
    most_bytes: int
    floor_bytes: int


@dataclass(frozen=True)
class Kept:
    """What a step did, and what it left.

    Attributes:
        segments_removed, bytes_removed: in this step.
        journal_bytes: size of the segments that are left.
        free_bytes: free space on the disk.
        alarm: why the disk is below its floor all the same, a sentence for people; None: it is not.
    """

    segments_removed: int
    bytes_removed: int
    journal_bytes: int
    free_bytes: int
    alarm: str | None


def journal_keep(folder: Path, limits: JournalLimits, *, stored_us: int) -> Kept:
    """Remove the closed and stored segments that are too old or too much.

    Args:
        folder: the shard's journal.
        stored_us: stamp up to which the store has acknowledged every frame (`StoreWriter.stored_us`).

    Returns:
        What was done. A segment that cannot be removed ends the step; the next one tries again.

    Raises:
        OSError: the folder cannot be read.
    """
    segments = [(path, *_size_and_time(path)) for path in segment_paths(folder)]
    free = shutil.disk_usage(folder).free
    total = sum(size for _, size, _ in segments)
    oldest = time.time() - limits.days * DAY_SECONDS
    removed = removed_bytes = 0
    trouble = "no closed and stored journal segment is left to remove"
    for (path, size, written_at), (successor, _, _) in pairwise(segments):
        if segment_stamp(successor) > stored_us:
            break
        if written_at >= oldest and total <= limits.most_bytes and free >= limits.floor_bytes:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            trouble = f"journal segment {path.name} cannot be removed: {error.strerror}"
            break
        removed += 1
        removed_bytes += size
        total -= size
        free += size  # a reader may still hold it: the true figure is asked at the next step, lest too many go now
    alarm = None
    if free < limits.floor_bytes:
        alarm = f"only {free / 1e9:.1f} GB are free on the journal's disk, {limits.floor_bytes / 1e9:g} GB is the floor, and {trouble}"
    return Kept(removed, removed_bytes, total, free, alarm)


def _size_and_time(path: Path) -> tuple[int, float]:
    try:
        stat = path.stat()
    except FileNotFoundError:  # somebody has just removed it by hand
        return 0, 0.0
    return stat.st_size, stat.st_mtime
