"""The REST API's front door: what there is, and where."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

ENTRY_POINTS = {
    "health": "health",
    "broker-status": "broker-status",
    "instruments": "marketdata/instruments/",
    "search": "marketdata/instruments/search/?q=nifty",
    "expiries": "marketdata/underlyings/NIFTY/expiries/",
    "latest ticks": "marketdata/ticks/latest/?instruments=NSE_INDEX%7CNifty+50",
    "tick history": "marketdata/ticks/?instrument=NSE_INDEX%7CNifty+50",
    "ohlc": "marketdata/ohlc/?instrument=NSE_INDEX%7CNifty+50&interval=5m",
    "option chains": "marketdata/chain/",
    "option chain": "marketdata/chain/NIFTY/?expiry=@w0&strikes=atm10",
    "option chain history": "marketdata/chain/NIFTY/history/",
    "stats": "marketdata/stats/",
    "market status": "marketdata/status/",
    "gaps": "marketdata/gaps/",
    "continuity": "marketdata/continuity/",
    "parity": "marketdata/parity/",
    "subscriptions": "subscriptions/",
    "keys": "keys/",
    "ws-tickets": "ws-tickets",
    "OpenAPI schema": "schema/",
    "documentation": "docs/",
}
"""Name → path under /api/, with an example where it needs parameters."""


class ApiRootView(APIView):
    """Where things are. Prices are rupees, times epoch milliseconds UTC, null is not known."""

    name = "TradingOK"

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        base = request.build_absolute_uri("/api/")
        metrics = {"metrics": request.build_absolute_uri("/metrics")}
        return Response({name: base + path for name, path in ENTRY_POINTS.items()} | metrics)
