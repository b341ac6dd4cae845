"""The store's writer: by queue or from the journal, every tick once, the position only behind what is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from django.db import InterfaceError
from pymongo.errors import AutoReconnect

from broker.journal import Journal
from broker.journal_reading import Record
from broker.position import position_read, position_write
from broker.store_writer import StoreWriter
from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.decode import decode
from marketdata import store
from marketdata.models import OHLC
from tests.payloads import frame, option_feed

pytestmark = pytest.mark.django_db(transaction=True)
NOW_US = 1_769_160_569_400_000
IDS = {"A": 1, "B": 2}


class Bench:
    """A journal and a writer on it, as the runner has them."""

    def __init__(self, folder: Path, in_session: Callable[[int, int], bool] = lambda instrument, minute_ms: True, **changes: int) -> None:
        self.journal = Journal(folder, shard=0, segment_bytes=1 << 30)
        self.journal.open()
        last_us = self.journal.last_us
        self.journal.instruments_add(IDS, NOW_US)
        self.named: list[Sequence[str]] = []
        self.naming_fails: list[Exception] = []
        self.may_name = threading.Event()
        self.may_name.set()
        options = {"batch_ticks": 50, "batch_ms": 20, "queue_ticks": 10_000} | changes
        self.writer = StoreWriter(folder, shard=0, journal_last_us=last_us, name_unknown=self._name, in_session=in_session, **options)

    def _name(self, keys: Sequence[str]) -> dict[str, int]:
        self.named.append(keys)
        if self.naming_fails:
            raise self.naming_fails.pop()
        self.may_name.wait()
        return dict.fromkeys((key for key in keys if key != "no key"), 99)

    def take(self, number: int, keys: str = "AB") -> int:
        """Journal one frame and offer it; return its stamp."""
        data = frame({key: option_feed(volume=75 * (number + 1)) for key in keys}, broker_ms=1_769_160_569_400 + number)
        stamp = self.journal.append(data, NOW_US + number * 1000)
        self.writer.offer(Record(stamp, data, IDS), decode(data, IDS))
        return stamp

    def flush(self) -> None:
        """What the feed does each 100 ms."""
        self.journal.flush()
        self.writer.release()

    def close(self) -> None:
        self.journal.finish()
        assert self.writer.stop(30)
        self.journal.close()


def _volumes(instrument: int = 1) -> list[int]:
    return [row["v"] for row in store.ticks_collection().find({"i": instrument}).sort("_id", 1)]


def _wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


def test_what_is_offered_is_stored_once_and_the_position_follows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    stamps = [bench.take(number) for number in range(200)]
    bench.close()
    assert _volumes() == [75 * (number + 1) for number in range(200)]
    assert bench.writer.counts["ticks_stored_total"] == 400
    assert bench.writer.stored_us == stamps[-1] == position_read(0)


def test_nothing_is_stored_before_the_journal_was_flushed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.take(0)
    bench.flush()
    _wait_until(lambda: bench.writer.counts["ticks_stored_total"] == 2)
    for number in range(1, 60):  # more than a batch
        bench.take(number)
    time.sleep(0.3)  # longer than a batch may wait
    assert _volumes() == [75]
    assert bench.writer.queued_ticks == 118
    bench.flush()
    _wait_until(lambda: bench.writer.counts["ticks_stored_total"] == 120)
    bench.close()


def test_a_full_queue_leaves_the_rest_to_the_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, queue_ticks=100)
    for number in range(500):  # the thread has not begun: the queue overflows for sure
        bench.take(number)
    bench.journal.flush()
    bench.writer.start()
    _wait_until(lambda: not bench.writer.behind)
    for number in range(500, 520):
        bench.take(number)
    bench.close()
    assert bench.writer.counts["frames_deferred_total"] > 400
    assert _volumes() == [75 * (number + 1) for number in range(520)]
    assert bench.writer.counts["ticks_stored_total"] == 1040


def test_what_the_journal_refused_is_stored_while_the_queue_takes_it_and_counted_when_it_is_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, queue_ticks=100)
    for number in range(60):  # the thread has not begun; no frame is in the journal
        data = frame({"A": option_feed(volume=75 * (number + 1)), "B": option_feed()})
        bench.writer.offer(Record(8 * (number + 1), data, IDS), decode(data, IDS), journalled=False)
    assert bench.writer.counts["ticks_dropped_total"] == 20
    bench.writer.start()
    bench.close()
    assert _volumes() == [75 * (number + 1) for number in range(50)]
    counts = bench.writer.counts
    assert (
        sum(counts[name] for name in ("ticks_stored_total", "ticks_duplicate_total", "ticks_unnamed_total", "ticks_dropped_total")) == 120
    )


def test_what_only_memory_had_is_counted_when_the_queue_overflows_into_the_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, queue_ticks=100)
    data = frame({"A": option_feed(), "B": option_feed()})
    bench.writer.offer(Record(8, data, IDS), decode(data, IDS), journalled=False)
    for number in range(60):
        bench.take(number)
    bench.journal.flush()
    bench.writer.start()
    bench.close()
    assert _volumes() == [75 * (number + 1) for number in range(60)]
    assert bench.writer.counts["ticks_dropped_total"] == 2


def test_what_the_journal_refused_is_stored_also_when_the_journal_goes_on_before_it_was_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path, queue_ticks=4)
    for number in range(3):  # the third overflows; nothing is flushed, as if the disk were full
        bench.take(number)
    bench.writer.start()
    data = frame({"A": option_feed(volume=75 * 4), "B": option_feed()})
    refused = Record(bench.journal.last_us + 8, data, IDS)
    deadline = time.monotonic() + 30
    dropped = -1
    while bench.writer.counts["ticks_dropped_total"] != dropped:  # until the thread catches up and takes frames beside it
        assert time.monotonic() < deadline
        dropped = bench.writer.counts["ticks_dropped_total"]
        bench.writer.offer(refused, decode(data, IDS), journalled=False)
    bench.take(4)
    bench.close()
    assert _volumes() == [75 * (number + 1) for number in range(5)]


def test_the_next_run_writes_the_tail_that_the_last_one_did_not_store(tmp_path: Path) -> None:
    crashed = Bench(tmp_path)
    stamps = [crashed.take(number) for number in range(30)]
    crashed.journal.close()  # its writer never ran
    store.ticks_write([store.tick_bson(decode(frame({"A": option_feed(volume=75)}), IDS).ticks[0], stamps[0], 1, 1)])
    position_write(0, stamps[9])
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.take(30)
    bench.close()
    assert _volumes() == [75] + [75 * (number + 1) for number in range(10, 31)]
    assert bench.writer.counts["ticks_stored_total"] == 42
    assert bench.writer.counts["ticks_replayed_total"] == 40


def test_a_tail_that_is_written_again_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    for number in range(30):
        bench.take(number)
    bench.close()
    store.collection("broker_feedposition").delete_many({})  # as if the process had died before it saved the position
    again = Bench(tmp_path)
    again.writer.start()
    again.close()
    assert again.writer.counts["ticks_duplicate_total"] == 60
    assert again.writer.counts["ticks_stored_total"] == 0
    assert len(_volumes()) == 30
    assert OHLC.objects.count() == 2
    assert {candle.revision for candle in OHLC.objects.all()} == {0}


def test_keys_that_nobody_knows_get_their_placeholder_and_lose_no_tick(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.take(0, "AX")
    bench.take(1, "AX")
    bench.close()
    assert bench.named == [["X"]]  # asked once
    assert _volumes(99) == [75, 150]
    assert _volumes(1) == [75, 150]


def test_what_is_on_its_way_into_the_store_is_counted_as_waiting(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.may_name.clear()
    stamps = [bench.take(0, "AX"), *(bench.take(number) for number in range(1, 40))]
    bench.flush()
    _wait_until(lambda: bench.named)  # the thread has taken all of it, and hangs in the store
    assert bench.writer.queued_ticks == 80
    assert bench.writer.lag_us(stamps[-1]) == stamps[-1] - stamps[0]
    bench.may_name.set()
    _wait_until(lambda: bench.writer.counts["ticks_stored_total"] == 80)
    bench.close()
    assert bench.writer.queued_ticks == 0
    assert bench.writer.lag_us(stamps[-1]) == 0


def test_a_store_that_fails_while_a_key_is_named_is_asked_again_and_no_frame_is_passed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.naming_fails = [InterfaceError("connection already closed"), AutoReconnect("gone")]
    bench.writer.start()
    for number in range(3):
        bench.take(number, "AX")
    bench.close()
    assert bench.naming_fails == []
    assert _volumes(1) == _volumes(99) == [75, 150, 225]
    assert bench.writer.counts["store_retries_total"] == 2
    assert bench.writer.counts["frames_undecodable_total"] == 0


def test_what_waits_for_the_journal_at_the_end_is_stored_once_the_journal_is_finished(tmp_path: Path) -> None:
    bench = Bench(tmp_path, queue_ticks=100)
    bench.writer.start()
    _wait_until(lambda: not bench.writer.behind)
    for number in range(200):  # overflows at once; nothing is flushed
        bench.take(number)
    assert bench.writer.behind
    bench.close()
    assert _volumes() == [75 * (number + 1) for number in range(200)]


def test_a_key_that_is_no_key_is_counted_and_the_rest_of_its_frame_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    feeds = {"A": option_feed(volume=75), "no key": option_feed()}
    data = frame(feeds)
    bench.writer.offer(Record(bench.journal.append(data, NOW_US), data, IDS), decode(data, IDS))
    bench.close()
    assert _volumes() == [75]
    assert bench.writer.counts["ticks_unnamed_total"] == 1


def test_a_journal_that_comes_back_is_stored_although_another_one_of_the_shard_went_further(tmp_path: Path) -> None:
    first = Bench(tmp_path / "a")
    first.writer.start()
    first.take(0)
    first.close()
    tail = Bench(tmp_path / "a")
    for number in range(1, 20):
        tail.take(number)
    tail.journal.close()  # the machine died before its store had this
    other = Bench(tmp_path / "b")
    other.writer.start()
    stamps = [other.take(number, "B") for number in range(50, 60)]
    other.close()
    assert stamps[-1] == position_read(0)
    back = Bench(tmp_path / "a")
    back.writer.start()
    back.close()
    assert _volumes() == [75 * (number + 1) for number in range(20)]


def test_a_journal_begun_anew_behind_the_position_is_stored_all_the_same(tmp_path: Path) -> None:
    position_write(0, 2**49)  # another journal's, of a clock that was ahead
    bench = Bench(tmp_path)
    bench.writer.start()
    for number in range(20):
        bench.take(number)
    bench.close()
    assert len(_volumes()) == 20


def test_a_frame_of_garbage_in_the_journal_is_counted_and_passed(tmp_path: Path) -> None:
    crashed = Bench(tmp_path)
    crashed.take(0)
    crashed.journal.append(b"\xff\xff garbage", NOW_US + 500)
    crashed.take(1)
    crashed.journal.close()
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.close()
    assert bench.writer.counts["frames_undecodable_total"] == 1
    assert _volumes() == [75, 150]


def test_the_brokers_minute_is_written_once_until_it_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.start()
    for number in range(10):
        bench.take(number, "A")
    bench.flush()
    _wait_until(lambda: bench.writer.counts["candles_written_total"] == 1)
    late = option_feed(volume=9000)
    late.fullFeed.marketFF.marketOHLC.ohlc[1].MergeFrom(pb.OHLC(close=101.75))
    data = frame({"A": late})
    bench.writer.offer(Record(bench.journal.append(data, NOW_US + 99_000), data, IDS), decode(data, IDS))
    bench.close()
    (candle,) = OHLC.objects.all()
    assert (candle.close, candle.revision, candle.state) == (101.75, 1, "confirmed")
    assert bench.writer.counts["candles_written_total"] == 2


def test_a_bar_of_a_minute_outside_the_session_is_no_candle(tmp_path: Path) -> None:
    bench = Bench(tmp_path, in_session=lambda instrument, minute_ms: instrument == 2 and minute_ms == 1_769_160_480_000)
    bench.writer.start()
    bench.take(0)
    bench.close()
    assert [row["i"] for row in store.candles_collection().find({})] == [2]
    assert bench.writer.counts["ticks_stored_total"] == 2, "its ticks are stored all the same"
