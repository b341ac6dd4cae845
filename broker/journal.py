"""The journal: every raw frame as it came, in MCAP segments, before anything else is done with it.

A segment holds three channels: `frames` (the broker's protobuf, schema included), `instruments` (JSON: key → instrument id
from here on) and `connection` (JSON: opened, closed). A record's `log_time` is its received stamp, strictly increasing per
shard even when the clock steps back and across restarts. Chunks carry CRCs; a torn tail is the end of a segment, a
damaged chunk is skipped and counted. Nothing is ever rewritten: each run begins a segment of its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.exceptions import EndOfFile, McapError
from mcap.records import Chunk, McapRecord, Message
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, IndexType, Writer

from broker.upstox import MarketDataFeedV3_pb2 as pb
from marketdata.domain.tick import EPOCH_2020_US, received_stamp_us

log = logging.getLogger(__name__)

FRAMES, INSTRUMENTS, CONNECTION = 1, 2, 3
"""Channel ids, in the order in which every segment registers them."""

CHUNK_BYTES = 1 << 20
SUFFIX = ".mcap"


class JournalBusy(Exception):
    """Another feed of the same shard holds the journal folder; final until that one ends."""


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


def _schema() -> bytes:
    """Return the frame schema as MCAP's protobuf encoding wants it: a FileDescriptorSet with everything imported."""
    files = FileDescriptorSet()
    for dependency in pb.DESCRIPTOR.dependencies:
        dependency.CopyToProto(files.file.add())
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


class Journal:
    """Appends frames of one feed shard. Owned by one thread; `open` first, `close` last.

    Attributes:
        last_us: stamp of the newest record, of earlier runs too; 0 for none.
        bytes_written: of this run.
    """

    def __init__(self, folder: Path, *, shard: int, segment_bytes: int) -> None:
        self.folder = folder
        self.shard = shard
        self.segment_bytes = segment_bytes
        self.last_us = 0
        self.bytes_written = 0
        self._instruments: dict[str, int] = {}
        self._lock: BinaryIO | None = None
        self._stream: BinaryIO | None = None
        self._writer: Writer | None = None
        self._unflushed = False

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
        """Append one frame and return its stamp. It is on its way to the disk at the next `flush`.

        Args:
            data: the frame, as it came.
            now_us: our clock, microseconds since 1970.
        """
        self.last_us = stamp = received_stamp_us(now_us, self.last_us, self.shard)
        self._write(FRAMES, stamp, data)
        return stamp

    def instruments_add(self, instruments: Mapping[str, int], now_us: int) -> None:
        """Record which instrument each of these keys means from here on; keys that mean what they meant are left out."""
        new = {key: value for key, value in instruments.items() if self._instruments.get(key) != value}
        if new:
            self._instruments |= new
            if self._writer is not None:  # else the next segment begins with the whole map
                self._append_json(INSTRUMENTS, new, now_us)

    def event(self, content: Mapping[str, Any], now_us: int) -> None:
        """Record what happened to the connection."""
        self._append_json(CONNECTION, content, now_us)

    def flush(self) -> None:
        """Hand everything appended to the operating system (a killed process loses nothing of it), and rotate a full segment."""
        if self._writer is None or self._stream is None or not self._unflushed:
            return
        before = self._stream.tell()
        self._writer.flush()
        self.bytes_written += self._stream.tell() - before
        self._unflushed = False
        if self._stream.tell() >= self.segment_bytes:
            self._finish()

    def close(self) -> None:
        """Finish the segment and free the folder."""
        self._finish()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _append_json(self, channel: int, content: Mapping[str, Any], now_us: int) -> None:
        self.last_us = stamp = received_stamp_us(now_us, self.last_us, self.shard)
        self._write(channel, stamp, json.dumps(content, separators=(",", ":")).encode())

    def _write(self, channel: int, stamp: int, data: bytes) -> None:
        writer = self._writer or self._begin(stamp)
        time_ns = _log_time_ns(stamp)
        writer.add_message(channel, time_ns, data, time_ns)
        self._unflushed = True

    def _begin(self, stamp: int) -> Writer:
        """Begin a segment named by its first stamp; the whole key map goes in before the first frame, under the same stamp."""
        self._stream = (self.folder / f"{stamp:016d}{SUFFIX}").open("xb")
        self._writer = writer = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD, index_types=IndexType.ALL & ~IndexType.MESSAGE
        )
        writer.start(profile="tradingok", library="tradingok")
        schema = writer.register_schema(pb.FeedResponse.DESCRIPTOR.full_name, "protobuf", _schema())
        plain = writer.register_schema("tradingok.json", "jsonschema", b'{"type":"object"}')
        metadata = {"shard": str(self.shard), "stamp": "microseconds since 2020-01-01, lowest 3 bits are the shard"}
        for topic, encoding, schema_id in (("frames", "protobuf", schema), ("instruments", "json", plain), ("connection", "json", plain)):
            writer.register_channel(topic, encoding, schema_id, metadata)
        time_ns = _log_time_ns(stamp)
        writer.add_message(INSTRUMENTS, time_ns, json.dumps(self._instruments, separators=(",", ":")).encode(), time_ns)
        return writer

    def _finish(self) -> None:
        if self._writer is None or self._stream is None:
            return
        self._writer.finish()
        self._stream.close()
        self._writer = self._stream = None
        self._unflushed = False


class JournalReader:
    """Reads a shard's frames in order, across segments, also while they are being written.

    Attributes:
        last_us: stamp of the newest record read (frames or not).
        damaged_chunks: chunks that were skipped because their CRC or content is wrong.
    """

    def __init__(self, folder: Path, *, after_us: int = 0) -> None:
        self.folder = folder
        self.after_us = after_us
        self.last_us = after_us
        self.damaged_chunks = 0
        self._instruments: dict[str, int] = {}
        self._path: Path | None = None
        self._offset = 0

    def read(self, most: int = 500) -> list[Record]:
        """Return up to about `most` further frames (whole chunks); empty when there are none for now."""
        found: list[Record] = []
        while len(found) < most:
            later = self._later()  # before reading: a segment that has a successor now grows no more
            if self._path is not None and not self._read_on(found, most):
                break
            if not later:
                break
            self._path, self._offset = later[0], 0
        return found

    def _later(self) -> list[Path]:
        """Return the segments behind the present one; at the start, from the one that `after_us` lies in."""
        paths = segment_paths(self.folder)
        if self._path is not None:
            return [path for path in paths if _path_stamp(path) > _path_stamp(self._path)]
        before = [path for path in paths if _path_stamp(path) <= self.after_us]
        return before[-1:] + [path for path in paths if _path_stamp(path) > self.after_us]

    def _read_on(self, found: list[Record], most: int) -> bool:
        """Read on in the present segment; say whether its end was reached."""
        for chunk in self._chunks():
            self._take(chunk, found)
            if len(found) >= most:
                return False
        return True

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the segment's further whole chunks; stop at its end or at a torn one."""
        assert self._path is not None
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            reader = StreamReader(stream, skip_magic=self._offset > 0, emit_chunks=True, record_size_limit=1 << 30)
            try:
                for record in reader.records:
                    self._offset = stream.tell()
                    if isinstance(record, Chunk):
                        yield record
            except (McapError, ValueError, struct.error) as error:
                if not _is_end(error):
                    log.error("journal %s is damaged at byte %d: %s", self._path.name, self._offset, error)

    def _take(self, chunk: Chunk, found: list[Record]) -> None:
        try:
            records: list[McapRecord] = breakup_chunk(chunk, validate_crc=True)
        except Exception as error:  # any decompressor's or parser's own complaint about damaged bytes
            self.damaged_chunks += 1
            log.error("journal %s: a chunk of %d bytes is damaged and skipped: %s", self._path, len(chunk.data), error)
            return
        for record in records:
            if not isinstance(record, Message):
                continue
            stamp = _received_us(record.log_time)
            if record.channel_id == INSTRUMENTS:
                self._instruments = {**self._instruments, **json.loads(record.data)}
            elif record.channel_id == FRAMES and stamp > self.after_us:
                found.append(Record(stamp, record.data, self._instruments))
            self.last_us = max(self.last_us, stamp)


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _path_stamp(path: Path) -> int:
    return int(path.stem)


def _is_end(error: Exception) -> bool:
    """Whether the bytes just stop: a segment that is being written, or a torn tail."""
    return isinstance(error, EndOfFile | struct.error)


def _last_stamp(path: Path) -> int:
    """Return the newest stamp of a segment by its chunks' headers; 0 where it has no whole chunk."""
    newest = 0
    with path.open("rb") as stream:
        try:
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=1 << 30).records:
                if isinstance(record, Chunk):
                    newest = max(newest, _received_us(record.message_end_time))
        except (McapError, ValueError, struct.error) as error:
            if not _is_end(error):
                log.error("journal %s is damaged: %s", path.name, error)
    return newest or (_path_stamp(path) if path.stat().st_size else 0)


def journal_bytes(folder: Path) -> int:
    """Return the size of all segments."""
    return sum(os.stat(path).st_size for path in segment_paths(folder))
