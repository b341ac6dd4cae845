"""Bytes of the broker's feed to domain objects: the end of the broker's abbreviations. Pure; protobuf by attribute access.

Zero against absent: proto3 leaves zeroes out, so a bare 0 may mean "not sent". A figure that comes in a group that was
sent is a real 0 (volume beside a last price, quantities beside levels); alone it is None. A last price of 0 is a contract
that never traded: None. See FACTS §3.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from broker.upstox import MarketDataFeedV3_pb2 as pb
from broker.upstox.protocol import ProtocolViolation
from marketdata.domain.candle import Candle
from marketdata.domain.tick import MAX_RANK, NO_DEPTH, Depth, Level, Tick, TickKind

INTERVALS = {"I1": "1m", "1d": "1d"}
"""The broker's interval names in `marketOHLC` → ours. FACTS §3.6, read 2026-11-22."""

EARLIEST_MS = 1_577_836_800_000
LATEST_MS = 4_102_444_800_000
"""2020-01-01 and 2100-01-01: a time outside is no time, and would not fit the ids that are made of times."""

_STATUS = pb.MarketStatus.Name
_LIVE = pb.live_feed
_MARKET_INFO = pb.market_info
_parse = pb.FeedResponse.FromString


class Frame(NamedTuple):
    """One frame of the feed.

    Attributes:
        broker_ms: broker's clock, ms UTC · wire `currentTs`; 0 where the frame had none, or an implausible one.
        kind: snapshot or live; None for a frame with only market info.
        ticks: one an instrument, by rank.
        bars: the broker's own finished 1-minute bars of these instruments, as "confirmed" candles.
        segments: segment → status name; empty unless the frame is a market info.
        unknown: keys that `instruments` did not name, in byte order; they have no tick here.
    """

    broker_ms: int
    kind: TickKind | None
    ticks: list[Tick]
    bars: list[Candle]
    segments: dict[str, str]
    unknown: tuple[str, ...]


class WireDepth(Depth):
    """Levels still in protobuf, read when asked."""

    __slots__ = ("_level",)

    def __init__(self, level: pb.MarketLevel) -> None:
        self._level = level

    def levels(self) -> tuple[Level, ...]:
        """Return the levels, best first; a side without price and quantity is None."""
        return tuple(
            [Level(quote.bidP or None, quote.bidQ or None, quote.askP or None, quote.askQ or None) for quote in self._level.bidAskQuote]
        )

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WireDepth) and self._level == other._level

    def __hash__(self) -> int:
        return id(self)


def decode(data: bytes, instruments: Mapping[str, int]) -> Frame:
    """Decode one frame.

    Args:
        data: the WebSocket message as it came.
        instruments: the broker's key → our instrument id.

    Returns:
        The frame; ticks in order of rank. The same bytes and map give the same frame in every process.

    Raises:
        ProtocolViolation: the bytes are no FeedResponse, or hold more keys than a tick's id can tell apart; final.
    """
    try:
        response = _parse(data)
    except DecodeError as error:
        raise ProtocolViolation(f"a frame of {len(data)} bytes is no FeedResponse") from error
    kind = response.type
    broker_ms = _time(response.currentTs) or 0
    feeds = response.feeds
    segments: dict[str, str] = {}
    if response.HasField("marketInfo"):
        segments = {name: _status_name(value) for name, value in response.marketInfo.segmentStatus.items()}
    if not feeds:
        return Frame(broker_ms, None if kind == _MARKET_INFO or segments else _kind(kind), [], [], segments, ())
    if len(feeds) > MAX_RANK:
        raise ProtocolViolation(f"a frame holds {len(feeds)} keys, more than {MAX_RANK}")
    ticks: list[Tick] = []
    bars: list[Candle] = []
    unknown: list[str] = []
    for rank, key in enumerate(sorted(feeds)):  # str order is byte order in UTF-8
        instrument = instruments.get(key)
        if instrument is None:
            unknown.append(key)
            continue
        feed = feeds[key]
        union = feed.WhichOneof("FeedUnion")
        if union == "fullFeed":
            full = feed.fullFeed
            if full.HasField("marketFF"):
                ticks.append(_market_tick(instrument, rank, full.marketFF, bars))
            else:
                ticks.append(_index_tick(instrument, rank, full.indexFF, bars))
        elif union == "firstLevelWithGreeks":
            ticks.append(_greeks_tick(instrument, rank, feed.firstLevelWithGreeks))
        else:
            ticks.append(_price_tick(instrument, rank, feed.ltpc))
    return Frame(broker_ms, _kind(kind), ticks, bars, segments, tuple(unknown))


def _time(wire: int) -> int | None:
    """Return a time of the wire, None where it was not sent or is implausible."""
    return wire if EARLIEST_MS < wire < LATEST_MS else None


def _kind(wire: int) -> TickKind:
    return TickKind.LIVE if wire == _LIVE else TickKind.SNAPSHOT


def _status_name(value: pb.MarketStatus.ValueType) -> str:
    try:
        return _STATUS(value)
    except ValueError:  # a status that a newer schema knows
        return f"STATUS_{value}"


def _bars(instrument: int, bars: pb.MarketOHLC, open_interest: float | None, out: list[Candle]) -> tuple[float | None, ...]:
    """Append the finished minute to `out`; return the day's open, high, low. An empty bar (before the first trade) is none."""
    day: tuple[float | None, ...] = (None, None, None)
    for bar in bars.ohlc:
        interval = bar.interval
        if interval == "I1":
            if _time(bar.ts) is not None:
                out.append(Candle(instrument, "1m", bar.ts, bar.open, bar.high, bar.low, bar.close, bar.vol, open_interest, "confirmed"))
        elif interval == "1d" and bar.ts:
            day = (bar.open or None, bar.high or None, bar.low or None)
    return day


def _market_tick(instrument: int, rank: int, feed: pb.MarketFullFeed, bars: list[Candle]) -> Tick:
    traded = feed.HasField("ltpc")
    ltpc = feed.ltpc
    volume: int | None = feed.vtt
    open_interest: float | None = feed.oi or None
    day = _bars(instrument, feed.marketOHLC, open_interest, bars)
    if feed.HasField("optionGreeks"):
        greeks = feed.optionGreeks
        delta: float | None = greeks.delta
        theta: float | None = greeks.theta
        gamma: float | None = greeks.gamma
        vega: float | None = greeks.vega
        rho: float | None = greeks.rho
        if not (delta or theta or gamma or vega or rho):  # an empty message: equities and futures
            delta = theta = gamma = vega = rho = None
    else:
        delta = theta = gamma = vega = rho = None
    bid_price: float | None
    bid_quantity: int | None
    ask_price: float | None
    ask_quantity: int | None
    total_buy: float | None = feed.tbq
    total_sell: float | None = feed.tsq
    bid_price = bid_quantity = ask_price = ask_quantity = None
    depth: Depth = NO_DEPTH
    if feed.HasField("marketLevel"):
        level = feed.marketLevel
        depth = WireDepth(level)
        quotes = level.bidAskQuote
        if quotes:
            best = quotes[0]
            bid_price = best.bidP or None
            bid_quantity = best.bidQ or None
            ask_price = best.askP or None
            ask_quantity = best.askQ or None
    else:
        total_buy = total_buy or None
        total_sell = total_sell or None
    if traded:
        return Tick(
            instrument, rank, _time(ltpc.ltt), ltpc.ltp or None, ltpc.ltq, ltpc.cp or None, volume, feed.atp or None, open_interest,
            feed.iv or None, delta, theta, gamma, vega, rho, bid_price, bid_quantity, ask_price, ask_quantity, total_buy, total_sell,
            day[0], day[1], day[2], depth,
        )  # fmt: skip
    return Tick(
        instrument, rank, None, None, None, None, volume or None, feed.atp or None, open_interest,
        feed.iv or None, delta, theta, gamma, vega, rho, bid_price, bid_quantity, ask_price, ask_quantity, total_buy, total_sell,
        day[0], day[1], day[2], depth,
    )  # fmt: skip


_UNSAID: tuple[None, None, None, None, None, None, None, None, None, None, None, None, None, None, None] = (None,) * 15
"""The fields from volume to total_sell_quantity, where the wire has none of them."""


def _index_tick(instrument: int, rank: int, feed: pb.IndexFullFeed, bars: list[Candle]) -> Tick:
    ltpc = feed.ltpc
    day = _bars(instrument, feed.marketOHLC, None, bars)
    return Tick(instrument, rank, _time(ltpc.ltt), ltpc.ltp or None, None, ltpc.cp or None, *_UNSAID, day[0], day[1], day[2], NO_DEPTH)


def _greeks_tick(instrument: int, rank: int, feed: pb.FirstLevelWithGreeks) -> Tick:
    ltpc, best, greeks = feed.ltpc, feed.firstDepth, feed.optionGreeks
    priced = feed.HasField("optionGreeks") and bool(greeks.delta or greeks.theta or greeks.gamma or greeks.vega or greeks.rho)
    return Tick(
        instrument, rank, _time(ltpc.ltt), ltpc.ltp or None, ltpc.ltq if ltpc.ltt else None, ltpc.cp or None,
        feed.vtt if ltpc.ltt else feed.vtt or None, None, feed.oi or None, feed.iv or None,
        greeks.delta if priced else None, greeks.theta if priced else None, greeks.gamma if priced else None,
        greeks.vega if priced else None, greeks.rho if priced else None,
        best.bidP or None, best.bidQ or None, best.askP or None, best.askQ or None, None, None, None, None, None, NO_DEPTH,
    )  # fmt: skip


def _price_tick(instrument: int, rank: int, ltpc: pb.LTPC) -> Tick:
    return Tick(
        instrument, rank, _time(ltpc.ltt), ltpc.ltp or None, ltpc.ltq or None, ltpc.cp or None, *_UNSAID, None, None, None, NO_DEPTH
    )
