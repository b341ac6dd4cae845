"""The thread that brings a shard's frames from the journal into MongoDB: in order, in batches, never skipping.

Laws: the position that is committed stands for an unbroken prefix: it moves when everything before it is acknowledged. No
frame is written before the journal was flushed, so a killed feed leaves no tick in the store that the journal cannot explain.
While the store keeps up, frames come by a bounded queue; when the queue is full (or at the start, for the last run's tail)
they are read again from the journal until the thread has caught up. It never blocks the caller of `offer`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from django.db import Error as DjangoError
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from broker.journal_reading import JournalReader, Record
from broker.position import journal_id, position_read, position_write
from broker.upstox.decode import Frame, decode
from broker.upstox.protocol import ProtocolViolation
from marketdata.domain.candle import Candle
from marketdata.domain.tick import stamp_to_ms
from marketdata.store import Document, Written, candles_write, tick_bson, ticks_collection, ticks_write

log = logging.getLogger(__name__)
T = TypeVar("T")

COUNTS = (
    "ticks_stored_total",
    "ticks_duplicate_total",
    "ticks_replayed_total",
    "ticks_dropped_total",
    "candles_written_total",
    "frames_deferred_total",
    "frames_undecodable_total",
    "ticks_unnamed_total",
    "store_retries_total",
)
POSITION_SECONDS = 1.0
"""The committed position is saved at most so often; what lies behind it is written again after a crash, and changes nothing."""
LONGEST_RETRY_SECONDS = 5.0
CATCH_UP_FRAMES = 500
WRITES_AT_ONCE = 2
"""Batches under way at once; the position waits for all that came before it."""
NAMED_KEYS = 10_000
"""So many keys that no map named are remembered."""
POLL_SECONDS = 0.05


class Offered(NamedTuple):
    """A frame that waits in the queue; with its bytes when some of its keys have no instrument yet."""

    received_us: int
    frame: Frame
    unnamed: Record | None
    ticks: int
    journalled: bool


class StoreWriter(threading.Thread):
    """Writes one shard's ticks and the broker's finished bars.

    Args:
        folder: the shard's journal.
        journal_last_us: stamp of the journal's newest record before this run.
        name_unknown: gives keys that the journal's map does not know their (placeholder) instrument ids; the same for
            the same keys however often it is asked.
        batch_ticks, batch_ms: size and age at which a batch is written.
        queue_ticks: ticks that may wait in memory.
        in_session: whether an instrument's minute belongs to its session: the broker's bars of other minutes are no candles. Called from
            this thread.

    Attributes:
        counts: of ticks: `ticks_stored_total` (new in the store), `ticks_duplicate_total` (it had them), `ticks_unnamed_total`
            (their key is no key), `ticks_dropped_total` (the journal's disk refused them, and the queue was full), which
            together are what was offered and `ticks_replayed_total` (of the last run's tail); `candles_written_total`,
            `store_retries_total`; of frames: `frames_deferred_total` (left to the journal because the queue was full),
            `frames_undecodable_total` (in the journal, but no frames).
        stored_us: stamp of the newest frame that the store has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shard: int,
        journal_last_us: int,
        name_unknown: Callable[[Sequence[str]], Mapping[str, int]],
        batch_ticks: int,
        batch_ms: int,
        queue_ticks: int,
        in_session: Callable[[int, int], bool] = lambda instrument, minute_ms: True,
    ) -> None:
        super().__init__(name=f"store-{shard}", daemon=True)
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.stored_us = 0
        self._folder = folder
        self._name_unknown = name_unknown
        self._in_session = in_session
        self._shard = shard
        self._batch_ticks = batch_ticks
        self._batch_seconds = batch_ms / 1000
        self._queue_limit = queue_ticks
        self._condition = threading.Condition()
        self._queue: deque[Offered] = deque()
        self._queued_ticks = 0
        self._taken_ticks = 0
        """Taken from the queue, not yet collected."""
        self._collected_ticks = 0
        """Collected, from the queue or the journal, not yet acknowledged."""
        self._released = 0
        """So many at the queue's head may be written."""
        self._accepting = True
        self._first_us = 0
        self._last_run_us = journal_last_us
        self._journal_until_us = journal_last_us
        """Frames up to this stamp must come from the journal."""
        self._catching_up = True
        self._stopping = False
        self._abandoned = False
        self._journal: str | None = None
        self._named: dict[str, int | None] = {}
        self._documents: list[bytes] = []
        self._bars: list[Candle] = []
        self._pending_us = 0
        self._position_at = 0.0
        self._position_us = 0

    # --- the caller's side: never blocks ---

    def offer(self, record: Record, frame: Frame, *, journalled: bool = True) -> None:
        """Hand a frame on, decoded. When the queue is full it is dropped here and read from the journal later.

        Args:
            journalled: the journal has it, or will; where its disk refused it, a full queue loses it, counted.
        """
        size = len(frame.ticks) + len(frame.unknown)
        with self._condition:
            self._first_us = self._first_us or record.received_us
            if self._accepting and self.queued_ticks + size <= self._queue_limit:
                self._queue.append(Offered(record.received_us, frame, record if frame.unknown else None, size, journalled))
                self._queued_ticks += size
            elif not journalled:
                self.counts["ticks_dropped_total"] += size
            else:
                self.counts["frames_deferred_total"] += 1 + len(self._queue)
                self.counts["ticks_dropped_total"] += sum(each.ticks for each in self._queue if not each.journalled)
                self._accepting, self._catching_up = False, True
                self._queue.clear()
                self._queued_ticks = self._released = 0
                self._journal_until_us = record.received_us
                self._condition.notify()

    def release(self) -> None:
        """Let what was offered so far be written. Call it after each flush of the journal, also after one that failed."""
        with self._condition:
            self._released = len(self._queue)
            self._condition.notify()

    @property
    def queued_ticks(self) -> int:
        """Ticks in memory that the store has not acknowledged."""
        return self._queued_ticks + self._taken_ticks + self._collected_ticks

    @property
    def behind(self) -> bool:
        """Whether frames are left to the journal that the thread has not read yet."""
        return self._catching_up

    def lag_us(self, journal_last_us: int) -> int:
        """Return how far the store is behind the journal's newest record, in microseconds; 0 when nothing waits."""
        if not self.queued_ticks and not self.behind:
            return 0
        since = self.stored_us or self._last_run_us or self._first_us  # the position is not known while the store is away
        return max(0, journal_last_us - since) if since else 0

    def stop(self, timeout: float) -> bool:
        """Write what waits, save the position and end; say whether all of it was written within `timeout` seconds.

        Call it after the journal is finished: what it does not hold by then is lost, and nothing waits for it.
        """
        with self._condition:
            self._stopping = True
            self._released = len(self._queue)
            self._condition.notify()
        self.join(timeout)
        if self.is_alive():
            self._abandoned = True
            return False
        return self._clean

    _clean = False

    # --- the thread ---

    def run(self) -> None:
        """Catch up with the journal, then follow the queue until stopped."""
        try:
            self._journal = journal_id(self._folder)
        except OSError as error:  # a disk that was full before the id was ever written: the shard's own position serves this run
            log.error("store: the journal's id can be neither read nor written: %s", error)
        self.stored_us = self._position_us = self._retry(lambda: position_read(self._shard, self._journal), "read the position") or 0
        self._pending_us = min(self.stored_us, self._journal_until_us)  # a journal that was begun anew may be behind the position
        self._catch_up()
        while not self._abandoned:
            work = self._take()
            for each in work:
                if each.received_us > self._pending_us or not each.journalled:  # what no journal has, none has given
                    if each.unnamed:
                        self._read(each.unnamed)
                    else:
                        self._collect(each.received_us, each.frame)
                self._taken_ticks -= each.ticks
                if len(self._documents) >= WRITES_AT_ONCE * self._batch_ticks:
                    self._write()
            self._write()
            if self.behind:
                self._catch_up()
            elif self._stopping and not self._queue:
                break
        self._save_position(force=True)
        self._clean = not self._abandoned

    def _take(self) -> list[Offered]:
        """Wait until a batch is full or old enough, then return everything released."""
        with self._condition:
            deadline = None
            while not self._stopping and self._accepting and not (self._released and self._queued_ticks >= self._batch_ticks):
                if self._released and deadline is None:
                    deadline = time.monotonic() + self._batch_seconds
                remaining = self._batch_seconds if deadline is None else deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._condition.wait(remaining)
            work = [self._queue.popleft() for _ in range(self._released)]
            self._released = 0
            self._taken_ticks = sum(each.ticks for each in work)
            self._queued_ticks -= self._taken_ticks
            return work

    def _catch_up(self) -> None:
        """Write from the journal until it holds nothing that the queue does not."""
        reader = JournalReader(self._folder, after_us=self._pending_us)
        minutes: dict[int, bytes] = {}
        quiet = self._journal_until_us <= self._pending_us  # nothing is left of before: no word of it
        told = quiet
        while not self._abandoned:
            stopping = self._stopping  # before reading: what was flushed before the stop is read then
            records = reader.read(CATCH_UP_FRAMES)
            for record in records:
                self._read(record, minutes)
                if len(self._documents) >= WRITES_AT_ONCE * self._batch_ticks:
                    self._write()
            self._write()
            if records:
                if not told:
                    log.info("store: reading the journal from %s on", datetime.fromtimestamp(stamp_to_ms(records[0].received_us) / 1000))
                    told = True
                continue
            with self._condition:
                self._accepting = True
                self._catching_up = reader.last_us < self._journal_until_us and not stopping
                if not self._catching_up:
                    break
            time.sleep(POLL_SECONDS)  # the journal is flushed every 100 ms
        if told and not quiet:
            log.info("store: caught up with the journal")

    def _read(self, record: Record, minutes: dict[int, bytes] | None = None) -> None:
        """Collect a frame from its bytes, with every key named."""
        frame = self._decoded(record, record.instruments, minutes)
        if frame is None:
            return
        if frame.unknown:
            frame = self._decoded(record, {**record.instruments, **self._names(frame.unknown)}, None)
            if frame is None:
                return
            self.counts["ticks_unnamed_total"] += len(frame.unknown)  # keys that are no keys: only the journal has them
        self._collect(record.received_us, frame)

    def _decoded(self, record: Record, instruments: Mapping[str, int], minutes: dict[int, bytes] | None) -> Frame | None:
        """Decode a frame. Its bytes come from outside: what cannot be read is counted and passed, or no run would get beyond it."""
        try:
            return decode(record.data, instruments, minutes)
        except Exception as error:
            self.counts["frames_undecodable_total"] += 1
            if not isinstance(error, ProtocolViolation):
                log.exception("store: a journalled frame of %d bytes cannot be read and is passed", len(record.data))
            return None

    def _names(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the instruments of those keys that are keys; each is asked for once."""
        missing = [key for key in keys if key not in self._named]
        if missing:
            if len(self._named) > NAMED_KEYS:
                self._named.clear()
            named = self._retry(lambda: self._name_unknown(missing), f"name {len(missing)} unknown instruments") or {}
            self._named |= {key: named.get(key) for key in missing}
        return {key: instrument for key in keys if (instrument := self._named.get(key)) is not None}

    def _collect(self, received_us: int, frame: Frame) -> None:
        ticks = frame.ticks
        if ticks:
            kind = int(frame.kind or 0)
            broker_ms = frame.broker_ms
            self._documents.extend([tick_bson(tick, received_us, broker_ms, kind) for tick in ticks])
            self._collected_ticks += len(ticks)
        self._bars.extend([bar for bar in frame.bars if self._in_session(bar.instrument, bar.start_ms)])
        if received_us <= self._last_run_us:
            self.counts["ticks_replayed_total"] += len(ticks) + len(frame.unknown)
        self._pending_us = max(self._pending_us, received_us)

    def _write(self) -> None:
        """Write what was collected, trying again until the store takes it; then the position may move."""
        documents, self._documents = self._documents, []
        size = self._batch_ticks
        target = ticks_collection()
        parts = [documents[start : start + size] for start in range(0, len(documents), size)]
        under_way: deque[Future[Written | None]] = deque()
        while parts or under_way:
            while parts and len(under_way) < WRITES_AT_ONCE:
                under_way.append(self._write_part(target, parts.pop(0), alone=not parts and not under_way))
            written = under_way.popleft().result()
            if written is None:
                return
            self._collected_ticks -= sum(written)
            self.counts["ticks_stored_total"] += written.inserted
            self.counts["ticks_duplicate_total"] += written.duplicates
        if self._bars:
            bars, self._bars = self._bars, []
            self.counts["candles_written_total"] += self._retry(lambda: candles_write(bars), f"write {len(bars)} candles") or 0
        if not self._abandoned:
            self.stored_us = self._pending_us
            self._save_position()

    def _write_part(self, target: Collection[Document], part: list[bytes], *, alone: bool) -> Future[Written | None]:
        """Write a part, here when it is `alone`, else in a thread beside: MongoDB takes two at once faster than one after the other."""
        future: Future[Written | None] = Future()

        def write() -> None:
            try:
                future.set_result(self._retry(lambda: ticks_write(part, target), f"write {len(part)} ticks"))
            except BaseException as error:
                future.set_exception(error)

        if alone:
            write()
        else:  # a daemon: a store that hangs must not keep the process from ending
            threading.Thread(target=write, name=self.name, daemon=True).start()
        return future

    def _save_position(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.stored_us <= self._position_us or (now - self._position_at < POSITION_SECONDS and not force):
            return
        self._retry(lambda: position_write(self._shard, self.stored_us, self._journal), "save the position")
        self._position_at, self._position_us = now, self.stored_us

    def _retry(self, work: Callable[[], T], what: str) -> T | None:
        """Do `work` until the store lets it; None only when the process gives up waiting for it."""
        delay = 0.25
        failed = False
        while not self._abandoned:
            try:
                result = work()
            except (PyMongoError, DjangoError) as error:
                if not failed:
                    log.error("store: cannot %s, trying again until it works: %s", what, _first_line(error))
                failed = True
                self.counts["store_retries_total"] += 1
                time.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY_SECONDS)
                continue
            if failed:
                log.info("store: works again")
            return result
        return None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
