"""The live page: one document without data. Everything on it comes through the public REST and WebSocket API."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

INTERVALS = ("1m", "3m", "5m", "10m", "15m", "30m", "1h", "2h", "4h", "1d", "1w", "1M")
"""Candle intervals that the chart offers; candles.js knows their lengths."""
LEVELS = range(5)
RANGES = (
    ("atm5", "±5", "Five strikes on each side of the money"),
    ("atm10", "±10", "Ten strikes on each side of the money"),
    ("atm20", "±20", "Twenty strikes on each side of the money"),
    ("all", "All", "All strikes"),
)
"""Windows of strikes that the option chain offers: the channel's word, and how it is shown."""


def content_security_policy(request: HttpRequest) -> str:
    """Return the page's policy: nothing inline, nothing from elsewhere.

    The WebSocket's address is spelled out because 'self' does not cover it in older Safari.
    """
    web_socket = f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {web_socket}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


@never_cache
@require_safe
@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Return the live page to whoever has signed in."""
    response = render(request, "dashboard/page.html", {"intervals": INTERVALS, "levels": LEVELS, "ranges": RANGES})
    response["Content-Security-Policy"] = content_security_policy(request)
    return response
