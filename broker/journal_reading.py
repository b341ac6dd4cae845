"""Reads the journal's frames again, across segments, also while they are being written or removed.

A torn tail is the end of a segment; a damaged chunk is skipped and counted. Nothing is written here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile
from mcap.opcode import Opcode
from mcap.records import Chunk, McapRecord, Message
from mcap.stream_reader import breakup_chunk

from broker.journal_segments import (
    FRAMES,
    INSTRUMENTS,
    Damaged,
    chunk_behind,
    chunk_count,
    data_record,
    log_time_stamp,
    segment_paths,
    segment_stamp,
)

log = logging.getLogger(__name__)


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
                    opcode, content = data_record(stream, self._offset)
                    if opcode == Opcode.DATA_END:
                        chunks = chunk_count(stream.read())
                        self._finished = True
                        if chunks != self._chunks_met and not self._damaged:
                            raise Damaged(f"{self._chunks_met} of its {chunks} chunks are there")
                except EndOfFile:
                    return
                except Damaged as error:
                    self._damage(f"byte {self._offset}: {error}")
                    self._offset = chunk_behind(stream, self._offset)
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
            stamp = log_time_stamp(record.log_time)
            if record.channel_id == INSTRUMENTS:
                self._instruments = {**self._instruments, **json.loads(record.data)}
            elif record.channel_id == FRAMES and stamp > self._taken_us:  # not what was read before a torn end was cut off
                self._taken_us = stamp
                found.append(Record(stamp, record.data, self._instruments))
            self.last_us = max(self.last_us, stamp)
