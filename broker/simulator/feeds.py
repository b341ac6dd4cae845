"""Figures of instruments → the broker's `Feed` messages in full form, with the quirks of FACTS §3.6. Pure."""

from __future__ import annotations

from typing import NamedTuple

from broker.upstox import MarketDataFeedV3_pb2 as pb

Side = tuple[list[float], list[int]]


class Bar1(NamedTuple):
    """A bar as the feed shows it: INR, units, `ts` ms UTC of its start; `ts` 0: there is none yet."""

    open: float
    high: float
    low: float
    close: float
    volume: int
    ts: int


class Figures(NamedTuple):
    """What a full-mode feed shows of one instrument, in the broker's own units.

    Attributes:
        greeks: delta, theta, gamma, vega, rho; None for what is not an option.
        bids, asks: five prices and five quantities, best first.
        open_interest: units; 0 where the kind has none.
    """

    last: float
    traded_ms: int
    quantity: int
    previous_close: float
    day: Bar1
    minute: Bar1
    average: float
    volume: int
    open_interest: int
    volatility: float
    greeks: tuple[float, ...] | None
    bids: Side
    asks: Side
    total_buy: int
    total_sell: int


def index_feed(last: float, traded_ms: int, previous_close: float, day: Bar1, minute: Bar1) -> pb.Feed:
    """An index: last price and bars only; no quantity, no depth, and the time of the whole second."""
    feed = pb.Feed(requestMode=pb.full_d5)
    full = feed.fullFeed.indexFF
    ltpc = full.ltpc
    ltpc.ltp, ltpc.ltt, ltpc.cp = last, traded_ms // 1000 * 1000, previous_close
    _bars(full.marketOHLC, day, minute)
    return feed


def market_feed(figures: Figures, *, partial: bool) -> pb.Feed:
    """Anything but an index. `partial` leaves out depth and greeks, as the broker's frames now and then do."""
    feed = pb.Feed(requestMode=pb.full_d5)
    full = feed.fullFeed.marketFF
    ltpc = full.ltpc
    ltpc.ltp, ltpc.ltt, ltpc.ltq, ltpc.cp = figures.last, figures.traded_ms, figures.quantity, figures.previous_close
    if not partial:
        quotes = full.marketLevel.bidAskQuote
        for bid_price, bid_quantity, ask_price, ask_quantity in zip(*figures.bids, *figures.asks, strict=True):
            quotes.add(bidP=bid_price, bidQ=bid_quantity, askP=ask_price, askQ=ask_quantity)
        greeks = full.optionGreeks
        if figures.greeks is None:
            greeks.SetInParent()
        else:
            greeks.delta, greeks.theta, greeks.gamma, greeks.vega, greeks.rho = figures.greeks
    _bars(full.marketOHLC, figures.day, figures.minute)
    full.atp, full.vtt, full.oi, full.iv = figures.average, figures.volume, figures.open_interest, figures.volatility
    full.tbq, full.tsq = figures.total_buy, figures.total_sell
    return feed


def _bars(target: pb.MarketOHLC, day: Bar1, minute: Bar1) -> None:
    add = target.ohlc.add
    add(interval="1d", open=day.open, high=day.high, low=day.low, close=day.close, vol=day.volume, ts=day.ts)
    if minute.ts:
        add(interval="I1", open=minute.open, high=minute.high, low=minute.low, close=minute.close, vol=minute.volume, ts=minute.ts)
    else:
        # Before an instrument's first whole minute of the day the broker sends an empty element (FACTS §3.6).
        add()
