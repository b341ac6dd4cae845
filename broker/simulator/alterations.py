"""What becomes of a live frame on its way into a connection's outbox while faults alter frames. No socket, no clock.

`EDITS` change what a frame says, in place; then it may be held back, cut short or doubled. What is put out is what was sent: the
ledger has a doubled frame twice, a padded one with its padding, and one cut short as bytes that carry no update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from broker.simulator.faults import (
    Altering,
    Duplicate,
    Faults,
    NewerSchema,
    Oversized,
    Partial,
    Reorder,
    Truncated,
    UnknownKeys,
    Zeroes,
)
from broker.upstox import MarketDataFeedV3_pb2 as pb

NEWER_TAG = b"\xc2\x3e"
"""Begins field 1000, of bytes: one that no schema has yet."""
NEWER = NEWER_TAG + b"\x05newer"


class Outgoing(NamedTuple):
    """Bytes to send, and the frame they encode; None: no parser takes them."""

    content: bytes
    frame: pb.FeedResponse | None


# --- edits: change the frame in place, say whether there was something to change --------------------------------------


def _add_key(fault: UnknownKeys, frame: pb.FeedResponse) -> bool:
    if fault.key in frame.feeds:
        return False
    frame.feeds[fault.key].CopyFrom(frame.feeds[min(frame.feeds)])
    return True


def _add_fields(fault: NewerSchema, frame: pb.FeedResponse) -> bool:
    for feed in frame.feeds.values():
        for message in _messages(feed):
            message.MergeFromString(NEWER)
    frame.MergeFromString(NEWER)
    return True


def _messages(feed: pb.Feed) -> list[Any]:
    """A feed and what it is made of."""
    found: list[Any] = [feed]
    for message in found:
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                found.extend(value if field.is_repeated else [value])
    return found


def _keep_group(fault: Partial, frame: pb.FeedResponse) -> bool:
    changed = False
    for feed in frame.feeds.values():
        union = feed.fullFeed.WhichOneof("FullFeedUnion") if feed.WhichOneof("FeedUnion") == "fullFeed" else None
        if union is None or (union == "indexFF" and fault.keep == "depth"):
            continue
        full: Any = getattr(feed.fullFeed, union)
        kept = "marketLevel" if fault.keep == "depth" else "ltpc"
        for field, _ in full.ListFields():
            if field.name != kept:
                full.ClearField(field.name)
                changed = True
    return changed


def _put_zeroes(fault: Zeroes, frame: pb.FeedResponse) -> bool:
    changed = False
    for feed in frame.feeds.values():
        if feed.WhichOneof("FeedUnion") == "fullFeed" and feed.fullFeed.WhichOneof("FullFeedUnion") == "marketFF":
            market = feed.fullFeed.marketFF
            market.oi = market.iv = market.tbq = market.tsq = 0.0
            if market.marketLevel.bidAskQuote:
                market.marketLevel.bidAskQuote[0].bidP = 0.0
            changed = True
    return changed


def _pad(fault: Oversized, frame: pb.FeedResponse) -> bool:
    frame.MergeFromString(NEWER_TAG + _varint(fault.size) + bytes(fault.size))
    return True


def _varint(number: int) -> bytes:
    """A length as the wire has it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


EDITS: dict[type[Altering], Callable[[Any, pb.FeedResponse], bool]] = {
    Partial: _keep_group,
    Zeroes: _put_zeroes,
    UnknownKeys: _add_key,
    NewerSchema: _add_fields,
    Oversized: _pad,
}


class Alterations:
    """Alters the live frames of every connection."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._held: dict[int, pb.FeedResponse] = {}

    def outgoing(self, connection: int, frame: pb.FeedResponse, now: float) -> list[Outgoing]:
        """What is to be sent to a connection in place of this live frame, in this order; [] while it is held back.

        Args:
            connection: its number.
            frame: not empty; may be changed.
            now: seconds of the clock that faults were begun with.
        """
        for kind, edit in EDITS.items():
            if (fault := self._due(kind, now)) is not None and edit(fault, frame):
                self._faults.happen(fault)
        held = self._held.get(connection)
        if held is None:
            if (fault := self._due(Reorder, now)) is None:
                return self._sent(frame, now)
            self._faults.spend(fault)
            self._held[connection] = frame
            return []
        if not held.feeds.keys() & frame.feeds.keys():
            return self._sent(frame, now)
        del self._held[connection]
        self._faults.happened["reorder"] += 1
        return [*self._sent(frame, now), Outgoing(held.SerializeToString(), held)]

    def forget(self, connection: int) -> None:
        """Drop what was held back for a connection that has ended."""
        self._held.pop(connection, None)

    def _due(self, kind: type[Any], now: float) -> Any:
        fault = self._faults.in_force(kind, now)
        return fault if fault is not None and self._faults.is_due(fault) else None

    def _sent(self, frame: pb.FeedResponse, now: float) -> list[Outgoing]:
        content = frame.SerializeToString()
        if (cut := self._due(Truncated, now)) is not None:
            self._faults.happen(cut)
            return [Outgoing(_cut_short(content), None)]
        out = [Outgoing(content, frame)]
        if (twice := self._due(Duplicate, now)) is not None:
            self._faults.happen(twice)
            if twice.new_frame:
                later = pb.FeedResponse()
                later.CopyFrom(frame)
                later.currentTs += 1
                out.append(Outgoing(later.SerializeToString(), later))
            else:
                out.append(out[0])
        return out


def _cut_short(content: bytes) -> bytes:
    """The first half, less what makes it a frame by chance. One byte less than any whole frame is none: it ends within a number."""
    half = content[: len(content) // 2]
    try:
        pb.FeedResponse.FromString(half)
    except Exception:
        return half
    return content[:-1]
