"""Frames prepared beforehand → journal → decode → quotes, candles → MongoDB with majority, mongod on the same cores, fan-out off.

The parts are those of `runfeed`, in its order: the journal is flushed each 100 ms, the store's writer has its own thread. The work
is closed-loop: the source waits while more than QUEUE_TICKS wait for the store, so that the figure is what is sustained. At the
end every id is compared with what the journal gives: exactly once. The competitor is the same with the ORM's `bulk_create`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from broker import store_writer
from broker.candles import HORIZON_MS
from broker.journal import Journal
from broker.journal_reading import JournalReader, Record
from broker.pipeline import Pipeline
from broker.receiving import spare_the_collector
from broker.store_writer import StoreWriter
from broker.upstox.decode import decode
from marketdata import store
from marketdata.domain.minutes import MinuteBuilder
from marketdata.domain.tick import Tick, stamp_to_ms, tick_id
from marketdata.models import OHLC, MarketTick
from tests.bench.frames import INSTRUMENTS, PER_FRAME, ROUNDS_A_MINUTE, frames, keys
from tests.bench.table import Row

SECONDS = 60.0
COMPETITOR_SECONDS = 15.0
PREPARED_A_SECOND = 45_000
"""Ticks made beforehand for each second; when they run out earlier, the run is shorter and says so."""
QUEUE_TICKS = 20_000
BATCH_TICKS = 2_000
FLUSH_SECONDS = 0.1
SAID = Tick._fields[2:-4]
"""A tick's fields that are stored."""
_threads = ThreadPoolExecutor(store_writer.WRITES_AT_ONCE)


class Sustained(NamedTuple):
    """What one run did.

    Attributes:
        ticks: stored, every one of them checked.
        seconds: from the first frame until the last tick was acknowledged.
        cpu: processor seconds of this process.
        journal_mb: of the journal.
        wrong: ids that are missing, doubled or not from the journal; candles that are missing.
    """

    ticks: int
    seconds: float
    cpu: float
    journal_mb: float
    wrong: int

    @property
    def per_second(self) -> float:
        """Ticks a second."""
        return self.ticks / self.seconds


def run(seconds: float = SECONDS) -> list[Row]:
    """Measure ours and the ORM's; return the rows."""
    print(f"  preparing {int(seconds * PREPARED_A_SECOND):,} updates", flush=True)
    prepared = list(frames(max(1, int(seconds * PREPARED_A_SECOND / INSTRUMENTS))))
    print(f"  {len(prepared):,} frames, {sum(map(len, prepared)) / 1e6:,.0f} MB", flush=True)
    ours = _sustain(prepared, seconds)
    theirs = _with_orm(prepared, min(seconds, COMPETITOR_SECONDS))
    del prepared
    return [
        Row(f"journal → decode → quotes, candles → MongoDB, {ours.seconds:.0f} s", ours.per_second, "ticks/s", at_least=20_000, aim=35_000),
        Row("of these not exactly once in the store", ours.wrong, "ticks", at_least=0, lower_is_better=True),
        Row("processor time of the feed's side", ours.cpu / ours.ticks * 1e6, "µs/tick"),
        Row("journal", ours.journal_mb * 1e6 / ours.ticks, "bytes/tick"),
        Row("the same with bulk_create of the ORM", theirs.per_second, "ticks/s"),
        Row("ratio to bulk_create", ours.per_second / theirs.per_second, "times", at_least=2, aim=3),
    ]


def _sustain(prepared: Sequence[bytes], seconds: float) -> Sustained:
    """Run the pipeline for `seconds` or until the frames are used up, then check every id."""
    folder = Path(tempfile.mkdtemp(prefix="bench-journal-"))
    store.ticks_collection().delete_many({})
    OHLC.objects.all().delete()
    instruments = keys()
    journal = Journal(folder, shard=0, segment_bytes=256 << 20)
    journal.open()
    writer = StoreWriter(
        folder,
        shard=0,
        journal_last_us=journal.last_us,
        name_unknown=lambda unknown: {},
        batch_ticks=BATCH_TICKS,
        batch_ms=250,
        queue_ticks=4 * QUEUE_TICKS,
    )
    journal.instruments_add(instruments, time.time_ns() // 1000)
    writer.start()
    pipeline = Pipeline()
    builder = MinuteBuilder(lambda instrument, minute_ms: True, horizon_ms=HORIZON_MS)
    minutes: dict[int, bytes] = {}
    spare_the_collector()
    cpu, began = time.process_time(), time.perf_counter()
    flushed = began
    done = 0
    for data in prepared:
        stamp = journal.append(data, time.time_ns() // 1000)
        frame = decode(data, instruments, minutes)
        writer.offer(Record(stamp, data, instruments), frame)
        pipeline.apply(frame)
        builder.apply(frame, stamp)
        builder.advance(pipeline.market_ms)
        done += 1
        now = time.perf_counter()
        if now - flushed > FLUSH_SECONDS:
            journal.flush()
            writer.release()
            pipeline.drain()
            builder.drain()
            flushed = now
            if now - began > seconds:
                break
        while writer.queued_ticks > QUEUE_TICKS:
            time.sleep(0.002)
    journal.flush()
    if not writer.stop(120):
        raise RuntimeError("the store did not take everything within two minutes")
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    journal.close()
    size = sum(path.stat().st_size for path in folder.glob("*.mcap")) / 1e6
    wrong = _not_once(folder) + _missing_candles(done)
    if done * PER_FRAME != pipeline.counts["ticks_changed_total"]:
        raise RuntimeError(f"not every update changed a quote: {pipeline.counts}")
    shutil.rmtree(folder)
    return Sustained(done * PER_FRAME, elapsed, cpu, size, wrong)


def _not_once(folder: Path) -> int:
    """Compare the store's ids, in their order, with those of the journal's frames."""
    stored = (row["_id"] for row in store.ticks_collection().find({}, {"_id": 1}).sort("_id", 1).batch_size(50_000))
    wrong = 0
    reader = JournalReader(folder)
    while records := reader.read(2000):
        for record in records:
            for rank in range(PER_FRAME):
                wrong += next(stored, None) != tick_id(record.received_us, rank)
    return wrong + sum(1 for _ in stored)


def _missing_candles(done: int) -> int:
    """Count the finished minutes that were in the frames and are not stored."""
    rounds, rest = divmod(done * PER_FRAME, INSTRUMENTS)
    expected = -(-rounds // ROUNDS_A_MINUTE) * INSTRUMENTS + (rest if rounds % ROUNDS_A_MINUTE == 0 else 0)
    return abs(store.candles_collection().count_documents({}) - expected)


def _with_orm(prepared: Sequence[bytes], seconds: float) -> Sustained:
    """Run the same with the ORM's objects in the place of our BSON, and its `bulk_create` in the place of our write."""
    with patch.multiple(store_writer, tick_bson=_model, ticks_write=_bulk_create):
        return _sustain(prepared, seconds)


def _model(tick: Tick, received_us: int, broker_ms: int, kind: int) -> MarketTick:
    said = {name: value for name, value in zip(SAID, tick[2:-4], strict=True) if name != "last_trade_ms"}
    return MarketTick(
        id=tick_id(received_us, tick.rank),
        instrument=tick.instrument,
        time=_moment(broker_ms),
        received_at=_moment(stamp_to_ms(received_us)),
        kind=kind,
        last_trade_time=_moment(tick.last_trade_ms or 0),
        **said,
    )


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _bulk_create(ticks: Sequence[MarketTick], _target: object) -> store.Written:
    """Create them, two batches at once as ours; in threads that stay, as Django has a connection for each."""
    return _threads.submit(_create, ticks).result()


def _create(ticks: Sequence[MarketTick]) -> store.Written:
    MarketTick.objects.bulk_create(ticks)
    return store.Written(len(ticks), 0)
