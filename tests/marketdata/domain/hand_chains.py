"""Chains for tests: small ones written by hand, and the captured ones of 23 January 2026."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from instruments.domain.expiry import ExpiryKind
from instruments.domain.listing import ChainListing, ListedOption
from marketdata.domain.chain import OptionQuote
from marketdata.domain.option_values import CALL, PUT
from tests.payloads import real_data

ENDS_MS = int(datetime(2026, 1, 27, 10, 0, tzinfo=UTC).timestamp() * 1000)
"""15:30 IST of Tuesday 27 January 2026."""
DAY_MS = 86_400_000
FRAMES = "nifty_banknifty_36keys_100frames_2026-01-23.mongoexport.json.gz"
CAPTURED = {
    "NIFTY": (
        [58615, 58650, 58651, 58652, 58661, 58662, 58663, 58664, 58665, 58666, 58667, 58675, 58689, 58690, 58693, 58694],
        range(24900, 25300, 50), 49229, "NSE_INDEX|Nifty 50",
    ),
    "BANKNIFTY": (
        [51804, 51805, 51806, 51807, 51808, 51809, 51810, 51857, 51858, 51867, 51868, 51887, 51888, 51911, 51914, 51915],
        range(58200, 59000, 100), 49224, "NSE_INDEX|Nifty Bank",
    ),
}  # fmt: skip
"""Keys of calls and puts by ascending strike, strikes, the future, the index. No master of that week is left: prices tell the strikes."""


def chain_listing(options: Iterable[tuple[int, float, str]], *, underlying: str = "NIFTY", ends_ms: int = ENDS_MS) -> ChainListing:
    """List (instrument, strike, side)s; each key is `NSE_FO|<instrument>`."""
    listed = [ListedOption(instrument, f"NSE_FO|{instrument}", strike, side, 65) for instrument, strike, side in options]
    return ChainListing(underlying, None, None, "NSE_FO", date(2026, 1, 27), ExpiryKind.MONTHLY, ends_ms, listed)


def ladder(strikes: Iterable[float]) -> ChainListing:
    """List both sides of each strike: calls are instruments 1, 3, 5 …, puts 2, 4, 6 …"""
    both = [(strike, side) for strike in strikes for side in (CALL, PUT)]
    return chain_listing((number, strike, side) for number, (strike, side) in enumerate(both, start=1))


def captured_listing(underlying: str) -> ChainListing:
    """List the captured options of NIFTY or BANKNIFTY; an option's instrument is the number in its key."""
    keys, strikes, *_ = CAPTURED[underlying]
    both = [(strike, side) for strike in strikes for side in (CALL, PUT)]
    return chain_listing(((key, strike, side) for key, (strike, side) in zip(keys, both, strict=True)), underlying=underlying)


def captured_frames() -> list[tuple[int, dict[str, dict[str, Any]]]]:
    """Return (broker's ms, what is said of each key) of the 100 frames, oldest first; skips where the capture is absent."""
    found = []
    for frame in reversed(json.loads(gzip.decompress(real_data(FRAMES).read_bytes()))):
        feeds = {key: feed["fullFeed"].get("marketFF") or feed["fullFeed"]["indexFF"] for key, feed in frame["feeds"].items()}
        found.append((int(frame["currentTs"]), feeds))
    return found


def captured_quote(said: dict[str, Any]) -> OptionQuote:
    """Read a whole update of an option as the capture has it."""
    best, traded, values = said["marketLevel"]["bidAskQuote"][0], said["ltpc"], said["optionGreeks"]
    return OptionQuote(
        last_price=traded["ltp"],
        last_trade_ms=int(traded["ltt"]),
        previous_close=traded["cp"],
        bid_price=best["bidP"],
        bid_quantity=int(best["bidQ"]),
        ask_price=best["askP"],
        ask_quantity=int(best["askQ"]),
        volume=int(said["vtt"]),
        open_interest=said["oi"],
        implied_volatility=said["iv"],
        **{name: values[name] for name in ("delta", "theta", "gamma", "vega", "rho")},
    )
