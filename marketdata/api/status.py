"""The feed's state, the market's, and the known gaps."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput
from instruments.domain.instrument import ist_date
from instruments.selectors import UnknownInstrument, instrument_resolve
from marketdata import live_state
from marketdata.api.parameters import Parameters
from marketdata.api.serializers import BrokerStatusSerializer, ContinuitySerializer, GapPageSerializer, MarketStatusSerializer
from marketdata.api.series import LIMIT, MOST_ROWS, next_url
from marketdata.calendar import calendar_read
from marketdata.domain.candle import DAY_MS, day_start_ms
from marketdata.domain.continuity import continuity
from marketdata.domain.feed_status import FeedState, FeedStatus
from marketdata.domain.session import EXCHANGES, Calendar, Hours
from marketdata.feed_board import FeedBoard
from marketdata.hub import current_hub
from marketdata.selectors import gaps, market_statuses
from marketdata.wire import FeedView

DAYS_SHOWN = 400
"""The calendar is shown so many days ahead: the coming holidays of the year, as far as the broker has told them."""
SILENT_MS = 10_000
"""A feed that has not reported for so long is gone, where no hub hears it: three times a hub's patience, as clocks may differ."""


def feed_now() -> tuple[FeedView, FeedBoard]:
    """Return the feed's state and the newest report of each shard: from the hub's memory, else from Redis; empty when nobody knows."""
    hub = current_hub()
    if hub is not None:
        return hub.feed_view(), hub.board
    board = FeedBoard()
    try:
        for status in live_state.statuses_read():
            board.take(status)
            if time.time_ns() // 1_000_000 - status.reported_ms > SILENT_MS:
                board.hush(status.shard, status.reported_ms)
    except live_state.Unavailable:
        board.lose("Redis does not answer.", time.time_ns() // 1_000_000)
    return board.view(None), board


class BrokerStatusView(APIView):
    """The connection to the broker: state, data age, rates, subscriptions against their limits, reconnects, gaps, token expiry, lag."""

    @extend_schema(operation_id="broker_status", responses=BrokerStatusSerializer)
    def get(self, request: Request) -> Response:
        Parameters(request, ())
        now_ms = time.time_ns() // 1_000_000
        view, board = feed_now()
        return Response(
            {
                "state": view.state,
                "since_ms": view.since_ms,
                "detail": view.detail,
                "data_age_ms": max(0, now_ms - view.data_ms) if view.data_ms else None,
                "time": now_ms,
                "shards": [_shard(status, now_ms) for _, status in sorted(board.statuses.copy().items())],
            }
        )


def _shard(status: FeedStatus, now_ms: int) -> dict[str, Any]:
    counters = status.counters
    whole = {name: int(counters.get(name, 0)) for name in ("store_lag_ticks", "store_lag_ms", "journal_bytes")}
    return {
        "shard": status.shard,
        "epoch": status.epoch,
        "state": status.state,
        "since_ms": status.since_ms,
        "detail": status.detail,
        "report_age_ms": max(0, now_ms - status.reported_ms),
        "data_age_ms": max(0, now_ms - status.data_ms) if status.data_ms else None,
        "frames_per_second": counters.get("frames_per_second", 0.0),
        "ticks_per_second": counters.get("ticks_per_second", 0.0),
        "subscribed": {
            mode: {
                "subscribed": int(counters.get(f"subscribed_{mode}", 0)),
                "limit": int(counters.get(f"limit_{mode}", settings.BROKER_MODE_LIMITS[mode])),
            }
            for mode in settings.BROKER_MODE_LIMITS
        },
        "reconnects": int(counters.get("reconnects_total", 0)),
        "gaps": int(counters.get("gaps_total", 0)),
        **whole,
        "token_expires_ms": int(counters.get("token_expires_ms", 0)) or None,
        "counters": counters,
    }


class ContinuityView(APIView):
    """What goes into each hop of the data's way, and what became of it: all feeds, the hubs of all web processes. Empty without Redis."""

    @extend_schema(operation_id="continuity", responses=ContinuitySerializer)
    def get(self, request: Request) -> Response:
        Parameters(request, ())
        try:
            feeds = {str(status.shard): status.counters for status in live_state.statuses_read()}
            rows = continuity(feeds, live_state.hub_counters_read())
        except live_state.Unavailable:
            rows = []
        return Response({"time": time.time_ns() // 1_000_000, "hops": [row.as_dict() for row in rows]})


class MarketStatusView(APIView):
    """Each segment's state, as the broker told it last, and since when; and when the exchanges trade, and when not."""

    @extend_schema(operation_id="market_status", responses=MarketStatusSerializer)
    def get(self, request: Request) -> Response:
        Parameters(request, ())
        feed, board = feed_now()
        told, now_ms = board.segments(), time.time_ns() // 1_000_000
        segments = {
            row.segment: {"segment": row.segment, "status": row.status, "since_ms": row.since_ms}
            for row in market_statuses()
            if told.get(row.segment, row.status) == row.status
        }
        for name, status_name in told.items():
            segments.setdefault(name, {"segment": name, "status": status_name, "since_ms": None})
        market_ms = feed.data_ms if feed.data_ms and feed.state != FeedState.CLOSED else now_ms
        return Response(
            {
                "time": now_ms,
                "segments": [segments[name] for name in sorted(segments)],
                "calendar": _calendar_row(calendar_read(), day_start_ms(market_ms)),
            }
        )


def _calendar_row(calendar: Calendar, day_ms: int) -> dict[str, Any]:
    """Return what is known of the day and of those after it."""
    coming = calendar.between(day_ms, day_ms + DAYS_SHOWN * DAY_MS)
    closed: dict[tuple[int, str], list[str]] = {}
    for hours in coming:
        if hours.description and not hours.trades:
            closed.setdefault((hours.day_ms, hours.description), []).append(hours.exchange)
    return {
        "day": _day(day_ms),
        "exchanges": [
            {
                "exchange": exchange,
                "segments": sorted(segment for segment, whose in EXCHANGES.items() if whose == exchange),
                "today": _session_row(calendar.hours(exchange, day_ms)),
                "next": _session_row(
                    next((hours for hours in coming if hours.exchange == exchange and hours.trades and hours.day_ms > day_ms), None)
                ),
            }
            for exchange in sorted(set(EXCHANGES.values()))
        ],
        "holidays": [
            {"day": _day(day), "description": description, "exchanges": exchanges} for (day, description), exchanges in closed.items()
        ],
    }


def _session_row(hours: Hours | None) -> dict[str, Any] | None:
    if hours is None:
        return None
    times = (hours.open_ms, hours.close_ms) if hours.trades else (None, None)
    return {"day": _day(hours.day_ms), "open_ms": times[0], "close_ms": times[1], "description": hours.description}


def _day(day_ms: int) -> str:
    return ist_date(day_ms).isoformat()


def _instrument_id(name: str) -> int:
    try:
        return int(instrument_resolve(name).pk)
    except UnknownInstrument as error:
        raise BadInput("instrument", str(error), code="unknown_instrument") from None


class GapView(APIView):
    """Stretches of time in which the feed gave nothing though it should have, the newest first, and whether they were healed."""

    @extend_schema(
        operation_id="gaps",
        parameters=[
            OpenApiParameter("from", str, description="Epoch ms or ISO 8601."),
            OpenApiParameter("to", str, description="Not included."),
            OpenApiParameter("instrument", str, description="Only those that concern it: the broker's key, or id:<n>."),
            OpenApiParameter("limit", int, default=LIMIT, description=f"1 to {MOST_ROWS}."),
        ],
        responses=GapPageSerializer,
    )
    def get(self, request: Request) -> Response:
        parameters = Parameters(request, ("from", "to", "instrument", "limit"))
        start, end = parameters.span()
        limit = parameters.integer("limit", LIMIT, low=1, high=MOST_ROWS)
        name = parameters.text("instrument")
        rows = gaps(from_ms=start, to_ms=end, limit=limit, instrument=_instrument_id(name) if name else None)
        following = next_url(request, {"to": rows[-1]["from"]}) if len(rows) >= limit else None
        return Response({"results": rows, "next": following})
