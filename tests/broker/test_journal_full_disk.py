"""A disk that takes nothing: real limits (RLIMIT_FSIZE in a process of its own, a small tmpfs), nothing raised, nothing lost or doubled."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader

from broker.journal import Journal
from broker.journal_reading import JournalReader
from broker.journal_segments import segment_paths

NOW_US = 1_769_160_569_400_000
START = """
import json, resource, sys, time
from pathlib import Path
from random import Random
from broker.journal import Journal, WAITING_BYTES

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def append(first, last):
    for number in range(first, last):
        stamps.append(journal.append(number.to_bytes(4) + RANDOM, 1769160569400000 + number * 1000))
        kept.append(journal.holds(stamps[-1]))

def told(**more):
    counts = dict(journal.counts)
    added_up = counts["frames_journalled_total"] + counts["frames_unjournalled_total"] + journal.frames_waiting
    print(json.dumps({"failing": journal.failing, "waiting": journal.frames_waiting, "appended": len(stamps), "added_up": added_up}
                     | counts | more))

def recover():
    limit(resource.RLIM_INFINITY)
    deadline = time.monotonic() + 60
    while journal.frames_waiting and time.monotonic() < deadline:
        journal.flush()
        time.sleep(0.01)

RANDOM, stamps, kept = Random(2).randbytes(int(sys.argv[2])), [], []
journal = Journal(Path(sys.argv[1]), shard=0, segment_bytes=1 << 30)
journal.open()
"""


def _limited(folder: Path, script: str, frame_bytes: int = 1000) -> list[dict[str, Any]]:
    """Run a script in a process that limits the size of its files; return what it told."""
    ended = subprocess.run(
        [sys.executable, "-c", START + script, str(folder), str(frame_bytes)], check=True, capture_output=True, text=True, timeout=120
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _numbers(folder: Path) -> list[int]:
    """Return the frames' numbers in the order of the files, by MCAP's own reader."""
    numbers: list[int] = []
    for path in segment_paths(folder):
        with path.open("rb") as stream, contextlib.suppress(EndOfFile):  # a segment that was given up has no end
            for _, _, message in NonSeekingReader(stream, validate_crcs=True).iter_messages(topics=["frames"], log_time_order=False):
                numbers.append(int.from_bytes(message.data[:4]))
    return numbers


def test_what_a_full_disk_refused_waits_and_comes_back_in_order(tmp_path: Path) -> None:
    torn, waiting, recovered = _limited(
        tmp_path,
        """
journal.instruments_add({"A": 1}, 1769160569400000)
append(0, 100); journal.flush()
file = next(Path(sys.argv[1]).glob("*.mcap"))
before = file.stat().st_size
limit(before + 500)                        # a part of the next chunk fits
append(100, 101); journal.flush()
told(before=before, after=file.stat().st_size)
limit(10)
append(101, 300); journal.flush()
journal.instruments_add({"A": 2}, 1769160569700000)
append(300, 400); journal.flush(); journal.event({"event": "closed"}, 1769160569800000)
told()
recover()
append(400, 450)
journal.close()
told()
""",
    )
    assert torn["journal_failures_total"] == waiting["journal_failures_total"] == 1
    assert "File too large" in torn["failing"]
    assert torn["after"] == torn["before"]  # the torn chunk is cut off
    assert (waiting["frames_journalled_total"], waiting["waiting"]) == (100, 300)
    assert (recovered["failing"], recovered["frames_journalled_total"], recovered["frames_unjournalled_total"]) == (None, 450, 0)
    assert all(step["added_up"] == step["appended"] for step in (torn, waiting, recovered))
    assert _numbers(tmp_path) == list(range(450))
    assert len(segment_paths(tmp_path)) == 2
    meanings = [record.instruments["A"] for record in JournalReader(tmp_path).read(1000)]
    assert meanings == [1] * 300 + [2] * 150


def test_memory_for_a_full_disk_is_bounded_and_what_is_refused_is_counted(tmp_path: Path) -> None:
    full, recovered = _limited(
        tmp_path,
        """
limit(10)
append(0, 80); journal.flush()
journal.event({"text": "x" * (1 << 20)}, 1769160569500000)
told(kept=sum(kept), memory=journal._waiting_bytes, most=WAITING_BYTES)
recover()
append(80, 90)
journal.close()
told(stamps=[number for number, is_kept in enumerate(kept) if is_kept])
""",
        frame_bytes=1 << 20,
    )
    assert full["journal_failures_total"] == 1
    assert full["kept"] == full["waiting"] == 63
    assert full["frames_unjournalled_total"] == 80 - 63
    assert full["events_unjournalled_total"] == 1
    assert full["memory"] <= full["most"]
    assert recovered["added_up"] == 90
    assert _numbers(tmp_path) == recovered["stamps"] == [*range(63), *range(80, 90)]


def test_closing_on_a_full_disk_counts_what_is_lost(tmp_path: Path) -> None:
    (closed,) = _limited(tmp_path, "append(0, 5); journal.flush(); limit(10); append(5, 12); journal.close(); told()")
    assert (closed["frames_journalled_total"], closed["frames_unjournalled_total"], closed["waiting"]) == (5, 7, 0)
    assert "File too large" in closed["failing"]
    assert _numbers(tmp_path) == list(range(5))


def test_a_segment_whose_end_the_disk_refuses_keeps_its_chunks(tmp_path: Path) -> None:
    (closed,) = _limited(
        tmp_path, "append(0, 5); journal.flush(); limit(next(Path(sys.argv[1]).glob('*.mcap')).stat().st_size + 9); journal.close(); told()"
    )
    assert closed["journal_failures_total"] == 1
    assert (closed["frames_journalled_total"], closed["frames_unjournalled_total"]) == (5, 0)
    assert _numbers(tmp_path) == list(range(5))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs; the tests with RLIMIT_FSIZE above go the same way")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_reader_that_follows_through_a_full_disk_gets_each_frame_once(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    journal = Journal(small_disk / "journal", shard=0, segment_bytes=100_000)
    journal.open()
    reader = JournalReader(journal.folder)
    random, got, number, until = Random(3), list[int](), 0, 0
    while journal.failing is None or number < until:
        journal.append(number.to_bytes(4) + random.randbytes(1000), NOW_US + number * 1000)
        number += 1
        journal.flush()
        got.extend(int.from_bytes(record.data[:4]) for record in reader.read())
        if journal.failing is None:
            until = number + 50
        assert number < 1000
    assert journal.failing == "No space left on device"
    waiting = journal.frames_waiting
    assert len(got) == number - waiting
    assert waiting >= 50
    ballast.unlink()
    deadline = time.monotonic() + 60
    while journal.frames_waiting and time.monotonic() < deadline:
        journal.flush()
        got.extend(int.from_bytes(record.data[:4]) for record in reader.read())
        time.sleep(0.01)
    journal.close()
    got.extend(int.from_bytes(record.data[:4]) for record in reader.read())
    assert got == _numbers(journal.folder) == list(range(number))
    assert journal.counts["journal_failures_total"] == 1
    assert reader.segments_vanished == reader.damaged_chunks == 0
    print(f"{number} frames, {waiting} of them waited for the disk, {len(segment_paths(journal.folder))} segments")
