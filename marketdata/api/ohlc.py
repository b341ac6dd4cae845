"""Candles over REST."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketdata.api.parameters import Parameters
from marketdata.api.serializers import CandlePageSerializer
from marketdata.api.series import SERIES_NAMES, SERIES_PARAMETERS, SERIES_RENDERERS, Asked, Series, asked_for, series_response
from marketdata.domain.candle import INTERVAL_MINUTES, Candle
from marketdata.selectors import Row, candles_of

COLUMNS = ("time", "open", "high", "low", "close", "volume", "open_interest", "state", "revision", "ticks")


class CandleView(APIView):
    """Session-anchored candles of one instrument, each with its state and revision.

    "confirmed" is the broker's own bar; "closed" is finished and may still be corrected; "live" is forming. A page of JSON
    ends with `next`. CSV and NDJSON have rows only: when there are `limit` of them, ask again with `from` just behind (or
    with `to` at, when the newest come first) the last row's time.
    """

    renderer_classes = SERIES_RENDERERS

    @extend_schema(
        operation_id="ohlc",
        parameters=[*SERIES_PARAMETERS, OpenApiParameter("interval", str, enum=list(INTERVAL_MINUTES), default="1m")],
        responses={(200, "application/json"): CandlePageSerializer, (200, "application/x-ndjson"): str, (200, "text/csv"): str},
    )
    def get(self, request: Request) -> HttpResponse | StreamingHttpResponse | Response:
        parameters = Parameters(request, (*SERIES_NAMES, "interval"))
        interval = parameters.choice("interval", "1m", INTERVAL_MINUTES)
        asked = asked_for(parameters)
        return series_response(request, _candle_series(asked, interval), None, asked.limit)


def _candle_series(asked: Asked, interval: str) -> Series:
    """The cursor is the start of the last candle."""
    instrument = asked.instrument

    def read(last_ms: int | None, count: int) -> list[Row]:
        start, end = asked.from_ms, asked.to_ms
        if last_ms is not None:
            start, end = (start, last_ms) if asked.newest_first else (last_ms + 1, end)
        found = candles_of(instrument.pk, interval, from_ms=start, to_ms=end, limit=count, newest_first=asked.newest_first)
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
