"""What clients are sent, as JSON: the only place that knows the bytes of quotes, candles, chains, frames, pushes and replies. Pure.

A quote is encoded once, by the feed, into a `QuoteEntry`; hubs and REST join its parts and encode nothing of it again.
What clients say is in `commands`, how they are refused in `client_errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from marketdata.domain.candle import Candle
from marketdata.domain.chain_rows import SIDE_COLUMNS, Aggregate, Row
from marketdata.domain.gap import GapNotice
from marketdata.domain.quote import FIELDS, Quote

PROTOCOL_VERSION = 1
SUBPROTOCOL = "tradingok.v1"
FRAME_BYTES = 65_536
"""Length at which a list of ticks is continued in another frame; the longest is this and one tick. A slow line takes a piece at a time."""

LTPC, FULL, FULL_DEPTH = 0, 1, 2
"""What of a quote a client gets: the last price, the whole, the whole with the levels."""
MODES: dict[str, int] = {"ltpc": LTPC, "full": FULL}
MODE_NAMES = {number: name for name, number in MODES.items()}

_encode = msgspec.json.Encoder(enc_hook=int).encode
"""Int64, as MongoDB's driver gives integers, is the one foreign type that may come by."""


class QuoteEntry(NamedTuple):
    """One quote, encoded.

    The quote of mode "ltpc" is `head + b"}"`; of mode "full" `head + tail + b"}"`; with depth `head + tail + depth + b"}"`.

    Attributes:
        instrument: our instrument id.
        key: the broker's instrument key.
        seq: counts changes within the epoch.
        broker_ms: broker's clock, ms UTC.
        head: `{"last_price":…,"last_quantity":…,"last_trade_ms":…,"previous_close":…,"broker_ms":…`, unclosed.
        tail: `,"volume":…` and the rest of the full mode.
        depth: `,"depth":[[bid_price,bid_quantity,ask_price,ask_quantity],…]`, b"" when no level is known.
        depth_changed: whether the depth differs from the entry before.
    """

    instrument: int
    key: str
    seq: int
    broker_ms: int
    head: bytes
    tail: bytes
    depth: bytes
    depth_changed: bool


HEAD_FIELDS = ("last_price", "last_quantity", "last_trade_ms", "previous_close")
TAIL_FIELDS = tuple(name for name in FIELDS if name not in HEAD_FIELDS)

_Head = msgspec.defstruct("_Head", [*HEAD_FIELDS, "broker_ms"], gc=False)
_Tail = msgspec.defstruct("_Tail", list(TAIL_FIELDS), gc=False)
if FIELDS[:4] != ("last_trade_ms", "last_price", "last_quantity", "previous_close"):
    raise AssertionError("quote_entry reads Quote.values by position")


def quote_entry(quote: Quote, key: str, depth_changed: bool, previous: QuoteEntry | None = None) -> QuoteEntry:
    """Encode a quote for clients. Called once per changed quote and window.

    Args:
        quote: the merged state.
        key: the broker's instrument key.
        depth_changed: whether the levels differ from the entry before.
        previous: the instrument's entry before; its levels are taken over when they did not change, instead of being read again.

    Returns:
        An entry that is whole by itself: it holds the levels whether or not they changed.
    """
    values = quote.values
    head = _encode(_Head(values[1], values[2], values[0], values[3], quote.broker_ms))
    tail = _encode(_Tail(*values[4:]))
    if previous is not None and not depth_changed:
        depth = previous.depth
    elif quote.depth:
        depth = b',"depth":%b' % _encode(quote.depth.levels())
    else:
        depth = b""
    return QuoteEntry(quote.instrument, key, quote.seq, quote.broker_ms, head[:-1], b",%b" % tail[1:-1], depth, depth_changed)


def quote_json(entry: QuoteEntry, kind: int) -> bytes:
    """Return the quote of an entry as JSON: `kind` is LTPC, FULL or FULL_DEPTH."""
    if kind == LTPC:
        return entry.head + b"}"
    if kind == FULL:
        return entry.head + entry.tail + b"}"
    return entry.head + entry.tail + entry.depth + b"}"


def latest_json(entry: QuoteEntry, mode: str, now_ms: int) -> bytes:
    """Return one item of REST's latest quotes: `{"key":…,"instrument":…,"seq":…,"age_ms":…,"quote":{…}}`.

    Args:
        entry: the encoded quote.
        mode: "ltpc" or "full"; "full" has the levels.
        now_ms: our clock, ms UTC; the age is counted from the broker's clock and never below 0.
    """
    quote = quote_json(entry, FULL_DEPTH if mode == "full" else LTPC)
    age = max(0, now_ms - entry.broker_ms)
    return b'{"key":%b,"instrument":%d,"seq":%d,"age_ms":%d,"quote":%b}' % (_encode(entry.key), entry.instrument, entry.seq, age, quote)


def tick_fragment(entry: QuoteEntry, kind: int) -> bytes:
    """Return `["KEY",seq,{quote}]`: one tick of a `market:tick` frame, the same bytes for every client of that kind."""
    return b"[%b,%d,%b]" % (_encode(entry.key), entry.seq, quote_json(entry, kind))


def tick_frames(n: int, fragments: Sequence[bytes]) -> list[bytes]:
    """Join ticks into `market:tick` frames numbered from `n`, none longer than FRAME_BYTES and one tick.

    Args:
        n: number of the first frame on this connection.
        fragments: made by `tick_fragment`; none gives no frame.
    """
    if not fragments:
        return []
    if sum(map(len, fragments)) < FRAME_BYTES:
        return [_tick_frame(n, fragments)]
    frames: list[bytes] = []
    start = size = 0
    for position, fragment in enumerate(fragments):
        size += len(fragment) + 1
        if size >= FRAME_BYTES:
            frames.append(_tick_frame(n + len(frames), fragments[start : position + 1]))
            start, size = position + 1, 0
    if size:
        frames.append(_tick_frame(n + len(frames), fragments[start:]))
    return frames


def _tick_frame(n: int, fragments: Sequence[bytes]) -> bytes:
    return b'{"event":"market:tick","n":%d,"ticks":[%b]}' % (n, b",".join(fragments))


# --- candles --------------------------------------------------------------------------------------------------------------
def candle_fragment(candle: Candle) -> bytes:
    """Return `"candle":[t,o,h,l,c,v,oi],"state":"…","revision":n`: what every push of a candle says of it, without braces."""
    return b'"candle":%b,"state":"%b","revision":%d' % (_encode(candle[2:9]), candle.state.encode(), candle.revision)


def ohlc_push(key: str, interval: str, seq: int, fragment: bytes) -> bytes:
    """Return the push of one changed candle; `fragment` is made by `candle_fragment`."""
    return b'{"event":"market:ohlc","key":%b,"interval":"%b","seq":%d,%b}' % (_encode(key), interval.encode(), seq, fragment)


def ohlc_snapshot_push(key: str, interval: str, seq: int, fragments: Iterable[bytes]) -> bytes:
    """Return the push that replaces all the client has of a channel; oldest first."""
    candles = b",".join(b"{%b}" % fragment for fragment in fragments)
    head = (_encode(key), interval.encode(), seq, candles)
    return b'{"event":"market:ohlc","key":%b,"interval":"%b","seq":%d,"snapshot":true,"candles":[%b]}' % head


# --- option chains --------------------------------------------------------------------------------------------------------
def chain_row_fragment(row: Row) -> bytes:
    """Return `[strike,[call…],[put…]]`, the sides by SIDE_COLUMNS, null where one is not listed."""
    return _encode((row.strike_price, row.call, row.put))


def chain_push(channel: str, expiry: str, seq: int, market_ms: int, aggregate: Aggregate, rows: Iterable[bytes]) -> bytes:
    """Return the push of the strikes that have changed, made by `chain_row_fragment`, and of the whole's figures."""
    head = (_encode(channel), expiry.encode(), seq, market_ms, _encode(aggregate._asdict()), b",".join(rows))
    return b'{"event":"market:chain","channel":%b,"expiry":"%b","seq":%d,"market_ms":%d,"aggregate":%b,"rows":[%b]}' % head


def chain_snapshot_push(channel: str, expiry: str, seq: int, market_ms: int, aggregate: Aggregate, rows: Iterable[bytes]) -> bytes:
    """Return the push that replaces all the client has of a channel; strikes ascending."""
    head = (_encode(channel), expiry.encode(), seq, market_ms, _encode(SIDE_COLUMNS), _encode(aggregate._asdict()), b",".join(rows))
    return (
        b'{"event":"market:chain","channel":%b,"expiry":"%b","seq":%d,"market_ms":%d,"snapshot":true,"columns":%b,'
        b'"aggregate":%b,"rows":[%b]}' % head
    )


# --- entries at rest ----------------------------------------------------------------------------------------------------
_pack = msgspec.msgpack.Encoder(enc_hook=int).encode
_unpack_stamped = msgspec.msgpack.Decoder(tuple[int, QuoteEntry]).decode


def entry_pack(entry: QuoteEntry, epoch: int = 0) -> bytes:
    """Pack an entry with the epoch that its seq belongs to (0 = unknown, older than any)."""
    return _pack((epoch, entry))


def entry_unpack(packed: bytes) -> tuple[int, QuoteEntry]:
    """Return epoch and entry as `entry_pack` packed them.

    Raises:
        ValueError: the bytes are not such an entry; not worth a retry.
    """
    try:
        return _unpack_stamped(packed)
    except msgspec.DecodeError as error:
        raise ValueError("not a packed quote entry") from error


# --- replies --------------------------------------------------------------------------------------------------------------
class ItemResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item of a subscribe command.

    Attributes:
        key: the instrument's key where it is known, else the item as it was asked for.
        item: the item as it was asked for.
        status: "active", "accepted" or "error".
        instrument: our instrument id.
        code: the error's number.
        message: the error in a sentence.
        field: the field of the command that named the item, where that is not `instruments`.
    """

    key: str
    item: str
    status: str
    instrument: int | None = None
    code: int | None = None
    message: str | None = None
    field: str | None = None


def subscribe_reply(command: int, results: Sequence[ItemResult]) -> bytes:
    """Return the reply to subscribe: one result per item, in the order asked."""
    return _encode({"id": command, "op": "subscribe", "results": results})


def list_reply(command: int, op: str, subscriptions: Iterable[tuple[str, int, int]], channels: Iterable[str]) -> bytes:
    """Return the reply to list and unsubscribe: what is followed now.

    Args:
        command: the command's id.
        op: "list" or "unsubscribe".
        subscriptions: key, instrument id and kind (LTPC or FULL) of each.
        channels: names, as subscribed.
    """
    items = [{"key": key, "instrument": instrument, "mode": MODE_NAMES[kind]} for key, instrument, kind in subscriptions]
    return _encode({"id": command, "op": op, "instruments": items, "channels": list(channels)})


def resume_reply(command: int, epoch: int, results: Sequence[ItemResult]) -> bytes:
    """Return the reply to resume; the quotes of those that moved follow as `market:tick`."""
    return _encode({"id": command, "op": "resume", "epoch": epoch, "results": results})


def pong_reply(command: int, time_ms: int) -> bytes:
    """Return the reply to ping."""
    return b'{"id":%d,"op":"pong","time":%d}' % (command, time_ms)


# --- pushes ---------------------------------------------------------------------------------------------------------------
class FeedView(NamedTuple):
    """The feed as one process sees it.

    Attributes:
        state: a FeedState.
        since_ms: when that began, ms UTC; None before anything is known.
        data_ms: broker's clock of the newest frame, ms UTC; None before the first.
        age_ms: time since the last quotes came to this process; None before the first.
        scope: "all", or the shards that are in this state: "shard:0,2".
        detail: one sentence for a person, or "".
        epoch: the newest epoch of all shards; 0 before the first.
    """

    state: str
    since_ms: int | None
    data_ms: int | None
    age_ms: int | None
    scope: str
    detail: str
    epoch: int


def hello_push(*, limits: Mapping[str, float], feed: FeedView, segments: Mapping[str, str], time_ms: int) -> bytes:
    """Return the first frame of a connection."""
    return _encode(
        {
            "event": "hello",
            "protocol": PROTOCOL_VERSION,
            "epoch": feed.epoch,
            "limits": limits,
            "feed": feed._asdict(),
            "market": segments,
            "time": time_ms,
        }
    )


def feed_status_push(feed: FeedView) -> bytes:
    """Return the push for a changed feed state."""
    return _encode({"event": "feed:status", **feed._asdict()})


def market_status_push(segments: Mapping[str, str], time_ms: int) -> bytes:
    """Return the push for changed segments: all of them, by name."""
    return _encode({"event": "market:status", "time": time_ms, "segments": segments})


def subscription_push(key: str, instrument: int, status: str, reason: str | None, follows: str | None = None) -> bytes:
    """Return the push that tells what became of a followed instrument.

    Args:
        status: "active" or "no_data" after it was accepted; "expired" or "removed" when it is followed no more.
        reason: why, for a person.
        follows: key of the contract that takes its place, where one does.
    """
    told = {"event": "subscription", "key": key, "instrument": instrument, "status": status, "reason": reason, "follows": follows}
    return _encode(told)


def chain_subscription_push(channel: str, missing: int, wanted: int, reason: str | None) -> bytes:
    """Return the push that tells of how many of the instruments that a chain's channel wants nothing comes; "active" when of none any more.

    Args:
        reason: why, for a person; None when nothing is missing.
    """
    status = "no_data" if missing else "active"
    told = {"event": "subscription", "key": channel, "instrument": None, "status": status, "reason": reason, "follows": None}
    return _encode(told | {"missing": missing, "wanted": wanted})


def universe_push(at_ms: int, causes: Sequence[str], entered: Mapping[str, str], left: Mapping[str, str]) -> bytes:
    """Return the push that tells what the feed follows from now on, and what no more: key → mode, key → why."""
    return _encode({"event": "universe", "at": at_ms, "causes": causes, "entered": entered, "left": left})


def gap_push(gap: GapNotice, keys: Sequence[str] | None) -> bytes:
    """Return the push for a hole that is known now, or whose healing has moved.

    Args:
        gap: the hole.
        keys: of the instruments concerned, those that the client follows; None when all may be.
    """
    return _encode(
        {
            "event": "gap",
            "gap": gap.gap,
            "from": gap.start_ms,
            "to": gap.end_ms,
            "cause": gap.cause,
            "heal_state": gap.heal_state,
            "heal_detail": gap.heal_detail,
            "candles_healed": gap.candles_healed,
            "keys": keys,
        }
    )


def heartbeat_push(*, time_ms: int, lag_ms: int, merged: int, dropped: int) -> bytes:
    """Return the sign of life of a quiet connection, with what back-pressure has done to it so far."""
    return b'{"event":"heartbeat","time":%d,"lag_ms":%d,"merged":%d,"dropped":%d}' % (time_ms, lag_ms, merged, dropped)


def bye_push(code: int, *, reconnect_after_ms: int | None) -> bytes:
    """Return the last frame before a deliberate close; None = do not come back."""
    return _encode({"event": "bye", "code": code, "reconnect": reconnect_after_ms is not None, "after_ms": reconnect_after_ms})
