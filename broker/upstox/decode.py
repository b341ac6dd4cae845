"""Bytes of the broker's feed to domain objects: the end of the broker's abbreviations. Pure; protobuf by attribute access.

Every object that protobuf makes costs time, so bars and greeks stay bytes until they are needed: the last finished minute comes with
each update and is the same one for a minute, of the day's bar only three figures are wanted, and five greeks without a zero are five
doubles at known places. What that is worth: docs/performance.md.

Zero against absent: proto3 leaves zeroes out, so a bare 0 may mean "not sent". A figure that comes in a group that was
sent is a real 0 (volume beside a last price, quantities beside levels); alone it is None. A last price of 0 is a contract
that never traded: None. See FACTS §3.6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.protocol import ProtocolViolation
from marketdata.domain.candle import Candle
from marketdata.domain.tick import MAX_RANK, NO_DEPTH, Depth, Level, Tick, TickKind

EARLIEST_MS = 1_577_836_800_000
LATEST_MS = 4_102_444_800_000
"""2020-01-01 and 2100-01-01: a time outside is no time, and would not fit the ids that are made of times."""
DAY_MS = 86_400_000
"""A trade more than a day past its own frame's time is none: one such time would make every later trade an old one."""

_STATUS = pb.MarketStatus.Name
_LIVE = pb.live_feed
_MARKET_INFO = pb.market_info
_new = tuple.__new__
"""Makes a NamedTuple of a ready tuple, without the detour of its own constructor."""


_AS_BYTES = {("MarketFullFeed", "marketOHLC"), ("IndexFullFeed", "marketOHLC"), ("MarketOHLC", "ohlc"), ("MarketFullFeed", "optionGreeks")}


def _with_fields_as_bytes() -> DescriptorPool:
    """Return the schema, differing in one thing: these messages are bytes, as a nested message lies on the wire anyway."""
    schema = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(schema)
    for message in schema.message_type:
        for field in message.field:
            if (message.name, field.name) in _AS_BYTES:
                field.type = field.TYPE_BYTES
                field.ClearField("type_name")
    pool = DescriptorPool()
    for needed in pb.DESCRIPTOR.dependencies:
        pool.AddSerializedFile(needed.serialized_pb)
    pool.AddSerializedFile(schema.SerializeToString())
    return pool


_pool = _with_fields_as_bytes()
_parse = cast(
    "Callable[[bytes], pb.FeedResponse]", GetMessageClass(_pool.FindMessageTypeByName(pb.FeedResponse.DESCRIPTOR.full_name)).FromString
)
_parse_bars: Any = GetMessageClass(_pool.FindMessageTypeByName(pb.MarketOHLC.DESCRIPTOR.full_name)).FromString
_parse_bar = pb.OHLC.FromString
_parse_greeks = pb.OptionGreeks.FromString
_BAR_TAG = 0x0A
_day_layout = struct.Struct("<5sdBdBd").unpack_from
"""How every writer of protobuf lays out a day's bar without zeroes: interval, open, high, low. Otherwise it is parsed."""
_first_day_layout = struct.Struct("<BB5sdBdBd").unpack_from
"""The same with the bar's own tag and size before it."""
_OTHER_LAYOUT: tuple[int, int, bytes, None, int, None, int, None] = (0, -1, b"", None, 0, None, 0, None)
_DAY_HEAD, _HIGH_TAG, _LOW_TAG = b"\n\x021d\x11", 0x19, 0x21
_DAY_BYTES = 32
_greeks_layout = struct.Struct("<xdxdxdxdxd").unpack
"""The same of five greeks, each behind its tag."""
_GREEKS_BYTES, _GREEKS_TAGS = 45, b"\t\x11\x19!)"


class Frame(NamedTuple):
    """One frame of the feed.

    Attributes:
        broker_ms: broker's clock, ms UTC · wire `currentTs`; 0 where the frame had none, or an implausible one.
        kind: snapshot or live; None for a frame with only market info.
        ticks: one an instrument, by rank.
        bars: the broker's own finished 1-minute bars of these instruments, as "confirmed" candles; those that were not seen before.
        segments: segment → status name; empty unless the frame is a market info.
        unknown: keys that `instruments` did not name, in byte order; they have no tick here.
        auctions: "NSE_EQ:CAS" (the closing auction) or "NSE_EQ:PRE" (the pre-open) → (status name, since when in ms UTC); empty unless
            a market info tells of them · wire `casMarketStatus`, `preOpenSessionStatus`; what has no plausible time is left out.
    """

    broker_ms: int
    kind: TickKind | None
    ticks: list[Tick]
    bars: list[Candle]
    segments: dict[str, str]
    unknown: tuple[str, ...]
    auctions: Mapping[str, tuple[str, int]] = {}


class WireDepth(Depth):
    """Levels still in protobuf: a tuple of the one message. Equal where its levels are."""

    __slots__ = ()

    def levels(self) -> tuple[Level, ...]:
        """Return the levels, best first; a side without price and quantity is None."""
        quotes = self[0].bidAskQuote
        return tuple([Level(quote.bidP or None, quote.bidQ or None, quote.askP or None, quote.askQ or None) for quote in quotes])


def decode(data: bytes, instruments: Mapping[str, int], minutes: dict[int, bytes] | None = None) -> Frame:
    """Decode one frame.

    Args:
        data: the WebSocket message as it came.
        instruments: the broker's key → our instrument id.
        minutes: instrument id → its last finished minute, as the wire has it; kept here from call to call, so that a bar is
            given once, and again when it changes. Without it every bar is given.

    Returns:
        The frame; ticks in order of rank. The same bytes and maps give the same frame in every process.

    Raises:
        ProtocolViolation: the bytes are no FeedResponse, or hold more keys than a tick's id can tell apart; final.
    """
    try:
        response = _parse(data)
    except DecodeError as error:
        raise ProtocolViolation(f"a frame of {len(data)} bytes is no FeedResponse") from error
    kind = response.type
    broker_ms = _time(response.currentTs, LATEST_MS) or 0
    latest_ms = min(broker_ms + DAY_MS, LATEST_MS) if broker_ms else LATEST_MS
    feeds = response.feeds
    segments: dict[str, str] = {}
    auctions: dict[str, tuple[str, int]] = {}
    if response.HasField("marketInfo"):
        info = response.marketInfo
        segments = {name: _status_name(value) for name, value in info.segmentStatus.items()}
        auctions = _auctions(info.casMarketStatus, ":CAS") | _auctions(info.preOpenSessionStatus, ":PRE")
    if not feeds:
        return Frame(broker_ms, None if kind == _MARKET_INFO or segments else _kind(kind), [], [], segments, (), auctions)
    if len(feeds) > MAX_RANK:
        raise ProtocolViolation(f"a frame holds {len(feeds)} keys, more than {MAX_RANK}")
    ticks: list[Tick] = []
    bars: list[Candle] = []
    if minutes is None:
        minutes = {}
    unknown: list[str] = []
    for rank, key in enumerate(sorted(feeds)):  # str order is byte order in UTF-8
        instrument = instruments.get(key)
        if instrument is None:
            unknown.append(key)
            continue
        feed = feeds[key]
        market = feed.fullFeed.marketFF  # for what is not there protobuf gives an empty message
        ltpc = market.ltpc
        traded_ms = ltpc.ltt
        if traded_ms or feed.fullFeed.HasField("marketFF"):
            ticks.append(_market_tick(instrument, rank, market, ltpc, traded_ms, latest_ms, minutes, bars))
            continue
        union = feed.WhichOneof("FeedUnion")
        if union == "fullFeed":
            ticks.append(_index_tick(instrument, rank, feed.fullFeed.indexFF, latest_ms, minutes, bars))
        elif union == "firstLevelWithGreeks":
            ticks.append(_greeks_tick(instrument, rank, feed.firstLevelWithGreeks, latest_ms))
        else:
            ticks.append(_price_tick(instrument, rank, feed.ltpc, latest_ms))
    return Frame(broker_ms, _kind(kind), ticks, bars, segments, tuple(unknown), auctions)


def _time(wire: int, latest_ms: int) -> int | None:
    """Return a time of the wire, None where it was not sent or is implausible."""
    return wire if EARLIEST_MS < wire < latest_ms else None


def _kind(wire: int) -> TickKind:
    return TickKind.LIVE if wire == _LIVE else TickKind.SNAPSHOT


def _status_name(value: pb.MarketStatus.ValueType) -> str:
    try:
        return _STATUS(value)
    except ValueError:  # a status that a newer schema knows
        return f"STATUS_{value}"


def _auctions(statuses: Mapping[str, pb.StatusInfo], suffix: str) -> dict[str, tuple[str, int]]:
    times = ((name, info.status, _time(info.updatedTime, LATEST_MS)) for name, info in statuses.items())
    return {name + suffix: (status, since_ms) for name, status, since_ms in times if status and since_ms is not None}


_Day = tuple[float | None, float | None, float | None]
"""The day's open, high, low."""


def _bars(instrument: int, wires: bytes, open_interest: float | None, minutes: dict[int, bytes], out: list[Candle]) -> _Day:
    """Append the finished minute to `out` if it is new; return the day's figures. An empty bar (before the first trade) is none, nor is
    one whose bytes are no bar."""
    day: _Day = (None, None, None)
    seen = minutes.get(instrument)
    try:
        each = _parse_bars(wires).ohlc
    except DecodeError:
        return day
    for wire in each:
        if wire == seen:
            continue
        if len(wire) >= _DAY_BYTES:
            head, day_open, high_tag, day_high, low_tag, day_low = _day_layout(wire)
            if head == _DAY_HEAD and high_tag == _HIGH_TAG and low_tag == _LOW_TAG:
                day = (day_open, day_high, day_low)
                continue
        try:
            bar = _parse_bar(wire)
        except DecodeError:  # of this instrument alone: its tick and the rest of the frame stand
            continue
        if bar.interval == "I1":
            minutes[instrument] = wire
            if _time(bar.ts, LATEST_MS) is not None:
                values = (instrument, "1m", bar.ts, bar.open, bar.high, bar.low, bar.close, bar.vol, open_interest, "confirmed", 0, None)
                out.append(_new(Candle, values))
        elif bar.interval == "1d":
            day = (bar.open or None, bar.high or None, bar.low or None)
    return day


def _market_tick(
    instrument: int,
    rank: int,
    feed: Any,  # a MarketFullFeed with bytes in it
    ltpc: pb.LTPC,
    traded_ms: int,
    latest_ms: int,
    minutes: dict[int, bytes],
    bars: list[Candle],
) -> Tick:
    open_interest = feed.oi or None
    wires = feed.marketOHLC
    seen = minutes.get(instrument, b"")
    day_size = len(wires) - len(seen) - 4
    minute = day_size + 2  # where its tag and size are
    usual = seen and day_size >= _DAY_BYTES and wires.endswith(seen) and wires[minute] == _BAR_TAG and wires[minute + 1] == len(seen)
    tag, size, head, day_open, high_tag, day_high, low_tag, day_low = _first_day_layout(wires) if usual else _OTHER_LAYOUT
    if size != day_size or tag != _BAR_TAG or head != _DAY_HEAD or high_tag != _HIGH_TAG or low_tag != _LOW_TAG:
        day_open, day_high, day_low = _bars(instrument, wires, open_interest, minutes, bars)  # not just the day and a minute that is known
    greeks = feed.optionGreeks
    delta, theta, gamma, vega, rho = (
        _greeks_layout(greeks) if len(greeks) == _GREEKS_BYTES and greeks[::9] == _GREEKS_TAGS else _greeks_of(greeks)
    )
    bid_price: float | None
    bid_quantity: int | None
    ask_price: float | None
    ask_quantity: int | None
    total_buy: float | None = feed.tbq
    total_sell: float | None = feed.tsq
    bid_price = bid_quantity = ask_price = ask_quantity = None
    depth: Depth = NO_DEPTH
    level = feed.marketLevel
    quotes = level.bidAskQuote
    if quotes:
        depth = _new(WireDepth, (level,))
        best = quotes[0]
        bid_price = best.bidP or None
        bid_quantity = best.bidQ or None
        ask_price = best.askP or None
        ask_quantity = best.askQ or None
    elif feed.HasField("marketLevel"):
        depth = _new(WireDepth, (level,))
    else:
        total_buy = total_buy or None
        total_sell = total_sell or None
    if traded_ms or feed.HasField("ltpc"):
        return _new(
            Tick,
            (
                instrument, rank, traded_ms if EARLIEST_MS < traded_ms < latest_ms else None, ltpc.ltp or None, ltpc.ltq,
                ltpc.cp or None, feed.vtt, feed.atp or None, open_interest,
                feed.iv or None, delta, theta, gamma, vega, rho, bid_price, bid_quantity, ask_price, ask_quantity, total_buy, total_sell,
                day_open, day_high, day_low, depth,
            ),
        )  # fmt: skip
    return Tick(
        instrument, rank, None, None, None, None, feed.vtt or None, feed.atp or None, open_interest,
        feed.iv or None, delta, theta, gamma, vega, rho, bid_price, bid_quantity, ask_price, ask_quantity, total_buy, total_sell,
        day_open, day_high, day_low, depth,
    )  # fmt: skip


_Greeks = tuple[float | None, float | None, float | None, float | None, float | None]
_NO_GREEKS: _Greeks = (None, None, None, None, None)


def _greeks_of(wire: bytes) -> _Greeks:
    """Return delta, theta, gamma, vega, rho; all None where they were not sent, or empty (equities and futures), or are none."""
    if not wire:
        return _NO_GREEKS
    try:
        greeks = _parse_greeks(wire)
    except DecodeError:
        return _NO_GREEKS
    values = (greeks.delta, greeks.theta, greeks.gamma, greeks.vega, greeks.rho)
    return values if any(values) else _NO_GREEKS


_UNSAID: tuple[None, None, None, None, None, None, None, None, None, None, None, None, None, None, None] = (None,) * 15
"""The fields from volume to total_sell_quantity, where the wire has none of them."""


def _index_tick(instrument: int, rank: int, feed: Any, latest_ms: int, minutes: dict[int, bytes], bars: list[Candle]) -> Tick:
    ltpc = feed.ltpc
    day = _bars(instrument, feed.marketOHLC, None, minutes, bars)
    return Tick(
        instrument, rank, _time(ltpc.ltt, latest_ms), ltpc.ltp or None, None, ltpc.cp or None, *_UNSAID, day[0], day[1], day[2], NO_DEPTH
    )


def _greeks_tick(instrument: int, rank: int, feed: pb.FirstLevelWithGreeks, latest_ms: int) -> Tick:
    ltpc, best, greeks = feed.ltpc, feed.firstDepth, feed.optionGreeks
    priced = feed.HasField("optionGreeks") and bool(greeks.delta or greeks.theta or greeks.gamma or greeks.vega or greeks.rho)
    return Tick(
        instrument, rank, _time(ltpc.ltt, latest_ms), ltpc.ltp or None, ltpc.ltq if ltpc.ltt else None, ltpc.cp or None,
        feed.vtt if ltpc.ltt else feed.vtt or None, None, feed.oi or None, feed.iv or None,
        greeks.delta if priced else None, greeks.theta if priced else None, greeks.gamma if priced else None,
        greeks.vega if priced else None, greeks.rho if priced else None,
        best.bidP or None, best.bidQ or None, best.askP or None, best.askQ or None, None, None, None, None, None, NO_DEPTH,
    )  # fmt: skip


def _price_tick(instrument: int, rank: int, ltpc: pb.LTPC, latest_ms: int) -> Tick:
    return Tick(
        instrument, rank, _time(ltpc.ltt, latest_ms), ltpc.ltp or None, ltpc.ltq or None, ltpc.cp or None, *_UNSAID,
        None, None, None, NO_DEPTH,
    )  # fmt: skip
