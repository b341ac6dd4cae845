"""What an option chain is made of, before any price: the listed contracts of one underlying and expiry. Pure."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from instruments.domain.expiry import ExpiryKind


class ListedOption(NamedTuple):
    """One contract of a chain. `instrument`: our id · `strike_price`: INR · `side`: CE or PE · `lot_size`: units."""

    instrument: int
    key: str
    strike_price: float
    side: str
    lot_size: int


class ChainListing(NamedTuple):
    """The contracts of one underlying and expiry.

    Attributes:
        underlying: symbol, as in NIFTY.
        underlying_key: the broker's key of what it is written on; None where the master names none.
        underlying_id: our id of that instrument; None where nobody holds the key.
        segment: of the options.
        expiry: IST day.
        kind: weekly, monthly or quarterly.
        ends_ms: when trading in it ends, by the calendar · ms UTC.
        options: ascending by strike, the call first.
    """

    underlying: str
    underlying_key: str | None
    underlying_id: int | None
    segment: str
    expiry: date
    kind: ExpiryKind
    ends_ms: int
    options: list[ListedOption]
