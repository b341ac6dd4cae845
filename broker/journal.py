"""The journal: every raw frame as it came, in MCAP segments, before anything else is done with it.

A segment holds three channels: `frames` (the broker's protobuf, schema included), `instruments` (JSON: key → instrument id
from here on) and `connection` (JSON: opened, closed). A record's `log_time` is its received stamp, strictly increasing per
shard even when the clock steps back and across restarts. Chunks carry CRCs; a torn tail is the end of a segment, a
damaged chunk is skipped and counted. Nothing is ever rewritten: each run begins a segment of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import zstandard
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Chunk, McapRecord, Message, Statistics
from mcap.stream_reader import MAGIC_SIZE, StreamReader, breakup_chunk
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from broker.upstox import MarketDataFeedV3_pb2 as pb
from marketdata.domain.candle import day_start_ms
from marketdata.domain.tick import EPOCH_2020_US, received_stamp_us, stamp_to_ms

log = logging.getLogger(__name__)

FRAMES, INSTRUMENTS, CONNECTION = 1, 2, 3
"""Channel ids, in the order in which every segment registers them."""

COUNTS = ("frames_journalled_total", "frames_unjournalled_total", "events_unjournalled_total", "journal_failures_total")
CHUNK_BYTES = 1 << 20
WAITING_BYTES = 64 << 20
"""So much is held in memory for a disk that takes nothing."""
RECORD_BYTES = 160
"""What a record in memory takes beside its content: a tuple, two integers and the bytes' own head."""
FLUSH_CHUNKS = 8
"""So many chunks go with one `flush`: about 50 ms when 64 MB have waited."""
RETRY_SECONDS = 1.0
SUFFIX = ".mcap"


_HEAD = struct.Struct("<BQ")
"""A record's head: opcode, length of the content. Source: mcap.dev/spec, read 2026-11-22; so are those below."""
_CHUNK = struct.Struct("<3QI8sQ")
"""A chunk's content up to its records: first and last time, size, CRC, compression, length of what follows."""
_ZSTD = b"\x04\x00\x00\x00zstd"
_MESSAGE_INDEX = struct.Struct("<HI")
_FOOTER = _HEAD.pack(Opcode.FOOTER, 20)
_FOOTER_SIZE = _HEAD.size + 20 + MAGIC_SIZE


class JournalBusy(Exception):
    """Another feed of the same shard holds the journal folder; final until that one ends."""


class _DamagedError(Exception):
    """Bytes of a segment are not as they were written."""


class Record(NamedTuple):
    """One journalled frame.

    Attributes:
        received_us: its stamp, microseconds since 2020-01-01 with the shard in the lowest 3 bits.
        data: the WebSocket message.
        instruments: the key → instrument-id map it was written under.
    """

    received_us: int
    data: bytes
    instruments: Mapping[str, int]


def _log_time_ns(received_us: int) -> int:
    return (received_us + EPOCH_2020_US) * 1000


def _received_us(log_time_ns: int) -> int:
    return log_time_ns // 1000 - EPOCH_2020_US


def _ist_day(received_us: int) -> int:
    return day_start_ms(stamp_to_ms(received_us))


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _schema() -> bytes:
    """Return the frame schema as MCAP's protobuf encoding wants it: a FileDescriptorSet with everything imported."""
    files = FileDescriptorSet()
    for dependency in pb.DESCRIPTOR.dependencies:
        dependency.CopyToProto(files.file.add())
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


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
            self.last_us = _last_stamp(path)
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
                time_ns = _log_time_ns(stamp)
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
        schema = writer.register_schema(pb.FeedResponse.DESCRIPTOR.full_name, "protobuf", _schema())
        plain = writer.register_schema("tradingok.json", "jsonschema", b'{"type":"object"}')
        metadata = {"shard": str(self.shard), "stamp": "microseconds since 2020-01-01, lowest 3 bits are the shard"}
        for topic, encoding, schema_id in (("frames", "protobuf", schema), ("instruments", "json", plain), ("connection", "json", plain)):
            writer.register_channel(topic, encoding, schema_id, metadata)
        time_ns = _log_time_ns(stamp)
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


class JournalReader:
    """Reads a shard's frames in order, across segments, also while they are being written or removed.

    Attributes:
        last_us: stamp of the newest record read (frames or not).
        damaged_chunks: damaged places: chunks that were skipped because their CRC or head is wrong, and any other bytes that are not
            as they were written. What nothing here reads (the content of the header and of a chunk's index) is not looked at.
        segments_vanished: segments that were removed before their end was seen.
        segments_torn: segments that just stop, with a later one behind: the run was killed or the disk refused. That is no damage.
    """

    def __init__(self, folder: Path, *, after_us: int = 0) -> None:
        self.folder = folder
        self.after_us = after_us
        self.last_us = after_us
        self.damaged_chunks = 0
        self.segments_vanished = 0
        self.segments_torn = 0
        self._taken_us = after_us
        self._instruments: dict[str, int] = {}
        self._begin(None)

    def read(self, most: int = 500) -> list[Record]:
        """Return up to about `most` further frames (whole chunks); empty when there are none for now."""
        found: list[Record] = []
        while len(found) < most:
            later = self._later()  # before reading: a segment that has a successor now grows no more
            try:
                if self._path is not None:
                    if not self._read_on(found, most):
                        break
                    self.segments_torn += bool(later) and not self._finished
            except FileNotFoundError:
                self.segments_vanished += bool(later)  # without a later one: a new journal's first segment, which the disk refused
            if not later:
                break
            self._begin(later[0])
        return found

    def _begin(self, path: Path | None) -> None:
        self._path: Path | None = path
        self._offset = self._chunks_met = 0
        self._finished = False
        self._damaged = False

    def _later(self) -> list[Path]:
        """Return the segments behind the present one; at the start, from the one that `after_us` lies in."""
        paths = segment_paths(self.folder)
        if self._path is not None:
            return [path for path in paths if segment_stamp(path) > segment_stamp(self._path)]
        before = [path for path in paths if segment_stamp(path) <= self.after_us]
        return before[-1:] + [path for path in paths if segment_stamp(path) > self.after_us]

    def _read_on(self, found: list[Record], most: int) -> bool:
        """Read on in the present segment; say whether its end was reached."""
        for chunk in self._chunks():
            self._take(chunk, found)
            if len(found) >= most:
                return False
        return True

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the segment's further whole chunks; stop at its end or at a torn one, go on behind a damaged place."""
        assert self._path is not None
        with self._path.open("rb") as stream:
            while not self._finished:
                stream.seek(self._offset)
                try:
                    opcode, content = _data_record(stream, self._offset)
                    if opcode == Opcode.DATA_END:
                        chunks = _chunk_count(stream.read())
                        self._finished = True
                        if chunks != self._chunks_met and not self._damaged:
                            raise _DamagedError(f"{self._chunks_met} of its {chunks} chunks are there")
                except EndOfFile:
                    return
                except _DamagedError as error:
                    self._damage(f"byte {self._offset}: {error}")
                    self._offset = _chunk_behind(stream, self._offset)
                    continue
                self._offset = stream.tell()
                if opcode == Opcode.CHUNK:
                    self._chunks_met += 1
                    yield Chunk.read(ReadDataStream(BytesIO(content)))

    def _damage(self, what: str) -> None:
        self._damaged = True
        self.damaged_chunks += 1
        log.error("journal %s is damaged: %s", self._path, what)

    def _take(self, chunk: Chunk, found: list[Record]) -> None:
        try:
            records: list[McapRecord] = breakup_chunk(chunk, validate_crc=True)
        except Exception as error:  # any decompressor's or parser's own complaint about damaged bytes
            self._damage(f"a chunk of {len(chunk.data)} bytes is skipped: {error}")
            return
        times = [record.log_time for record in records if isinstance(record, Message)]
        said = (chunk.message_start_time, chunk.message_end_time, chunk.uncompressed_size)
        if (min(times, default=0), max(times, default=0), zstandard.frame_content_size(chunk.data)) != said:
            self._damage(f"the head of a chunk of {len(chunk.data)} bytes does not fit its records")  # which are whole: their CRC says so
        for record in records:
            if not isinstance(record, Message):
                continue
            stamp = _received_us(record.log_time)
            if record.channel_id == INSTRUMENTS:
                self._instruments = {**self._instruments, **json.loads(record.data)}
            elif record.channel_id == FRAMES and stamp > self._taken_us:  # not what was read before a torn end was cut off
                self._taken_us = stamp
                found.append(Record(stamp, record.data, self._instruments))
            self.last_us = max(self.last_us, stamp)


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _data_record(stream: BinaryIO, offset: int) -> tuple[int, bytes]:
    """Read the record at `offset`, where the stream is, up to the end of the data section; every byte of its head is checked.

    A torn tail is a record's true beginning. So a length that reaches past the file's end, which alone would look just so, is told
    from one: a record says its length twice.

    Returns:
        opcode, content; of a segment's first bytes the header's.

    Raises:
        EndOfFile: the bytes stop before its end: a segment that is being written, or a torn tail.
        _DamagedError: no record of ours begins so.
    """
    magic = b"" if offset else stream.read(MAGIC_SIZE)
    if magic != MCAP0_MAGIC[: len(magic)]:
        raise _DamagedError("the file's first bytes are wrong")
    head = stream.read(_HEAD.size + _CHUNK.size)
    if len(head) < _HEAD.size:
        raise EndOfFile
    opcode, length = _HEAD.unpack_from(head)
    inner = {Opcode.CHUNK: _CHUNK, Opcode.MESSAGE_INDEX: _MESSAGE_INDEX}.get(opcode)
    if inner is not None:
        if len(head) < _HEAD.size + inner.size:
            raise EndOfFile
        *_, size = inner.unpack_from(head, _HEAD.size)
        fits = length == inner.size + size and (opcode != Opcode.CHUNK or head[-16:-8] == _ZSTD)
    elif offset == 0:
        fits = opcode == Opcode.HEADER and length < 256
    else:
        fits = opcode == Opcode.DATA_END and length == 4
    if not fits:
        raise _DamagedError(f"no record begins with opcode {opcode} and a length of {length}")
    stream.seek(_HEAD.size - len(head), os.SEEK_CUR)
    content = stream.read(length)
    if len(content) < length:
        raise EndOfFile
    return opcode, content


def _chunk_count(summary: bytes) -> int:
    """Return how many chunks a segment has, as said behind its data section.

    Raises:
        EndOfFile: the summary is not there, or not whole.
        _DamagedError: it is whole, and its CRC or its last bytes are wrong.
    """
    is_whole = summary.endswith(MCAP0_MAGIC) or summary[-_FOOTER_SIZE:].startswith(_FOOTER)
    if not is_whole:
        raise EndOfFile
    (crc,) = struct.unpack_from("<I", summary, len(summary) - MAGIC_SIZE - 4)
    if not summary.endswith(MCAP0_MAGIC) or crc32(summary[: -MAGIC_SIZE - 4]) != crc:
        raise _DamagedError("the summary at its end is wrong")
    records = StreamReader(BytesIO(summary), skip_magic=True).records
    return next(record.chunk_count for record in records if isinstance(record, Statistics))


def _chunk_behind(stream: BinaryIO, offset: int) -> int:
    """Return where the next chunk behind `offset` begins; the file's end where there is none."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = offset + _HEAD.size + _CHUNK.size - 16
        while (at := content.find(_ZSTD, at + 1)) >= 0:
            start = at - _HEAD.size - _CHUNK.size + 16
            opcode, length = _HEAD.unpack_from(content, start)
            if opcode == Opcode.CHUNK and content[at + 8 : at + 16] == struct.pack("<Q", max(0, length - _CHUNK.size)):
                return start
        return len(content)


def _is_end(error: Exception) -> bool:
    """Whether the bytes just stop: a segment that is being written, or a torn tail."""
    return isinstance(error, EndOfFile | struct.error)


def _last_stamp(path: Path) -> int:
    """Return the newest stamp of a segment by its chunks' headers; 0 where it has no whole chunk."""
    newest = size = 0
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:  # removed meanwhile: as if it had been before
        size = path.stat().st_size
        try:
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=1 << 30).records:
                if isinstance(record, Chunk):
                    newest = max(newest, _received_us(record.message_end_time))
        except (McapError, ValueError, struct.error) as error:
            if not _is_end(error):
                log.error("journal %s is damaged: %s", path.name, error)
    return newest or (segment_stamp(path) if size else 0)


def segment_stamp(path: Path) -> int:
    """Return the stamp of a segment's first record; every record of earlier segments is older."""
    return int(path.stem)
