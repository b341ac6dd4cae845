"""Instrument rows for keys that were recorded without their master: the key and kind are true, the rest says that it is a placeholder.

An option's strike is not in a feed: its exchange token stands in for it, so that identities stay distinct.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from broker.upstox import MarketDataFeedV3_pb2 as pb

IST = ZoneInfo("Asia/Kolkata")
UNDERLYING = "REPLAY"
LIFE_DAYS = 7
"""The placeholder contracts expire so many days after the recorded day."""
INDEX_SYMBOLS = {
    "Nifty 50": "NIFTY",
    "Nifty Bank": "BANKNIFTY",
    "Nifty Fin Service": "FINNIFTY",
    "NIFTY MID SELECT": "MIDCPNIFTY",
    "Nifty Next 50": "NIFTYNXT50",
    "India VIX": "INDIA VIX",
}
"""Index key after the bar → trading symbol. Source: FACTS §4, read 2026-11-22."""


def option_type(feed: pb.Feed) -> str | None:
    """CE or PE by the sign of delta; None when the feed shows no greeks (a future, an equity, a partial update)."""
    kind = feed.WhichOneof("FeedUnion")
    greeks = feed.firstLevelWithGreeks.optionGreeks if kind == "firstLevelWithGreeks" else feed.fullFeed.marketFF.optionGreeks
    if greeks.delta:
        return "CE" if greeks.delta > 0 else "PE"
    return "CE" if greeks.vega or greeks.theta else None


def placeholder_row(key: str, kind: str | None, recorded_ms: int) -> dict[str, Any]:
    """A master row, shaped as the broker's (FACTS §4), for a recorded key.

    Args:
        key: instrument key; its segment decides the shape.
        kind: "CE", "PE" or None, from `option_type`.
        recorded_ms: when it was recorded, ms UTC; dates the placeholder contract.
    """
    segment, _, token = key.partition("|")
    row: dict[str, Any] = {"segment": segment, "exchange": segment.split("_")[0], "instrument_key": key, "exchange_token": token}
    if segment.endswith("_INDEX"):
        symbol = INDEX_SYMBOLS.get(token, token.upper())
        return row | {"name": token, "instrument_type": "INDEX", "trading_symbol": symbol}
    if segment.endswith("_EQ"):
        equity = {"name": f"RECORDED {token}", "isin": token, "instrument_type": "EQ", "trading_symbol": token, "lot_size": 1}
        return row | equity | {"freeze_quantity": 100000.0, "tick_size": 5.0, "qty_multiplier": 1.0, "security_type": "NORMAL"}
    return row | _contract(segment, token, kind, recorded_ms)


def _contract(segment: str, token: str, kind: str | None, recorded_ms: int) -> dict[str, Any]:
    day = datetime.fromtimestamp(recorded_ms / 1000, UTC).astimezone(IST) + timedelta(days=LIFE_DAYS)
    expiry = day.replace(hour=23, minute=59, second=59, microsecond=0)
    date_text = expiry.strftime("%d %b %y").upper()
    # A future has no strike; the underlying carries its token, so that two recorded futures stay two contracts.
    underlying = UNDERLYING if kind else f"{UNDERLYING}{token}"
    return {
        "weekly": False,
        "name": underlying,
        "expiry": int(expiry.timestamp() * 1000),
        "instrument_type": kind or "FUT",
        "asset_symbol": underlying,
        "underlying_symbol": underlying,
        "lot_size": 1,
        "freeze_quantity": 100000.0,
        "minimum_lot": 1,
        "asset_key": f"{segment.split('_')[0]}_INDEX|{underlying}",
        "underlying_key": f"{segment.split('_')[0]}_INDEX|{underlying}",
        "tick_size": 5.0,
        "asset_type": "INDEX",
        "underlying_type": "INDEX",
        "trading_symbol": f"{underlying} {token} {kind} {date_text}" if kind else f"{underlying} FUT {date_text}",
        "strike_price": _strike(token) if kind else 0.0,
        "qty_multiplier": 1.0,
    }


def _strike(token: str) -> float:
    return float(token) if token.isdigit() else float(sum(token.encode()))
