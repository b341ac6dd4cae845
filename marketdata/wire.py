"""The only place that knows client bytes: quotes, frames and pushes of `/ws/market/` as JSON. Pure.

A quote is encoded once, by the feed, into a `QuoteEntry`; hubs and REST join its parts and encode nothing of it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from marketdata.domain.quote import FIELDS, Quote

PROTOCOL_VERSION = 1
SUBPROTOCOL = "tradingok.v1"

_encode = msgspec.json.encode


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
