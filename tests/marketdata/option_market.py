"""A hand-made option market for tests of chains at rest and over REST: the followed weekly chain of NIFTY in `tests.instruments.rows`.

Figures are made by rules that a reader can follow with a pencil: the strikes are 24500 to 25500, every 50; open interest of a call is
its number from the lowest strike times 100, of a put twice that; volumes are ten times as many.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from django.core.cache import cache

from instruments.domain.instrument import IST, ms_of
from instruments.models import SubscriptionRule
from instruments.selectors import instrument_ids
from instruments.services import instruments_refresh, spots_record
from marketdata.calendar import sessions_record
from marketdata.domain.candle import MINUTE_MS, day_start_ms
from marketdata.domain.quote import Quote
from marketdata.domain.session import Hours
from marketdata.wire import QuoteEntry, quote_entry
from tests.instruments.rows import DAY_1, INDEX_KEYS, WEEKLY, market
from tests.marketdata.api.fixtures import publish_latest, status_of, tick_of

OPEN_MS = ms_of(datetime(2026, 11, 16, 9, 15, tzinfo=IST))
"""A Monday; the weekly chain ends the day after."""
CLOSE_MS = OPEN_MS + 385 * MINUTE_MS
DAY = day_start_ms(OPEN_MS)
NIFTY = INDEX_KEYS["NIFTY"]
EXPIRY = WEEKLY.isoformat()
SPOT = 25_012.5
STRIKES = [float(strike) for strike in range(24_500, 25_501, 50)]


class OptionMarket(NamedTuple):
    """What was made. `options`: (strike, side) → instrument id · `keys`: instrument id → key · `spot`: id of NIFTY."""

    options: dict[tuple[float, str], int]
    keys: dict[int, str]
    spot: int


def option_market(*, strikes: str = "all", hours: tuple[int, int] | None = (OPEN_MS, CLOSE_MS)) -> OptionMarket:
    """Load the master, follow the weekly chain, keep the day's hours (None: the calendar knows nothing)."""
    cache.clear()
    instruments_refresh(rows=market(), source="test", as_of=DAY_1)
    if hours is not None:
        sessions_record([Hours("NFO", DAY, *hours)])
    SubscriptionRule.objects.create(name="chain", what="options", underlying="NIFTY", expiries=["@w0"], strikes=strikes, mode="full")
    spots_record(spots={NIFTY: SPOT}, at_ms=OPEN_MS)
    rows = [row for row in market() if row.trading_symbol.endswith(f"{WEEKLY:%d %b %y}".upper()) and row.underlying_symbol == "NIFTY"]
    ids = instrument_ids([NIFTY, *(row.instrument_key for row in rows)])
    options = {(row.strike_price or 0.0, row.instrument_type): ids[row.instrument_key] for row in rows if row.strike_price}
    return OptionMarket(options, {number: key for key, number in ids.items()}, ids[NIFTY])


def entry_of(instrument: int, key: str, at_ms: int, **fields: Any) -> QuoteEntry:
    """A quote as the feed encodes it."""
    quote = Quote(instrument)
    quote.apply(tick_of(instrument, fields.pop("last_price"), last_trade_ms=at_ms, **fields), at_ms)
    return quote_entry(quote, key, False)


def quotes_of(made: OptionMarket, at_ms: int, *, move: float = 0.0) -> dict[int, QuoteEntry]:
    """Quotes of the whole chain and of NIFTY; `move`: INR on every option's price."""
    found = {made.spot: entry_of(made.spot, NIFTY, at_ms, last_price=SPOT)}
    for (strike, side), instrument in made.options.items():
        number = STRIKES.index(strike) + 1
        inside = max(SPOT - strike, 0.0) if side == "CE" else max(strike - SPOT, 0.0)
        interest = number * 100 * (1 if side == "CE" else 2)
        found[instrument] = entry_of(
            instrument,
            made.keys[instrument],
            at_ms,
            last_price=inside + 60.0 + move,
            previous_close=inside + 50.0,
            volume=interest * 10,
            open_interest=float(interest),
            implied_volatility=0.1 + number / 1000,
            delta=0.5,
            theta=-9.25,
            gamma=0.0011,
            vega=8.5,
            rho=0.75,
        )
    return found


def tell(entries: dict[int, QuoteEntry], market_ms: int) -> None:
    """Let the shared state hold these quotes, and a feed that is at that market time."""
    publish_latest(list(entries.values()), status_of(now_ms=market_ms)._replace(data_ms=market_ms))
