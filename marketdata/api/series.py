"""A page of a series of one instrument, in the format that was asked for: written and sent in pieces.

JSON ends with `next`, the address of the next page. CSV and NDJSON hold rows only, and every row holds the cursor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.problems import BadInput
from accounts.api.rendering import FastJSONRenderer
from instruments.models import Instrument
from instruments.selectors import UnknownInstrument, instrument_resolve
from marketdata.api.formats import CSVRenderer, NDJSONRenderer, Row, csv_rows, json_rows, ndjson_rows
from marketdata.api.parameters import Parameters

LIMIT = 1000
MOST_ROWS = 10_000
PIECE = 1000
"""Rows read and written at once: all sync views of a process share one thread, and none may hold it for long."""

SERIES_NAMES = ("instrument", "as_of", "from", "to", "order", "limit")
SERIES_PARAMETERS = [
    OpenApiParameter("instrument", str, required=True, description="The broker's key, as in NSE_FO|51420, or id:<n>."),
    OpenApiParameter("as_of", str, description="Whom the key meant then: keys are recycled. Default: now."),
    OpenApiParameter("from", str, description="Epoch ms or ISO 8601; IST when without an offset."),
    OpenApiParameter("to", str, description="Not included."),
    OpenApiParameter(
        "order", str, enum=["oldest", "newest"], description="Which comes first. Default: the newest, with `from` the oldest."
    ),
    OpenApiParameter("limit", int, default=LIMIT, description=f"1 to {MOST_ROWS}."),
]
SERIES_RENDERERS = [FastJSONRenderer, NDJSONRenderer, CSVRenderer, BrowsableAPIRenderer]

Cursor = int | None
Read = Callable[[Cursor, int], list[Row]]


class Asked(NamedTuple):
    """What every series takes: whose, from when (ms UTC, included) to when (not included), which first, how many rows."""

    instrument: Instrument
    from_ms: int
    to_ms: int
    newest_first: bool
    limit: int


class Series(NamedTuple):
    """How one series is read and written.

    Attributes:
        head: what stands before the rows in JSON.
        columns: names of a row's fields, in order.
        read: (cursor, count) → rows behind the cursor; None: from the beginning.
        cursor: row → the cursor that stands at it.
        address: cursor → the query parameters that go on behind it.
        item: row → its form in JSON.
    """

    head: dict[str, Any]
    columns: Sequence[str]
    read: Read
    cursor: Callable[[Row], int]
    address: Callable[[int], dict[str, int]]
    item: Callable[[Row], Any]


class _Piece(NamedTuple):
    """Some rows of a page: whether they begin it, whether they end it, and where the next page goes on."""

    rows: list[Row]
    begins: bool
    ends: bool
    following: dict[str, int] | None


def asked_for(parameters: Parameters) -> Asked:
    """Read the parameters of SERIES_NAMES.

    Raises:
        BadInput: one is wrong, or nobody has that name.
    """
    start, end = parameters.span()
    order = parameters.choice("order", "oldest" if parameters.text("from") else "newest", ("oldest", "newest"))
    limit = parameters.integer("limit", LIMIT, low=1, high=MOST_ROWS)
    name = parameters.required("instrument", "an instrument key, or id:<n>")
    as_of = datetime.fromtimestamp(parameters.instant("as_of", 0) / 1000, UTC) if parameters.text("as_of") else None
    try:
        instrument = instrument_resolve(name, as_of=as_of)
    except UnknownInstrument as error:
        raise BadInput("instrument", str(error), code="unknown_instrument") from None
    return Asked(instrument, start, end, order == "newest", limit)


def series_response(request: Request, series: Series, cursor: Cursor, limit: int) -> HttpResponse | StreamingHttpResponse | Response:
    """Answer with up to `limit` rows behind `cursor`. What fails before the first piece is a proper error."""
    form: str = request.accepted_renderer.format
    if form == "api":
        limit = min(limit, PIECE)  # a person reads this
    pieces = _pieces(series, series.read(cursor, min(limit, PIECE) + 1), limit)
    first = next(pieces)
    if form == "api":
        return Response(_json(request, series, first))
    content_type, write = _WRITERS[form]
    if first.ends:
        return HttpResponse(write(request, series, first), content_type=content_type)

    def advance() -> _Piece | None:
        return next(pieces, None)

    async def stream() -> AsyncIterator[bytes]:
        yield write(request, series, first)
        while (piece := await sync_to_async(advance, thread_sensitive=False)()) is not None:
            yield write(request, series, piece)

    return StreamingHttpResponse(stream(), content_type=content_type)


def _pieces(series: Series, rows: list[Row], limit: int) -> Iterator[_Piece]:
    """Give the page in pieces; `rows` is the first, and one row more where there is one."""
    begins = True
    while True:
        size = min(limit, PIECE)
        more, rows = len(rows) > size, rows[:size]
        limit -= size
        ends = not more or not limit
        yield _Piece(rows, begins, ends, series.address(series.cursor(rows[-1])) if more and ends else None)
        if ends:
            return
        begins = False
        rows = series.read(series.cursor(rows[-1]), min(limit, PIECE) + 1)


def next_url(request: Request, changed: Mapping[str, int | str]) -> str:
    """Return this request's address with some parameters changed."""
    query = {**request.query_params.dict(), **changed}
    return request.build_absolute_uri(f"{request.path}?{urlencode(query)}")


def _json(request: Request, series: Series, piece: _Piece) -> bytes:
    head = msgspec.json.encode(series.head)[:-1] + b',"results":[' if piece.begins else b","
    following = next_url(request, piece.following) if piece.following else None
    tail = b'],"next":%b}' % msgspec.json.encode(following) if piece.ends else b""
    return head + json_rows(map(series.item, piece.rows)) + tail


def _ndjson(request: Request, series: Series, piece: _Piece) -> bytes:
    return ndjson_rows(piece.rows)


def _csv(request: Request, series: Series, piece: _Piece) -> bytes:
    return csv_rows(piece.rows, series.columns, header=piece.begins)


_WRITERS = {
    "json": ("application/json", _json),
    "ndjson": (f"{NDJSONRenderer.media_type}; charset=utf-8", _ndjson),
    "csv": (f"{CSVRenderer.media_type}; charset=utf-8", _csv),
}
