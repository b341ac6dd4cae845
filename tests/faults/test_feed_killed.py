"""The feed is killed: at random moments, between journal and insert, between insert and position. Nothing journalled is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time

from tests.faults.oracle import Proof, journalled_frames, segment_frames
from tests.faults.servers import paused, pid_of, until
from tests.faults.system import System

FLUSHED_MS = 1_000
"""What was sent so long before a kill must be on the disk. A generous bound: the feed flushes each 100 ms, the machine may be loaded."""


def test_a_feed_killed_at_random_moments_loses_nothing_journalled(system: System, moments: random.Random, full: bool) -> None:
    kills: dict[int, int] = {}
    with system.memory_bounded():
        for _ in range(10 if full else 2):
            time.sleep(moments.uniform(0.2, 3))
            kills |= kill_feed(system)
            system.start_feed()
        assert_flushed(system.prove(), kills)


def test_a_feed_killed_between_journal_and_insert_has_the_rest_stored_by_the_next(system: System) -> None:
    before = journalled(system)
    with paused(pid_of(system.servers.mongod)):  # what is inserted now hangs, while the journal grows
        until(lambda: journalled(system) > before + 10, "the journal grows without a store")
        kills = kill_feed(system)
    stored, there = newest_stored(system), newest_journalled(system)
    assert stored < there, "the kill was to leave journalled ticks that are not stored"
    system.start_feed()
    proof = system.prove()
    assert_flushed(proof, kills)
    print(f"  the feed was killed with {there - stored} µs of its journal not stored")
    assert proof.journalled > before + 10


def test_a_feed_killed_between_insert_and_position_stores_nothing_twice(system: System) -> None:
    with system.servers.fail_point(["update"], namespace="faults.broker_feedposition", errorCode=11602) as failures:
        position = committed(system)
        until(lambda: failures() > 0 and newest_stored(system) > position, "ticks are stored, and the position is not")
        kills = kill_feed(system)
        assert newest_stored(system) > committed(system) == position
        failed = failures()
    system.start_feed()
    system.wait_for(lambda: system.counter("ticks_duplicate_total") > 0)
    print(f"  {failed} updates of the position failed, {system.counter('ticks_duplicate_total'):.0f} ticks were written again")
    assert_flushed(system.prove(), kills)


def test_nothing_is_stored_before_it_is_journalled(system: System, full: bool) -> None:
    system.replace_feed(TRADINGOK_BATCH_MS="10")
    for _ in range(1000 if full else 200):
        stored = newest_stored(system)  # the store first: the journal may only be further by then
        there = newest_journalled(system)
        assert stored <= there, f"a tick of {stored} is stored, the journal ends at {there}: after a kill -9 no frame would explain it"
        time.sleep(0.01)
    system.replace_feed()
    system.prove()


def test_a_feed_that_stopped_in_its_tracks_goes_on_where_it_was(system: System, full: bool) -> None:
    with system.watched() as watcher:
        pid = system.feed.pid
        with paused(pid):
            until(lambda: watcher.state == "reconnecting", "clients are told")
            time.sleep(60 if full else 0)
        until(lambda: watcher.state == "live", "clients are told that it goes on")
        assert system.feed.pid == pid
        assert system.feed.running
        os.kill(pid, signal.SIGCONT)
        system.prove(lost_ms=90_000)


def kill_feed(system: System) -> dict[int, int]:
    """Kill the feed; return the exchange's number of its connection, and when that was, ns UTC."""
    connection, killed_ns = system.connection(), time.time_ns()
    system.kill(system.feed)
    return {connection: killed_ns}


def assert_flushed(proof: Proof, kills: dict[int, int]) -> None:
    """What was sent well before a kill was on the disk by then."""
    early_ms = {number: (killed_ns - proof.lost_since.get(number, killed_ns)) / 1e6 for number, killed_ns in kills.items()}
    print(f"  lost from before each kill: {', '.join(f'{ms:.0f}' for ms in early_ms.values())} ms")
    assert all(ms <= FLUSHED_MS for ms in early_ms.values()), early_ms


def journalled(system: System) -> int:
    """Frames in the journal."""
    return sum(1 for _ in journalled_frames(system.journal))


def newest_journalled(system: System) -> int:
    """Stamp of the journal's newest frame."""
    segments = sorted(system.journal.glob("*.mcap"), reverse=True)
    return next(frames[-1].stamp for segment in segments if (frames := list(segment_frames(segment))))


def newest_stored(system: System) -> int:
    """Stamp of the newest tick in the store."""
    row = system.database["marketdata_markettick"].find_one(sort=[("_id", -1)])
    return int(row["_id"]) >> 13 if row else 0


def committed(system: System) -> int:
    """The position that the feed has saved."""
    row = system.database["broker_feedposition"].find_one({"_id": 0})
    return int(row["received_us"]) if row else 0
