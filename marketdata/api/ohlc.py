"""Candles over REST."""

from __future__ import annotations

import time
from typing import NamedTuple

from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from instruments.selectors import market_now
from marketdata.api.parameters import LATEST_MS, Parameters
from marketdata.api.serializers import CandlePageSerializer
from marketdata.api.series import SERIES_NAMES, SERIES_PARAMETERS, SERIES_RENDERERS, Asked, Series, asked_for, series_response
from marketdata.api.status import feed_now
from marketdata.domain.candle import INTERVAL_MINUTES, Candle
from marketdata.hub import recent_minutes
from marketdata.selectors import Row, candles_of

COLUMNS = ("time", "open", "high", "low", "close", "volume", "open_interest", "state", "revision", "ticks")
FILL = ("none", "prev")


class CandleView(APIView):
    """Session-anchored candles of one instrument, finished ones and the one that forms, each with its state and revision.

    "confirmed" is the broker's own bar; "backfilled" was fetched later; "closed" is finished and may still be corrected; "live" is
    forming. Without `to`, the newest are those up to market time, also in a replay of a past day.

    Without `fill`, where nobody traded there is no candle. `fill=prev` puts one of state "filled" there: flat at the close
    before it, volume 0; between two candles of a day, and behind its last one as far as the session has gone; never before the day's
    first trade, never days, weeks or months. It cannot tell silence from a hole in the data: see `/api/marketdata/gaps/`.

    A page of JSON ends with `next`. CSV and NDJSON have rows only: when there are `limit` of them, ask again with `from` just behind
    (or with `to` at, when the newest come first) the last row's time.
    """

    renderer_classes = SERIES_RENDERERS

    @extend_schema(
        operation_id="ohlc",
        parameters=[
            *SERIES_PARAMETERS,
            OpenApiParameter("interval", str, enum=list(INTERVAL_MINUTES), default="1m"),
            OpenApiParameter("fill", str, enum=FILL, default="none", description="prev: flat candles where nobody traded."),
        ],
        responses={(200, "application/json"): CandlePageSerializer, (200, "application/x-ndjson"): str, (200, "text/csv"): str},
    )
    def get(self, request: Request) -> HttpResponse | StreamingHttpResponse | Response:
        parameters = Parameters(request, (*SERIES_NAMES, "interval", "fill"))
        interval = parameters.choice("interval", "1m", INTERVAL_MINUTES)
        fill = parameters.choice("fill", "none", FILL) == "prev"
        asked = asked_for(parameters)
        return series_response(request, _candle_series(asked, interval, fill=fill), None, asked.limit)


class NewestKnown(NamedTuple):
    """What this process knows beside the store.

    Attributes:
        market_ms: market time: the feeds' newest, or our own clock while none runs · ms UTC.
        recent: the feed's newest 1-minute candles of the instrument, oldest first.
    """

    market_ms: int
    recent: list[Candle]


def newest_known(instrument: int) -> NewestKnown:
    """Return market time and the newest minutes of an instrument."""
    recent = recent_minutes(instrument)
    return NewestKnown(feed_now()[1].market_ms or time.time_ns() // 1_000_000, recent)


def _candle_series(asked: Asked, interval: str, *, fill: bool) -> Series:
    """The cursor is the start of the last candle."""
    instrument = asked.instrument
    market_ms, recent = newest_known(instrument.pk)
    until_ms = asked.to_ms
    if asked.newest_first and until_ms == LATEST_MS:  # a replay's future may be in the store
        until_ms = max([market_ms, round(market_now().timestamp() * 1000), *(minute.start_ms for minute in recent)]) + 1

    def read(last_ms: int | None, count: int) -> list[Row]:
        start, end = asked.from_ms, until_ms
        if last_ms is not None:
            start, end = (start, last_ms) if asked.newest_first else (last_ms + 1, end)
        found = candles_of(
            instrument.pk,
            interval,
            from_ms=start,
            to_ms=end,
            limit=count,
            newest_first=asked.newest_first,
            segment=instrument.segment,
            market_ms=market_ms,
            recent=recent,
            fill=fill,
        )
        return [_row(candle) for candle in found]

    return Series(
        head={"key": instrument.instrument_key, "instrument": instrument.pk, "interval": interval},
        columns=COLUMNS,
        read=read,
        cursor=lambda row: int(row["time"]),
        address=lambda cursor: {"to": cursor} if asked.newest_first else {"from": cursor + 1},
        item=lambda row: {
            "candle": [row[name] for name in COLUMNS[:7]],
            "state": row["state"],
            "revision": row["revision"],
            "ticks": row["ticks"],
        },
    )


def _row(candle: Candle) -> Row:
    return dict(zip(COLUMNS, candle[2:], strict=True))
