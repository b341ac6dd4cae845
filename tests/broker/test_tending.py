"""The journal between frames: flushed within moments, kept within its limits, its trouble told once and loudly."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.journal import Journal
from broker.journal_keeping import JournalLimits
from broker.journal_reading import JournalReader
from broker.journal_segments import segment_paths
from broker.tending import JournalTender
from tests.broker.scripted_broker import until

NOW_US = 1_800_000_000_000_000
FOREVER = JournalLimits(days=3650, most_bytes=1 << 60, floor_bytes=0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", shard=0, segment_bytes=1)  # each chunk is a segment
    made.open()
    yield made
    made.close()


def tender(
    journal: Journal, limits: JournalLimits = FOREVER, *, stored_us: int = 1 << 60, flushed: Callable[[], None] = lambda: None
) -> JournalTender:
    return JournalTender(journal, limits, stored_us=lambda: stored_us, flushed=flushed)


def on_disk(journal: Journal) -> list[bytes]:
    return [record.data for record in JournalReader(journal.folder).read()]


def segments(journal: Journal, count: int) -> list[Path]:
    """Write so many segments."""
    for number in range(count):
        journal.append(b"frame", NOW_US + number)
        journal.flush()
    return segment_paths(journal.folder)


async def test_frames_reach_the_disk_without_being_asked_for_and_only_then_may_be_stored(journal: Journal) -> None:
    seen: list[list[bytes]] = []
    flushing = asyncio.create_task(tender(journal, flushed=lambda: seen.append(on_disk(journal))).flush())
    journal.append(b"frame", NOW_US)
    await until(lambda: seen)
    assert seen[0] == on_disk(journal) == [b"frame"]
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)


async def test_what_is_too_much_goes_and_is_counted(journal: Journal) -> None:
    written = segments(journal, 5)
    keeper = tender(journal, JournalLimits(days=3650, most_bytes=sum(path.stat().st_size for path in written[-2:]), floor_bytes=0))
    assert keeper.gauges() == {}
    await keeper.step()
    assert segment_paths(journal.folder) == written[-2:]
    assert keeper.counts["journal_segments_removed_total"] == 3
    assert keeper.gauges()["journal_alarm"] == 0
    assert keeper.gauges()["journal_total_bytes"] == sum(path.stat().st_size for path in written[-2:])
    assert keeper.trouble == ""


async def test_what_the_store_lacks_stays_and_the_alarm_is_told_once(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    written = segments(journal, 3)
    floor = JournalLimits(days=3650, most_bytes=1 << 60, floor_bytes=shutil.disk_usage(journal.folder).total * 2)
    keeper = tender(journal, floor, stored_us=0)
    for _ in range(3):
        await keeper.step()
    assert segment_paths(journal.folder) == written
    assert keeper.gauges()["journal_alarm"] == 1
    assert keeper.trouble
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    keeper._limits = FOREVER
    await keeper.step()
    assert (keeper.trouble, keeper.gauges()["journal_alarm"]) == ("", 0)
    assert "in order again" in caplog.text


async def test_a_journal_whose_disk_refuses_is_in_trouble(journal: Journal) -> None:
    keeper = tender(journal)
    journal.failing = "No space left on device"
    assert keeper.trouble == "the journal's disk takes nothing, frames wait in memory: No space left on device"


async def test_a_folder_that_cannot_be_read_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = tender(Journal(tmp_path / "nowhere", shard=0, segment_bytes=1))
    await keeper.step()
    await keeper.step()
    assert caplog.text.count("cannot be kept within its limits") == 1
    assert "cannot be kept within its limits" in keeper.trouble
