"""The state of the market as the broker's REST tells it: a second opinion beside the feed's market_info."""

from __future__ import annotations

from django.conf import settings

from broker.sessions import token_current
from broker.upstox.rest import UpstoxRest
from marketdata.services import market_status_record

SEGMENTS = {"NSE": ("NSE_EQ", "NSE_INDEX"), "NFO": ("NSE_FO",)}
"""Exchange that REST is asked about → the feed's segments that it stands for. Two calls a minute: 60 of the 2,000 in 30 minutes."""


def market_status_poll() -> int:
    """Fetch the state of each exchange and record what changed.

    Returns:
        How many segments changed.

    Raises:
        BrokerError: nothing of this poll was recorded.
    """
    reports: dict[str, tuple[str, int]] = {}
    with UpstoxRest(settings.UPSTOX_API_URL, token_current().token) as rest:
        for exchange, segments in SEGMENTS.items():
            report = rest.market_status(exchange)
            reports |= dict.fromkeys(segments, (report.status[:20], report.updated_ms))
    return market_status_record(reports)
