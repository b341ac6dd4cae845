"""Ticks over REST: the latest quotes, from memory; and history, from the store, in pieces."""

from __future__ import annotations

import re
import time

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput
from accounts.api.rendering import FastJSONRenderer
from instruments.selectors import instrument_keys
from marketdata.api.key_memory import key_memory
from marketdata.api.parameters import Parameters
from marketdata.api.serializers import LatestSerializer, TickPageSerializer
from marketdata.api.series import SERIES_NAMES, SERIES_PARAMETERS, SERIES_RENDERERS, Asked, Series, asked_for, series_response
from marketdata.hub import latest_entries
from marketdata.selectors import TICK_COLUMNS, Row, tick_rows
from marketdata.wire import MODES, latest_json

MOST_KEYS = 2000
_NUMBERED = re.compile(r"id:\d{1,18}", re.ASCII)


class LatestTicksView(APIView):
    """The latest quotes of up to 2,000 instruments, with their age and the feed's state. What is not known comes under `missing`."""

    renderer_classes = [FastJSONRenderer, BrowsableAPIRenderer]

    @extend_schema(
        operation_id="ticks_latest",
        parameters=[
            OpenApiParameter("instruments", str, required=True, description="Keys or id:<n>, comma-separated or repeated."),
            OpenApiParameter("mode", str, enum=list(MODES), default="full", description="How much of each quote."),
        ],
        responses=LatestSerializer,
    )
    def get(self, request: Request) -> Response:
        parameters = Parameters(request, ("instruments", "mode"))
        items = parameters.words("instruments")
        mode = parameters.choice("mode", "full", MODES)
        if not items:
            raise BadInput("instruments", "This parameter is needed: instrument keys or id:<n>, comma-separated.")
        if len(items) > MOST_KEYS:
            raise BadInput("instruments", f"Takes {MOST_KEYS} instruments at the most.", code="symbol_limit")
        return Response(_latest(items, mode))


def _latest(items: list[str], mode: str) -> bytes:
    """Return the answer's bytes: each quote as the feed encoded it."""
    ids = _ids(items)
    entries, state = latest_entries(ids.values())
    now_ms = time.time_ns() // 1_000_000
    found = [latest_json(entries[ids[item]], mode, now_ms) for item in items if ids.get(item) in entries]
    missing = _missing({item: ids.get(item) for item in items if ids.get(item) not in entries})
    return b'{"state":"%b","time":%d,"results":[%b],"missing":%b}' % (
        state.encode(), now_ms, b",".join(found), msgspec.json.encode(missing),
    )  # fmt: skip


def _missing(items: dict[str, int | None]) -> list[dict[str, str]]:
    """Say of each item, given with the id it may have, whether it is unknown or has no quote."""
    known = instrument_keys([instrument for instrument in items.values() if instrument]) if items else {}
    return [{"item": item, "code": "no_data" if instrument in known else "unknown_instrument"} for item, instrument in items.items()]


def _ids(items: list[str]) -> dict[str, int]:
    """Return the instrument id of each item that names one."""
    numbered = {item: int(item[3:]) for item in items if _NUMBERED.fullmatch(item)}
    keys = [item for item in items if item not in numbered]
    return numbered | key_memory.read(keys)


class TickHistoryView(APIView):
    """Stored ticks of one instrument, as the broker's frames said them, in order of the broker's clock.

    A page of JSON ends with `next`. CSV and NDJSON have rows only: when there are `limit` of them, ask again with
    `after=<id of the last row>`.
    """

    renderer_classes = SERIES_RENDERERS

    @extend_schema(
        operation_id="ticks_history",
        parameters=[*SERIES_PARAMETERS, OpenApiParameter("after", str, description="Id of the last tick of the page before.")],
        responses={(200, "application/json"): TickPageSerializer, (200, "application/x-ndjson"): str, (200, "text/csv"): str},
    )
    def get(self, request: Request) -> HttpResponse | StreamingHttpResponse | Response:
        parameters = Parameters(request, (*SERIES_NAMES, "after"))
        after = parameters.integer("after", None, low=0, high=2**63 - 1)
        asked = asked_for(parameters)
        return series_response(request, _tick_series(asked), after, asked.limit)


def _tick_series(asked: Asked) -> Series:
    instrument = asked.instrument

    def read(after: int | None, count: int) -> list[Row]:
        return tick_rows(instrument.pk, from_ms=asked.from_ms, to_ms=asked.to_ms, after=after, limit=count, newest_first=asked.newest_first)

    return Series(
        head={"key": instrument.instrument_key, "instrument": instrument.pk},
        columns=TICK_COLUMNS,
        read=read,
        cursor=lambda row: int(row["id"]),
        address=lambda cursor: {"after": cursor},
        item=lambda row: row,
    )
