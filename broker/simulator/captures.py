"""Reads recorded Upstox V3 feeds, whatever form they were kept in, as one stream of frames, oldest first.

Nothing is invented and nothing is dropped: each recorded `Feed` comes out once, as recorded. No clock, no socket.

Forms (told apart by content, not by name):
- frames: repeated [uint32 big-endian length][`FeedResponse` bytes];
- a JSON array of whole frames in protobuf-JSON (a Mongo export; newest or oldest first), or one such frame a line;
- a JSON array of single `Feed`s with `instrumentKey` and without a time of the frame (whole-day captures of one instrument).
Each may be gzipped.
"""

from __future__ import annotations

import gzip
import heapq
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from broker.upstox import MarketDataFeedV3_pb2 as pb

FRAME_MS = 150
"""Length of the frames that whole-day captures are cut into, ms. Source: FACTS §3.5, frames every 133–166 ms."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"

_Message = TypeVar("_Message", bound=Message)
_Row = dict[str, Any]


class CaptureError(Exception):
    """A file that is no recording in a known form; the message names the file and what is wrong. Not worth a retry."""


class _TimedFeed(NamedTuple):
    """One recorded update. `broker_ms`: running maximum of its file's `ltt`, ms UTC."""

    broker_ms: int
    key: str
    feed: bytes


def read_recording(paths: Iterable[Path]) -> list[bytes]:
    """Read all files and merge them by broker time.

    Returns:
        encoded `FeedResponse`s, oldest first. Frames of whole files of frames are kept as they are; single feeds are cut into
        frames of FRAME_MS in which each key stands once. Never empty.

    Raises:
        CaptureError: a file is missing, damaged or no recording.
    """
    streams: list[list[tuple[int, bytes]]] = []
    singles: list[list[_TimedFeed]] = []
    for path in paths:
        content = _content(path)
        try:
            if content[:64].lstrip()[:1] in (b"[", b"{"):
                _read_json(content, streams, singles)
            else:
                streams.append(list(_length_prefixed(content)))
        except (DecodeError, msgspec.DecodeError, TypeError, ValueError, KeyError, struct.error) as error:
            raise CaptureError(f"{path} is not a recorded feed: {error}") from error
    if singles:
        streams.append(list(_frames_of(heapq.merge(*singles, key=lambda timed: timed.broker_ms))))
    frames = [frame for _, frame in heapq.merge(*streams, key=lambda timed: timed[0])]
    if not frames:
        raise CaptureError("the recording holds no frame")
    return frames


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path} cannot be read: {error}") from error


def _read_json(content: bytes, streams: list[list[tuple[int, bytes]]], singles: list[list[_TimedFeed]]) -> None:
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    raws = decoder.decode(content) if content[:64].lstrip()[:1] == b"[" else content.splitlines()
    rows = (msgspec.json.decode(raw, type=_Row) for raw in raws if raw)  # one at a time: a day is 80 MB of JSON
    first = next(rows, None)
    if first is None:
        raise ValueError("it is empty")
    if "instrumentKey" in first:
        singles.append(list(_timed_feeds(itertools.chain([first], rows))))
        return
    frames = [_timed(build(pb.FeedResponse, row)) for row in itertools.chain([first], rows)]
    if frames[0][0] > frames[-1][0]:
        frames.reverse()
    streams.append(frames)


def _length_prefixed(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        position += 4
        if not 0 < length <= min(FRAME_BYTES_MAX, len(content) - position):
            raise ValueError(f"a frame of {length} bytes at byte {position} does not fit")
        yield pb.FeedResponse.FromString(content[position : position + length]).currentTs, content[position : position + length]
        position += length


def _timed(frame: pb.FeedResponse) -> tuple[int, bytes]:
    return frame.currentTs, frame.SerializeToString(deterministic=True)


def _timed_feeds(rows: Iterable[_Row]) -> Iterator[_TimedFeed]:
    latest = 0
    for row in rows:
        feed = build(pb.Feed, row)
        latest = max(latest, last_trade_ms(feed))
        yield _TimedFeed(latest, str(row["instrumentKey"]), feed.SerializeToString(deterministic=True))


def _frames_of(feeds: Iterable[_TimedFeed]) -> Iterator[tuple[int, bytes]]:
    frame = pb.FeedResponse(type=pb.live_feed)
    end = 0
    for timed in feeds:
        if frame.feeds and (timed.broker_ms >= end or timed.key in frame.feeds):
            yield _timed(frame)
            frame = pb.FeedResponse(type=pb.live_feed)
        if not frame.feeds:
            end = timed.broker_ms + FRAME_MS
        frame.feeds[timed.key].ParseFromString(timed.feed)
        frame.currentTs = timed.broker_ms
    if frame.feeds:
        yield _timed(frame)


def last_trade_ms(feed: pb.Feed) -> int:
    """The feed's `ltt`, ms UTC; 0 when it carries none."""
    kind = feed.WhichOneof("FeedUnion")
    if kind == "fullFeed":
        full = feed.fullFeed
        return full.indexFF.ltpc.ltt if full.WhichOneof("FullFeedUnion") == "indexFF" else full.marketFF.ltpc.ltt
    if kind == "firstLevelWithGreeks":
        return feed.firstLevelWithGreeks.ltpc.ltt
    return feed.ltpc.ltt


# --- protobuf-JSON, five times faster than json_format.ParseDict (whole days have 120,000 updates) ---------------------------

_CONVERTERS: dict[str, dict[str, Callable[[Any], Any]]] = {}
_WHOLE = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32}


def build(kind: type[_Message], row: Mapping[str, Any]) -> _Message:
    """Make a protobuf message from its protobuf-JSON form; fields that the schema does not know are left out.

    Raises:
        TypeError, ValueError: a value is not of the schema's type.
    """
    return kind(**_plain(cast(Descriptor, kind.DESCRIPTOR), row))


def _plain(descriptor: Descriptor, row: Mapping[str, Any]) -> _Row:
    converters = _CONVERTERS.get(descriptor.full_name) or _converters(descriptor)
    return {name: converters[name](value) for name, value in row.items() if name in converters}


def _converters(descriptor: Descriptor) -> dict[str, Callable[[Any], Any]]:
    table = {field.name: _converter(field) for field in descriptor.fields}
    return _CONVERTERS.setdefault(descriptor.full_name, table)


def _converter(field: FieldDescriptor) -> Callable[[Any], Any]:
    nested = field.message_type
    if nested is None:
        return int if field.type in _WHOLE else _same
    if nested.full_name == "google.protobuf.DoubleValue":
        return lambda value: {"value": value}
    if nested.GetOptions().map_entry:
        convert = _converter(nested.fields_by_name["value"])
        return lambda value: {key: convert(item) for key, item in value.items()}
    if field.is_repeated:
        return lambda value: [_plain(nested, item) for item in value]
    return lambda value: _plain(nested, value)


def _same(value: Any) -> Any:
    return value
