"""Journals of removed shards: brought into the store by whoever runs now, once, and kept within the limits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from broker import leftovers as module
from broker.journal import Journal
from broker.journal_keeping import JournalLimits
from broker.journal_segments import segment_paths
from broker.leftovers import Leftovers
from broker.position import position_read, position_write
from marketdata import store
from marketdata.domain.tick import tick_id_received_us
from tests.payloads import frame, option_feed
from tests.payloads.figures import expected_ids

pytestmark = pytest.mark.django_db(transaction=True)
NOW_US = 1_769_160_569_400_000
IDS = {"A": 1, "B": 3}
ALL_OF_IT = JournalLimits(days=3650, most_bytes=1 << 40, floor_bytes=0)


def journal_of(folder: Path, shard: int, frames: int = 40, *, segment_bytes: int = 1 << 30) -> list[int]:
    """Journal frames of two instruments as a feed does that is killed before it stores any; return their stamps."""
    journal = Journal(folder / str(shard), shard=shard, segment_bytes=segment_bytes)
    journal.open()
    journal.instruments_add(IDS, NOW_US)
    stamps = []
    for number in range(frames):
        data = frame({key: option_feed(volume=75 * (number + 1)) for key in "AB"}, broker_ms=1_769_160_569_400 + number)
        stamps.append(journal.append(data, NOW_US + number * 1000))
        journal.flush()
    journal.close()
    return stamps


def leftovers_of(folder: Path, shards: int, limits: JournalLimits = ALL_OF_IT) -> Leftovers:
    return Leftovers(folder, shards=shards, limits=limits, name_unknown=_nobody, batch_ticks=50, segment_bytes=1 << 30)


def _nobody(keys: Sequence[str]) -> dict[str, int]:
    raise AssertionError(f"{keys} are in the journal's map")


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "not within 60 s"
        time.sleep(0.02)


def _stored() -> Counter[int]:
    return Counter(row["_id"] for row in store.ticks_collection().find({}, {"_id": 1}))


def test_what_a_removed_shard_had_only_journalled_is_stored_once(tmp_path: Path) -> None:
    journal_of(tmp_path, 0)
    stamps = journal_of(tmp_path, 1)
    position_write(1, stamps[9])  # ten frames were stored, and are gone since: they must not come back
    leftovers = leftovers_of(tmp_path, shards=1)
    leftovers.start()
    _wait_until(lambda: leftovers.drained == {1})
    expected = Counter(
        {identifier: count for identifier, count in expected_ids(tmp_path / "1").items() if tick_id_received_us(identifier) > stamps[9]}
    )
    assert len(expected) == 60
    assert _stored() == expected  # nothing of shard 0, which has a feed of its own
    assert position_read(1) == stamps[-1]
    leftovers.stop(20)
    assert not leftovers.is_alive()
    again = leftovers_of(tmp_path, shards=1)
    again.start()
    _wait_until(lambda: again.drained == {1})
    again.stop(20)
    assert _stored() == expected


def test_a_journal_that_another_feed_holds_is_left_to_it_until_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    journal_of(tmp_path, 2)
    journal_of(tmp_path, 3)
    expected = {shard: expected_ids(tmp_path / str(shard)) for shard in (2, 3)}
    holder = Journal(tmp_path / "2", shard=2, segment_bytes=1 << 30)
    holder.open()
    leftovers = leftovers_of(tmp_path, shards=2)
    leftovers.start()
    _wait_until(lambda: leftovers.drained == {3})  # which is not held up
    time.sleep(0.5)  # some ten tries
    assert leftovers.drained == {3}
    assert _stored() == expected[3]
    holder.close()
    _wait_until(lambda: leftovers.drained == {2, 3})
    assert _stored() == expected[2] + expected[3]
    leftovers.stop(20)
    assert not leftovers.is_alive()
    for shard in (2, 3):
        again = Journal(tmp_path / str(shard), shard=shard, segment_bytes=1 << 30)
        again.open()  # nobody has it any more
        again.close()


def test_a_journal_that_is_held_for_good_does_not_hold_up_the_end(tmp_path: Path) -> None:
    journal_of(tmp_path, 2)
    holder = Journal(tmp_path / "2", shard=2, segment_bytes=1 << 30)
    holder.open()
    leftovers = leftovers_of(tmp_path, shards=2)
    leftovers.start()
    leftovers.stop(20)
    assert not leftovers.is_alive()
    assert leftovers.drained == set()
    assert _stored() == Counter()
    holder.close()


def test_nothing_is_left_where_the_feeds_are_as_many_as_before(tmp_path: Path) -> None:
    journal_of(tmp_path, 0)
    journal_of(tmp_path, 1)
    leftovers = leftovers_of(tmp_path, shards=2)
    leftovers.start()
    leftovers.join(60)
    assert not leftovers.is_alive()
    assert _stored() == Counter()


def test_a_removed_shards_journal_is_kept_within_the_limits_once_it_is_stored(tmp_path: Path) -> None:
    journal_of(tmp_path, 1, segment_bytes=1)  # each flush ends a segment
    expected = expected_ids(tmp_path / "1")
    before = len(segment_paths(tmp_path / "1"))
    assert before > 30
    leftovers = leftovers_of(tmp_path, 1, JournalLimits(days=3650, most_bytes=1, floor_bytes=0))
    leftovers.start()
    _wait_until(lambda: len(segment_paths(tmp_path / "1")) == 1)
    leftovers.stop(20)
    assert _stored() == expected
