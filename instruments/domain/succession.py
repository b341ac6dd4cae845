"""What a feed has to know of an instrument that it follows, and which contract takes the place of one that has expired. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from instruments.domain.instrument import ist_date


class Held(NamedTuple):
    """An instrument and the key under which it is followed.

    Attributes:
        id: our own.
        key: the broker's, which it has, or had last.
        active: whether it still holds that key.
        until_ms: since when it does not, ms UTC; None while it does, or where nobody knows.
        symbol: its trading symbol.
        underlying: key of the underlying; None where there is none.
        kind: FUT, CE, PE, …
        strike_price: INR; None on anything but options.
        expiry_ms: ms UTC; None where it does not expire.
        ends_ms: when trading in it ends for ever, ms UTC: at the end of its segment's trading on its expiry day.
    """

    id: int
    key: str
    active: bool
    until_ms: int | None
    segment: str
    symbol: str
    underlying: str | None
    kind: str
    strike_price: float | None
    expiry_ms: int | None
    ends_ms: int | None

    def is_over(self, market_ms: int) -> bool:
        """Whether trading in it has ended for ever."""
        return self.ends_ms is not None and self.ends_ms <= market_ms

    def ending(self, market_ms: int) -> str | None:
        """Return why it cannot be followed any more, a sentence with the day in IST; None while it can."""
        if self.ends_ms is not None and self.ends_ms <= market_ms:
            return f"{self.symbol} has expired: trading in it ended on {ist_date(self.ends_ms)}."
        if self.active:
            return None
        return f"{self.symbol} is listed no more{'' if self.until_ms is None else f' since {ist_date(self.until_ms)}'}."


def successor(expired: Held, followed: Iterable[Held]) -> str:
    """Return the key of what takes a contract's place: the same of the nearest later expiry that is followed; "" where none is."""
    same = (
        each
        for each in followed
        if expired.underlying is not None
        and (each.segment, each.underlying, each.kind) == (expired.segment, expired.underlying, expired.kind)
        and (each.strike_price or 0.0) == (expired.strike_price or 0.0)
        and (each.expiry_ms or 0) > (expired.expiry_ms or 0)
    )
    nearest = min(same, key=lambda each: each.expiry_ms or 0, default=None)
    return "" if nearest is None else nearest.key
