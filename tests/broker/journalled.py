"""A journal in a folder, and the frames that are read from it."""

from __future__ import annotations

import random
from pathlib import Path

from broker.journal import Journal
from broker.journal_reading import JournalReader, Record

NOW_US = 1_769_160_569_400_000
RANDOM = random.Random(1).randbytes(400)


def journal_opened(folder: Path, **changes: int) -> Journal:
    journal = Journal(folder, shard=changes.get("shard", 0), segment_bytes=changes.get("segment_bytes", 1 << 30))
    journal.open()
    return journal


def frames_read(folder: Path, after_us: int = 0) -> list[Record]:
    reader = JournalReader(folder, after_us=after_us)
    records: list[Record] = []
    while found := reader.read(7):
        records.extend(found)
    return records
