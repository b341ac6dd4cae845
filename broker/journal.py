"""The journal: every raw frame as it came, in MCAP segments (`journal_segments`), before anything else is done with it.

Stamps increase strictly per shard, even when the clock steps back and across restarts. Nothing is ever rewritten: each run begins a
segment of its own. `journal_reading` reads what is appended here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mcap.writer import CompressionType, Writer

from broker.journal_segments import CONNECTION, FRAMES, INSTRUMENTS, SUFFIX, frame_schema, last_stamp, log_time_ns, segment_paths
from broker.upstox import MarketDataFeedV3_pb2 as pb
from marketdata.domain.candle import day_start_ms
from marketdata.domain.tick import received_stamp_us, stamp_to_ms

log = logging.getLogger(__name__)

COUNTS = ("frames_journalled_total", "frames_unjournalled_total", "events_unjournalled_total", "journal_failures_total")
CHUNK_BYTES = 1 << 20
WAITING_BYTES = 64 << 20
"""So much is held in memory for a disk that takes nothing."""
RECORD_BYTES = 160
"""What a record in memory takes beside its content: a tuple, two integers and the bytes' own head."""
FLUSH_CHUNKS = 8
"""So many chunks go with one `flush`: about 50 ms when 64 MB have waited."""
RETRY_SECONDS = 1.0


class JournalBusy(Exception):
    """Another feed of the same shard holds the journal folder; final until that one ends."""


def _ist_day(received_us: int) -> int:
    return day_start_ms(stamp_to_ms(received_us))


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


class _Segment:
    """A segment's file, of which the system has whole chunks only: the stream of mcap's Writer, which `flush` hands over at once."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._file = path.open("wb", buffering=0)  # one of that name can only be what a disk that refused everything left of this one
        self._parts: list[bytes] = []
        self._collected = 0

    def write(self, part: bytes) -> None:
        self._parts.append(part)
        self._collected += len(part)

    def tell(self) -> int:
        return self.size + self._collected

    def flush(self) -> None:
        """Hand what was collected to the operating system.

        Raises:
            OSError: the disk does not take it; call `give_up`.
        """
        rest = memoryview(b"".join(self._parts))
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size = self.tell()
        self._parts.clear()
        self._collected = 0

    def close(self) -> None:
        self._file.close()

    def give_up(self) -> None:
        """Leave the file at its last whole chunk; without one, leave no file."""
        with contextlib.suppress(OSError):
            self._file.truncate(self.size)
        with contextlib.suppress(OSError):
            self._file.close()
        if not self.size:
            with contextlib.suppress(OSError):
                self._path.unlink()


class Journal:
    """Appends frames of one feed shard. Owned by one thread; `open` first, `close` last.

    A disk that takes nothing (full, over its quota, broken) raises nowhere but in `open`. What it has not taken stays in
    memory, up to WAITING_BYTES; beyond, new frames are refused. The torn segment is given up at its last whole chunk, and
    once a second a new one is tried, which begins with the key map of that time and what has waited, in order.

    Attributes:
        last_us: stamp of the newest record, of earlier runs too; 0 for none.
        bytes_written: of this run.
        failing: why the disk takes nothing now ("No space left on device"); None while it does. Each change is logged here.
        counts: `frames_journalled_total` (handed to the operating system), `frames_unjournalled_total` (refused for ever, memory
            being full), `events_unjournalled_total`, `journal_failures_total` (times the disk began to refuse). With
            `frames_waiting`, the frames' two add up to the frames appended, at any moment.
        frames_waiting: frames in memory: of the last 100 ms, and while `failing` all since then.
    """

    def __init__(self, folder: Path, *, shard: int, segment_bytes: int) -> None:
        self.folder = folder
        self.shard = shard
        self.segment_bytes = segment_bytes
        self.last_us = 0
        self.bytes_written = 0
        self.failing: str | None = None
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.frames_waiting = 0
        self._waiting: list[tuple[int, int, bytes]] = []
        """Records that the system does not have yet: channel, stamp, content."""
        self._waiting_bytes = 0
        self._refused_us = 0
        self._retry_at = 0.0
        self._instruments: dict[str, int] = {}
        self._instruments_written: dict[str, int] = {}
        self._lock: BinaryIO | None = None
        self._segment: _Segment | None = None
        self._writer: Writer
        self._day = 0

    def open(self) -> None:
        """Take the folder for this process and find where the last run ended.

        Raises:
            JournalBusy: another process has it.
            OSError: the folder cannot be made or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise JournalBusy(f"another feed is writing {self.folder}; stop it, or give this one another TRADINGOK_FEED_SHARD") from None
        self._lock = lock
        for path in reversed(segment_paths(self.folder)):
            self.last_us = last_stamp(path)
            if self.last_us:
                break

    def append(self, data: bytes, now_us: int) -> int:
        """Append one frame and return its stamp. It goes to the disk with its chunk, at the next `flush` at the latest.

        Args:
            data: the frame, as it came.
            now_us: our clock, microseconds since 1970.
        """
        self.last_us = stamp = received_stamp_us(now_us, self.last_us, self.shard)
        if self._waiting_bytes + len(data) > WAITING_BYTES:
            self.counts["frames_unjournalled_total"] += 1
            self._refused_us = stamp
        else:
            self.frames_waiting += 1
            self._keep(FRAMES, stamp, data)
        return stamp

    def holds(self, stamp: int) -> bool:
        """Whether the newest frame, whose stamp this is, is journalled or going to be; False: refused for ever."""
        return stamp != self._refused_us

    def instruments_add(self, instruments: Mapping[str, int], now_us: int) -> None:
        """Record which instrument each of these keys means from here on; keys that mean what they meant are left out."""
        new = {key: value for key, value in instruments.items() if self._instruments.get(key) != value}
        if new:  # never refused: the frames behind it would be read with the wrong meaning
            self._instruments |= new
            self._keep(INSTRUMENTS, self._stamp(now_us), _json(new))

    def event(self, content: Mapping[str, Any], now_us: int) -> None:
        """Record what happened to the connection."""
        data = _json(content)
        if self._waiting_bytes + len(data) > WAITING_BYTES:
            self.counts["events_unjournalled_total"] += 1
        else:
            self._keep(CONNECTION, self._stamp(now_us), data)

    def flush(self) -> None:
        """Hand everything appended to the operating system: a killed process loses nothing of it.

        A disk that refuses is tried again once a second; when it takes what waited, a part of it goes with each call.
        """
        if self.failing is not None and time.monotonic() < self._retry_at:
            return
        for _ in range(FLUSH_CHUNKS):
            if not self._waiting or not self._write_chunk():
                break

    def finish(self) -> None:
        """Write what waits and end the segment; the folder stays ours. What the disk does not take now is lost, counted and logged."""
        while self._waiting and self._write_chunk():
            pass
        if self.frames_waiting:
            log.critical("journal: %d frames are lost, the disk did not take them: %s", self.frames_waiting, self.failing)
            self.counts["frames_unjournalled_total"] += self.frames_waiting
            self.frames_waiting = 0
        try:
            self._finish()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Finish, and free the folder."""
        self.finish()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _stamp(self, now_us: int) -> int:
        self.last_us = received_stamp_us(now_us, self.last_us, self.shard)
        return self.last_us

    def _keep(self, channel: int, stamp: int, data: bytes) -> None:
        self._waiting.append((channel, stamp, data))
        self._waiting_bytes += len(data) + RECORD_BYTES
        if self._waiting_bytes >= CHUNK_BYTES and self.failing is None:
            self._write_chunk()

    def _write_chunk(self) -> bool:
        """Hand the oldest records over as one chunk; say whether the disk took it."""
        records, size = self._oldest()
        try:
            if self._segment is not None and _ist_day(records[0][1]) != self._day:
                self._finish()
            segment = self._segment or self._begin(records[0][1])
            before = segment.size
            for channel, stamp, data in records:
                time_ns = log_time_ns(stamp)
                self._writer.add_message(channel, time_ns, data, time_ns)
            self._writer.flush()
            written = segment.size - before
            self._written(records, size, written)
            if segment.size >= self.segment_bytes:
                self._finish()
        except OSError as error:
            self._give_up(error)
            return False
        return True

    def _oldest(self) -> tuple[list[tuple[int, int, bytes]], int]:
        """Return the records of the next chunk, and how much of the waiting bytes they are."""
        if self._waiting_bytes < 2 * CHUNK_BYTES:
            return self._waiting, self._waiting_bytes
        size = number = 0
        while size < CHUNK_BYTES:
            size += len(self._waiting[number][2]) + RECORD_BYTES
            number += 1
        return self._waiting[:number], size

    def _written(self, records: list[tuple[int, int, bytes]], size: int, written: int) -> None:
        frames = 0
        for channel, _, data in records:
            if channel == FRAMES:
                frames += 1
            elif channel == INSTRUMENTS:
                self._instruments_written |= json.loads(data)
        if self.failing is not None:
            log.warning("journal: the disk takes it again; %d frames waited", self.frames_waiting)
            self.failing = None
        self.bytes_written += written
        self.counts["frames_journalled_total"] += frames
        self.frames_waiting -= frames
        self._waiting_bytes -= size
        del self._waiting[: len(records)]

    def _begin(self, stamp: int) -> _Segment:
        """Begin a segment named by its first stamp; the whole key map goes in before the first record, under the same stamp."""
        self._segment = _Segment(self.folder / f"{stamp:016d}{SUFFIX}")
        self._day = _ist_day(stamp)
        self._writer = writer = Writer(
            self._segment,  # type: ignore[arg-type]  # `write`, `tell` and `flush` are all that it asks of a stream
            chunk_size=WAITING_BYTES * 2,  # never by itself: a chunk ends where we flush
            compression=CompressionType.ZSTD,
        )
        writer.start(profile="tradingok", library="tradingok")
        schema = writer.register_schema(pb.FeedResponse.DESCRIPTOR.full_name, "protobuf", frame_schema())
        plain = writer.register_schema("tradingok.json", "jsonschema", b'{"type":"object"}')
        metadata = {"shard": str(self.shard), "stamp": "microseconds since 2020-01-01, lowest 3 bits are the shard"}
        for topic, encoding, schema_id in (("frames", "protobuf", schema), ("instruments", "json", plain), ("connection", "json", plain)):
            writer.register_channel(topic, encoding, schema_id, metadata)
        time_ns = log_time_ns(stamp)
        writer.add_message(INSTRUMENTS, time_ns, _json(self._instruments_written), time_ns)
        return self._segment

    def _finish(self) -> None:
        if self._segment is None:
            return
        self._writer.finish()
        self._segment.flush()
        self._segment.close()
        self._segment = None

    def _give_up(self, error: OSError) -> None:
        """The disk refused: leave the torn segment, and wait a second before a new one is tried."""
        if self._segment is not None:
            self._segment.give_up()
            self._segment = None
        if self.failing is None:
            self.counts["journal_failures_total"] += 1
            log.critical("journal: the disk takes nothing more: %s; frames wait in memory", error)
        self.failing = error.strerror or str(error)
        self._retry_at = time.monotonic() + RETRY_SECONDS
