"""A `Feed` and its master row in the shapes of the REST quotes and of the option chain. Pure.

A key without a feed (never traded, or not replayed yet) shows zeros, as the broker does (FACTS §3.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from broker.simulator.source import Bar
from broker.upstox import MarketDataFeedV3_pb2 as pb

IST = ZoneInfo("Asia/Kolkata")
MONTH_LETTERS = "123456789OND"
"""Month in the symbol of a weekly contract. Source: the exchange's own symbols, e.g. NIFTY2543021600PE (FACTS §5)."""
BAND = 0.2
"""Circuit limits stand so far from the previous close, as a fraction; an approximation."""
Row = Mapping[str, Any]


class Quote:
    """Reads a full-mode `Feed` without asking each time whether it is an index."""

    def __init__(self, feed: pb.Feed | None) -> None:
        full = (feed or pb.Feed()).fullFeed
        self.market = full.marketFF
        is_index = full.WhichOneof("FullFeedUnion") == "indexFF"
        self.ltpc = full.indexFF.ltpc if is_index else self.market.ltpc
        self.candles = {c.interval: c for c in (full.indexFF if is_index else self.market).marketOHLC.ohlc if c.interval}

    @property
    def best(self) -> pb.Quote:
        """The first level of the book; empty where there is none."""
        levels = self.market.marketLevel.bidAskQuote
        return levels[0] if levels else pb.Quote()


def ist_text(ms: int) -> str:
    """ISO 8601 in Indian time to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(IST).isoformat(timespec="milliseconds")


def expiry_text(row: Row) -> str:
    """The expiry as YYYY-MM-DD; empty for a row without one."""
    return datetime.fromtimestamp(row["expiry"] / 1000, UTC).astimezone(IST).date().isoformat() if row.get("expiry") else ""


def symbol(row: Row) -> str:
    """The symbol of quote maps: compact for contracts, the name in the key for indices."""
    kind = row["instrument_type"]
    if kind == "INDEX":
        return str(row["instrument_key"]).partition("|")[2]
    if kind not in ("CE", "PE", "FUT") or not row.get("expiry"):
        return str(row["trading_symbol"])
    expiry = datetime.fromtimestamp(row["expiry"] / 1000, UTC).astimezone(IST)
    day = f"{expiry:%y}{MONTH_LETTERS[expiry.month - 1]}{expiry:%d}" if row.get("weekly") else f"{expiry:%y%b}".upper()
    strike = f"{row.get('strike_price', 0.0):g}" if kind != "FUT" else ""
    return f"{row['underlying_symbol']}{day}{strike}{kind}"


def quote_key(row: Row) -> str:
    """`SEGMENT:SYMBOL`, the key of quote maps. Source: FACTS §5."""
    return f"{row['segment']}:{symbol(row)}"


def ltp(row: Row, quote: Quote) -> dict[str, Any]:
    """/v3/market-quote/ltp of one key."""
    return {
        "last_price": quote.ltpc.ltp,
        "instrument_token": row["instrument_key"],
        "ltq": quote.ltpc.ltq,
        "volume": quote.market.vtt,
        "cp": quote.ltpc.cp,
    }


def option_greek(row: Row, quote: Quote) -> dict[str, Any]:
    """/v3/market-quote/option-greek of one key; iv is a fraction here."""
    greeks = quote.market.optionGreeks
    return ltp(row, quote) | {
        "iv": quote.market.iv,
        "vega": greeks.vega,
        "gamma": greeks.gamma,
        "theta": greeks.theta,
        "delta": greeks.delta,
        "oi": quote.market.oi,
    }


def ohlc(row: Row, quote: Quote, previous: Bar | None, live: Bar) -> dict[str, Any]:
    """/v3/market-quote/ohlc of one key."""
    return {
        "last_price": quote.ltpc.ltp,
        "instrument_token": row["instrument_key"],
        "prev_ohlc": _bar(previous),
        "live_ohlc": _bar(live),
    }


def _bar(bar: Bar | None) -> dict[str, Any] | None:
    if bar is None:
        return None
    return {"open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close, "volume": bar.volume, "ts": bar.start_ms}


def full_quote(row: Row, quote: Quote, now_ms: int) -> dict[str, Any]:
    """/v2/market-quote/quotes of one key."""
    market, ltpc, day = quote.market, quote.ltpc, quote.candles.get("1d", pb.OHLC())
    levels = market.marketLevel.bidAskQuote
    return {
        "ohlc": {"open": day.open, "high": day.high, "low": day.low, "close": day.close},
        "depth": {
            "buy": [_level(level.bidQ, level.bidP) for level in levels],
            "sell": [_level(level.askQ, level.askP) for level in levels],
        },
        "timestamp": ist_text(now_ms),
        "instrument_token": row["instrument_key"],
        "symbol": symbol(row),
        "last_price": ltpc.ltp,
        "volume": market.vtt,
        "average_price": market.atp,
        "oi": market.oi,
        "net_change": round(ltpc.ltp - ltpc.cp, 2) if ltpc.cp else 0.0,
        "total_buy_quantity": market.tbq,
        "total_sell_quantity": market.tsq,
        "lower_circuit_limit": round(ltpc.cp * (1 - BAND), 2),
        "upper_circuit_limit": round(ltpc.cp * (1 + BAND), 2),
        "last_trade_time": str(ltpc.ltt),
        "oi_day_high": market.oi,
        "oi_day_low": market.oi,
    }


def _level(quantity: int, price: float) -> dict[str, Any]:
    return {"quantity": quantity, "price": price, "orders": 1 if quantity else 0}  # the feed counts no orders


def full_quote_v3(row: Row, quote: Quote, now_ms: int, previous_oi: float) -> dict[str, Any]:
    """/v3/market-quote/quotes of one key. The year's range is the day's: no more is known."""
    day = quote.candles.get("1d", pb.OHLC())
    extra = {"prev_close_price": quote.ltpc.cp, "year_high": day.high, "year_low": day.low, "previous_oi": previous_oi}
    return full_quote(row, quote, now_ms) | extra


def chain_side(row: Row, quote: Quote, previous_oi: float) -> dict[str, Any]:
    """One side of a strike in /v2/option/chain; iv is in percent here."""
    greeks, best = quote.market.optionGreeks, quote.best
    return {
        "instrument_key": row["instrument_key"],
        "market_data": {
            "ltp": quote.ltpc.ltp,
            "volume": quote.market.vtt,
            "oi": quote.market.oi,
            "close_price": quote.ltpc.cp,
            "bid_price": best.bidP,
            "bid_qty": best.bidQ,
            "ask_price": best.askP,
            "ask_qty": best.askQ,
            "prev_oi": previous_oi,
        },
        "option_greeks": {
            "vega": greeks.vega,
            "theta": greeks.theta,
            "gamma": greeks.gamma,
            "delta": greeks.delta,
            "iv": round(quote.market.iv * 100, 2),
            "pop": round(abs(greeks.delta) * 100, 2),
        },
    }
