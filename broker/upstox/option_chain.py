"""The broker's own option chain over REST: its address, and what we take of it. Pure."""

from __future__ import annotations

from datetime import date
from typing import Any
from urllib.parse import urlencode

from broker.upstox.protocol import ProtocolViolation

SIDES = ("call_options", "put_options")


def option_chain_path(underlying_key: str, expiry: date) -> str:
    """Return the path of one expiry's chain. Not for MCX (FACTS §5)."""
    return f"/v2/option/chain?{urlencode({'instrument_key': underlying_key, 'expiry_date': expiry.isoformat()})}"


def parse_previous_interest(content: Any) -> dict[str, float]:
    """Return key → open interest at the end of the trading day before, units, of the answer's `data`. A side may be missing.

    Raises:
        ProtocolViolation: it is no chain.
    """
    found = {}
    try:
        for strike in content:
            for side in (strike.get(name) for name in SIDES):
                if side and (interest := side["market_data"].get("prev_oi")) is not None:
                    found[str(side["instrument_key"])] = float(interest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation("the broker's option chain has a strike that is none") from error
    if any(not 0 <= interest < 1e15 for interest in found.values()):
        raise ProtocolViolation("the broker's option chain has an impossible open interest")
    return found
