"""Retention: what goes, what never goes, and the alarm when nothing more can go."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from broker.journal import Journal
from broker.journal_keeping import JournalLimits, journal_keep
from broker.journal_reading import JournalReader
from broker.journal_segments import segment_paths

NOW_US = 1_769_160_569_400_000
ALL_KEPT = JournalLimits(days=7, most_bytes=1 << 60, floor_bytes=0)
EVERYTHING_US = 1 << 60
TERABYTE = 10**12


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal of six segments, the newest of them open, a frame of its own number in each."""
    journal = Journal(tmp_path, shard=0, segment_bytes=1)
    journal.open()
    for number in range(6):
        journal.segment_bytes = 1 if number < 5 else 1 << 30
        journal.append(Random(number).randbytes(1000), NOW_US + number * 1_000_000)
        journal.flush()
    return journal


def _age(path: Path, days: float) -> None:
    written_at = time.time() - days * 86_400
    os.utime(path, (written_at, written_at))


def test_nothing_goes_within_the_limits(journal: Journal) -> None:
    sizes = [path.stat().st_size for path in segment_paths(journal.folder)]
    kept = journal_keep(journal.folder, ALL_KEPT, stored_us=EVERYTHING_US)
    assert (kept.segments_removed, kept.bytes_removed, kept.journal_bytes, kept.alarm) == (0, 0, sum(sizes), None)
    assert len(sizes) == 6
    assert 0 < kept.free_bytes <= shutil.disk_usage(journal.folder).total


def test_old_segments_go_but_never_the_open_one(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    sizes = [path.stat().st_size for path in paths]
    for path, days in zip(paths, (9, 8, 7.1, 6.9, 6, 6), strict=True):
        _age(path, days)
    kept = journal_keep(journal.folder, ALL_KEPT, stored_us=EVERYTHING_US)
    assert (kept.segments_removed, kept.bytes_removed, kept.journal_bytes) == (3, sum(sizes[:3]), sum(sizes[3:]))
    assert segment_paths(journal.folder) == paths[3:]
    for path in paths[3:]:
        _age(path, 30)
    assert journal_keep(journal.folder, ALL_KEPT, stored_us=EVERYTHING_US).segments_removed == 2
    assert segment_paths(journal.folder) == paths[5:]
    journal.append(b"still written", NOW_US + 9_000_000)
    journal.close()
    assert JournalReader(journal.folder).read()[-1].data == b"still written"


def test_a_segment_that_was_touched_is_young_again(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    for path in (paths[0], paths[2], paths[3]):
        _age(path, 8)
    assert journal_keep(journal.folder, ALL_KEPT, stored_us=EVERYTHING_US).segments_removed == 3
    assert segment_paths(journal.folder) == [paths[1], *paths[4:]]


def test_what_the_store_does_not_have_stays_whatever_the_limits(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    stamps = [record.received_us for record in JournalReader(journal.folder).read()]
    greedy = JournalLimits(days=0.000001, most_bytes=0, floor_bytes=shutil.disk_usage(journal.folder).total * 2)
    for path in paths:
        _age(path, 1)
    for stored_us, left in ((0, 6), (stamps[0], 6), (stamps[1] - 1, 6), (stamps[1], 5), (stamps[3] + 1, 3)):
        kept = journal_keep(journal.folder, greedy, stored_us=stored_us)
        assert segment_paths(journal.folder) == paths[6 - left :], stored_us
        assert kept.alarm is not None
        assert [record.received_us for record in JournalReader(journal.folder, after_us=stored_us).read()] == [
            stamp for stamp in stamps if stamp > stored_us
        ]


def test_the_oldest_go_first_when_the_journal_is_too_big(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    sizes = [path.stat().st_size for path in paths]
    kept = journal_keep(journal.folder, replace(ALL_KEPT, most_bytes=sum(sizes[2:]) + 1), stored_us=EVERYTHING_US)
    assert (kept.segments_removed, kept.journal_bytes) == (2, sum(sizes[2:]))
    assert segment_paths(journal.folder) == paths[2:]


def test_below_the_floor_only_so_much_goes_as_is_needed(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    os.truncate(paths[1], TERABYTE)  # a hole; its length is what is thought to be won
    free = shutil.disk_usage(journal.folder).free
    kept = journal_keep(journal.folder, replace(ALL_KEPT, floor_bytes=free + TERABYTE // 2), stored_us=EVERYTHING_US)
    assert segment_paths(journal.folder) == paths[2:]
    assert (kept.segments_removed, kept.alarm) == (2, None)


def test_the_alarm_comes_when_nothing_more_can_go(journal: Journal) -> None:
    paths = segment_paths(journal.folder)
    limits = replace(ALL_KEPT, floor_bytes=shutil.disk_usage(journal.folder).total + TERABYTE)
    kept = journal_keep(journal.folder, limits, stored_us=EVERYTHING_US)
    assert segment_paths(journal.folder) == paths[5:]
    assert kept.segments_removed == 5
    assert kept.alarm is not None
    assert kept.alarm.endswith("and no closed and stored journal segment is left to remove")
    assert f"{limits.floor_bytes / 1e9:g} GB is the floor" in kept.alarm


def test_a_segment_that_cannot_be_removed_is_named(journal: Journal) -> None:
    stuck = journal.folder / f"{1:016d}.mcap"
    stuck.mkdir()  # unlink refuses a folder, to root as well
    limits = replace(ALL_KEPT, floor_bytes=shutil.disk_usage(journal.folder).total * 2)
    kept = journal_keep(journal.folder, limits, stored_us=EVERYTHING_US)
    assert kept.segments_removed == 0
    assert kept.alarm is not None
    assert f"{stuck.name} cannot be removed" in kept.alarm


def test_a_segment_removed_by_hand_at_the_same_time_does_no_harm(journal: Journal) -> None:
    (journal.folder / f"{1:016d}.mcap").symlink_to(journal.folder / "gone")  # listed, but no longer there
    kept = journal_keep(journal.folder, ALL_KEPT, stored_us=EVERYTHING_US)
    assert kept.alarm is None
    assert len(segment_paths(journal.folder)) == 6


def test_a_reader_goes_on_while_its_segments_are_removed(journal: Journal) -> None:
    reader = JournalReader(journal.folder)
    first = reader.read(1)
    journal_keep(journal.folder, replace(ALL_KEPT, most_bytes=0), stored_us=first[0].received_us + 3_000_000)
    rest = reader.read(10)
    assert reader.segments_vanished == 1
    assert [record.received_us - first[0].received_us for record in rest] == [3_000_000, 4_000_000, 5_000_000]
