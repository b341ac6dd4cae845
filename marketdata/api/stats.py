"""Market statistics over REST, made of the latest quotes."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketdata import live_state
from marketdata.api.parameters import Parameters
from marketdata.api.serializers import StatsSerializer
from marketdata.domain.candle import INTERVAL_MINUTES, MINUTE_MS
from marketdata.domain.statistics import Standing, market_statistics
from marketdata.hub import current_hub, latest_entries
from marketdata.selectors import closes_at, ticks_today
from marketdata.wire import FULL, QuoteEntry, quote_json

LISTED = 10
MOST_LISTED = 100


class _Priced(msgspec.Struct):
    """What of a quote the statistics need."""

    last_price: float | None
    previous_close: float | None
    volume: int | None


_parse = msgspec.json.Decoder(_Priced).decode


class StatsView(APIView):
    """Advances and declines, gainers, losers, and the most active by the day's volume, among the instruments that are followed.

    `window=1d` compares with the previous close; a shorter one with the close of the 1-minute candle that far back.
    """

    @extend_schema(
        operation_id="market_stats",
        parameters=[
            OpenApiParameter("window", str, enum=list(INTERVAL_MINUTES), default="1d"),
            OpenApiParameter("segment", str, description="Only this one, as in NSE_EQ."),
            OpenApiParameter("limit", int, default=LISTED, description=f"Length of each list, 1 to {MOST_LISTED}."),
        ],
        responses=StatsSerializer,
    )
    def get(self, request: Request) -> Response:
        parameters = Parameters(request, ("window", "segment", "limit"))
        window = parameters.choice("window", "1d", INTERVAL_MINUTES)
        limit = parameters.integer("limit", LISTED, low=1, high=MOST_LISTED)
        segment = parameters.text("segment")
        entries, state = _all_entries()
        if segment:
            entries = [entry for entry in entries if entry.key.startswith(f"{segment}|")]
        market_ms = max((entry.broker_ms for entry in entries), default=None)
        statistics = market_statistics(_standings(entries, window, market_ms), limit)
        return Response(
            {
                "window": window,
                "segment": segment,
                "state": state,
                "market_ms": market_ms,
                "instruments": len(entries),
                "breadth": {name: getattr(statistics, name) for name in ("advances", "declines", "unchanged", "unknown")},
                "gainers": [_row(standing) for standing in statistics.gainers],
                "losers": [_row(standing) for standing in statistics.losers],
                "most_active": [_row(standing) for standing in statistics.most_active],
                "ticks_stored_today": ticks_today.read(time.time_ns() // 1_000_000),
            }
        )


def _all_entries() -> tuple[list[QuoteEntry], str]:
    """Return every latest quote that is known, and the feed's state."""
    state = latest_entries(())[1]
    hub = current_hub()
    if hub is not None:
        return list(hub.entries.copy().values()), state
    try:
        return list(live_state.quotes_read().values()), state
    except live_state.Unavailable:
        return [], state


def _standings(entries: list[QuoteEntry], window: str, market_ms: int | None) -> list[Standing]:
    bases: dict[int, float] | None = None
    if window != "1d" and market_ms is not None:
        start = (market_ms // MINUTE_MS - INTERVAL_MINUTES[window]) * MINUTE_MS
        bases = closes_at([entry.instrument for entry in entries], start)
    standings = []
    for entry in entries:
        priced = _parse(quote_json(entry, FULL))
        base = priced.previous_close if bases is None else bases.get(entry.instrument)
        standings.append(Standing(entry.key, entry.instrument, priced.last_price, base, priced.volume))
    return standings


def _row(standing: Standing) -> dict[str, Any]:
    change = standing.change_percent
    return {
        "key": standing.key,
        "instrument": standing.instrument,
        "last_price": standing.last_price,
        "change_percent": None if change is None else round(change, 4),
        "volume": standing.volume,
    }
