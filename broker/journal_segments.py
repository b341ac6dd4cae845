"""The journal's segments as files: their names, and the bytes of their records, each of which is checked. Nothing is written here.

A segment is an MCAP file of three channels: `frames` (the broker's protobuf, schema included), `instruments` (JSON: key → instrument
id from here on) and `connection` (JSON: opened, closed). A record's `log_time` is its received stamp. Chunks carry CRCs.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Chunk, Statistics
from mcap.stream_reader import MAGIC_SIZE, StreamReader
from mcap.writer import MCAP0_MAGIC

from broker.upstox import MarketDataFeedV3_pb2 as pb
from marketdata.domain.tick import EPOCH_2020_US

log = logging.getLogger(__name__)

FRAMES, INSTRUMENTS, CONNECTION = 1, 2, 3
"""Channel ids, in the order in which every segment registers them."""
SUFFIX = ".mcap"

_HEAD = struct.Struct("<BQ")
"""A record's head: opcode, length of the content. Source: mcap.dev/spec, read 2026-11-22; so are those below."""
_CHUNK = struct.Struct("<3QI8sQ")
"""A chunk's content up to its records: first and last time, size, CRC, compression, length of what follows."""
_ZSTD = b"\x04\x00\x00\x00zstd"
_MESSAGE_INDEX = struct.Struct("<HI")
_FOOTER = _HEAD.pack(Opcode.FOOTER, 20)
_FOOTER_SIZE = _HEAD.size + 20 + MAGIC_SIZE


class Damaged(Exception):
    """Bytes of a segment are not as they were written."""


def log_time_ns(stamp: int) -> int:
    """Return a received stamp as a record's `log_time`."""
    return (stamp + EPOCH_2020_US) * 1000


def log_time_stamp(time_ns: int) -> int:
    """Return the received stamp that a record's `log_time` is."""
    return time_ns // 1000 - EPOCH_2020_US


def frame_schema() -> bytes:
    """Return the frame schema as MCAP's protobuf encoding wants it: a FileDescriptorSet with everything imported."""
    files = FileDescriptorSet()
    for dependency in pb.DESCRIPTOR.dependencies:
        dependency.CopyToProto(files.file.add())
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def segment_stamp(path: Path) -> int:
    """Return the stamp of a segment's first record; every record of earlier segments is older."""
    return int(path.stem)


def last_stamp(path: Path) -> int:
    """Return the newest stamp of a segment by its chunks' headers; 0 where it has no whole chunk."""
    newest = size = 0
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:  # removed meanwhile: as if it had been before
        size = path.stat().st_size
        try:
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=1 << 30).records:
                if isinstance(record, Chunk):
                    newest = max(newest, log_time_stamp(record.message_end_time))
        except (McapError, ValueError, struct.error) as error:
            if not isinstance(error, EndOfFile | struct.error):  # which is bytes that just stop: being written, or a torn tail
                log.error("journal %s is damaged: %s", path.name, error)
    return newest or (segment_stamp(path) if size else 0)


def data_record(stream: BinaryIO, offset: int) -> tuple[int, bytes]:
    """Read the record at `offset`, where the stream is, up to the end of the data section; every byte of its head is checked.

    A torn tail is a record's true beginning. So a length that reaches past the file's end, which alone would look just so, is told
    from one: a record says its length twice.

    Returns:
        opcode, content; of a segment's first bytes the header's.

    Raises:
        EndOfFile: the bytes stop before its end: a segment that is being written, or a torn tail.
        Damaged: no record of ours begins so.
    """
    magic = b"" if offset else stream.read(MAGIC_SIZE)
    if magic != MCAP0_MAGIC[: len(magic)]:
        raise Damaged("the file's first bytes are wrong")
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
        raise Damaged(f"no record begins with opcode {opcode} and a length of {length}")
    stream.seek(_HEAD.size - len(head), os.SEEK_CUR)
    content = stream.read(length)
    if len(content) < length:
        raise EndOfFile
    return opcode, content


def chunk_count(summary: bytes) -> int:
    """Return how many chunks a segment has, as said behind its data section.

    Raises:
        EndOfFile: the summary is not there, or not whole.
        Damaged: it is whole, and its CRC or its last bytes are wrong.
    """
    is_whole = summary.endswith(MCAP0_MAGIC) or summary[-_FOOTER_SIZE:].startswith(_FOOTER)
    if not is_whole:
        raise EndOfFile
    (crc,) = struct.unpack_from("<I", summary, len(summary) - MAGIC_SIZE - 4)
    if not summary.endswith(MCAP0_MAGIC) or crc32(summary[: -MAGIC_SIZE - 4]) != crc:
        raise Damaged("the summary at its end is wrong")
    records = StreamReader(BytesIO(summary), skip_magic=True).records
    return next(record.chunk_count for record in records if isinstance(record, Statistics))


def chunk_behind(stream: BinaryIO, offset: int) -> int:
    """Return where the next chunk behind `offset` begins; the file's end where there is none."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = offset + _HEAD.size + _CHUNK.size - 16
        while (at := content.find(_ZSTD, at + 1)) >= 0:
            start = at - _HEAD.size - _CHUNK.size + 16
            opcode, length = _HEAD.unpack_from(content, start)
            if opcode == Opcode.CHUNK and content[at + 8 : at + 16] == struct.pack("<Q", max(0, length - _CHUNK.size)):
                return start
        return len(content)
