"""Market statistics over REST, made of the latest quotes."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput
from instruments.domain.instrument import Segment
from instruments.selectors import instrument_symbols, underlying_is_known, underlying_members
from marketdata import live_state
from marketdata.api.parameters import Parameters
from marketdata.api.serializers import StatsSerializer
from marketdata.domain.candle import INTERVAL_MINUTES, MINUTE_MS, day_start_ms
from marketdata.domain.statistics import Standing, market_statistics
from marketdata.hub import current_hub, latest_entries
from marketdata.interest import previous_closes
from marketdata.selectors import closes_at, ticks_today
from marketdata.wire import FULL, QuoteEntry, quote_json

LISTED = 10
MOST_LISTED = 100


LISTS = ("gainers", "losers", "most_active", "most_active_by_value", "oi_gainers", "oi_losers")


class _Priced(msgspec.Struct):
    """What of a quote the statistics need."""

    last_price: float | None
    last_trade_ms: int | None
    previous_close: float | None
    volume: int | None
    average_traded_price: float | None
    open_interest: float | None


_parse = msgspec.json.Decoder(_Priced).decode


class StatsView(APIView):
    """Advances and declines, gainers, losers, the most active by volume and by value, and where open interest was built up or left.

    Among the instruments that are followed: all, those of a segment, or an underlying and what is written on it. `window=1d` compares
    with the close of the trading day before; a shorter one with the end of the 1-minute candle that far back, or of the last one of the
    day before it. Volume and value are always the day's.
    """

    @extend_schema(
        operation_id="market_stats",
        parameters=[
            OpenApiParameter("window", str, enum=list(INTERVAL_MINUTES), default="1d"),
            OpenApiParameter("segment", str, description="Only this one, as in NSE_EQ."),
            OpenApiParameter("underlying", str, description="Only this one and its futures and options, as in NIFTY."),
            OpenApiParameter("limit", int, default=LISTED, description=f"Length of each list, 1 to {MOST_LISTED}."),
        ],
        responses=StatsSerializer,
    )
    def get(self, request: Request) -> Response:
        parameters = Parameters(request, ("window", "segment", "underlying", "limit"))
        window = parameters.choice("window", "1d", INTERVAL_MINUTES)
        limit = parameters.integer("limit", LISTED, low=1, high=MOST_LISTED)
        segment, underlying = ((parameters.text(name) or "").upper() or None for name in ("segment", "underlying"))
        if underlying and not underlying_is_known(underlying):
            raise BadInput("underlying", "No active instrument is called so; NIFTY, BANKNIFTY, RELIANCE … are.")
        entries, state = _all_entries()
        if segment:
            known = {*Segment, *(entry.key.partition("|")[0] for entry in entries)}
            if segment not in known:
                raise BadInput("segment", f"Takes one of {', '.join(sorted(known))}.")
            entries = [entry for entry in entries if entry.key.startswith(f"{segment}|")]
        if underlying:
            members = underlying_members(underlying)
            entries = [entry for entry in entries if entry.instrument in members]
        market_ms = max((entry.broker_ms for entry in entries), default=None)
        start_ms = None if window == "1d" or market_ms is None else (market_ms // MINUTE_MS - INTERVAL_MINUTES[window] + 1) * MINUTE_MS
        statistics = market_statistics(_standings(entries, start_ms, market_ms), limit)
        listed = {name: getattr(statistics, name) for name in LISTS}
        symbols = instrument_symbols({standing.instrument for standings in listed.values() for standing in standings})
        return Response(
            {
                "window": window,
                "change": {"from_ms": start_ms, "to_ms": market_ms},
                "activity": {"from_ms": None if market_ms is None else day_start_ms(market_ms), "to_ms": market_ms},
                "segment": segment,
                "underlying": underlying,
                "state": state,
                "market_ms": market_ms,
                "instruments": len(entries),
                "breadth": {name: getattr(statistics, name) for name in ("advances", "declines", "unchanged", "unknown")},
                **{name: [_row(standing, symbols) for standing in standings] for name, standings in listed.items()},
                "ticks_stored_today": ticks_today.read(time.time_ns() // 1_000_000),
            }
        )


def _all_entries() -> tuple[list[QuoteEntry], str]:
    """Return the latest quotes of all that is followed or has expired, and the feed's state."""
    state = latest_entries(())[1]
    hub = current_hub()
    if hub is not None:
        return [entry for instrument, entry in hub.entries.copy().items() if instrument not in hub.unfollowed], state
    try:
        return list(live_state.quotes_read().values()), state
    except live_state.Unavailable:
        return [], state


def _standings(entries: list[QuoteEntry], start_ms: int | None, market_ms: int | None) -> list[Standing]:
    """Compare with the candles that end at `start_ms` or before; without a start, with the trading day before.

    What was not traded today has no volume, though the broker's last word of it is the volume of the day on which it was.
    """
    if market_ms is None:
        return []
    day_ms = day_start_ms(market_ms)
    quotes = {entry.instrument: (entry.key, _parse(quote_json(entry, FULL))) for entry in entries}
    bases = {} if start_ms is None else closes_at(quotes, start_ms - MINUTE_MS)
    with_interest = [instrument for instrument, (_, now) in quotes.items() if now.open_interest is not None]
    closes = previous_closes(with_interest, day_ms) if start_ms is None else {}
    standings = []
    for instrument, (key, now) in quotes.items():
        base, interest = (now.previous_close, closes.get(instrument)) if start_ms is None else bases.get(instrument, (None, None))
        is_of_today = now.last_trade_ms is None or now.last_trade_ms >= day_ms
        volume = now.volume if is_of_today or now.volume is None else 0
        standings.append(Standing(key, instrument, now.last_price, base, volume, now.average_traded_price, now.open_interest, interest))
    return standings


def _row(standing: Standing, symbols: dict[int, str]) -> dict[str, Any]:
    return {
        "key": standing.key,
        "instrument": standing.instrument,
        "symbol": symbols.get(standing.instrument),
        "last_price": standing.last_price,
        "change_percent": _rounded(standing.change_percent, 4),
        "volume": standing.volume,
        "value": _rounded(standing.value, 2),
        "open_interest": standing.open_interest,
        "oi_change": standing.interest_change,
        "oi_change_percent": _rounded(standing.interest_change_percent, 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
