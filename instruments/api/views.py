"""Instruments over REST: list, detail, search, expiries. Reads by index, writes nothing."""

from __future__ import annotations

from urllib.parse import urlencode

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from instruments.api import serializers
from instruments.api.queries import DetailQuery, ListQuery, MomentQuery, NoQuery, SearchQuery, list_request
from instruments.history import is_past
from instruments.search import search
from instruments.selectors import instrument_history, instrument_state, market_now, underlying_expiries

SYMBOL = OpenApiParameter("symbol", str, OpenApiParameter.PATH, description="Of the underlying, in any case: NIFTY, RELIANCE.")
KEY = OpenApiParameter("key", str, OpenApiParameter.PATH, description="Key (`NSE_FO|51420`), or `id:<n>`.")


class InstrumentViewSet(viewsets.ViewSet):
    """What can be traded, from the broker's master: active instruments, ordered by id, a page at a time.

    The broker's keys are recycled: a key means the contract that holds it now, or `as_of` a time; `id:<n>` means one for ever.
    """

    lookup_field = "key"
    lookup_value_regex = "[^/]+"

    @extend_schema(operation_id="instruments_list", parameters=[ListQuery], responses=serializers.InstrumentPageSerializer)
    def list(self, request: Request) -> Response:
        asked = list_request(ListQuery.read(request), market_now)
        rows = [serializers.instrument_row(document) for document in asked.page()]
        more = len(rows) > asked.limit
        rows = rows[: asked.limit]
        return Response({"results": rows, "next": _next_url(request, rows[-1]["id"]) if more else None})

    @extend_schema(
        operation_id="instrument_detail",
        parameters=[DetailQuery, KEY],
        responses=serializers.InstrumentSerializer,
    )
    def retrieve(self, request: Request, key: str) -> Response:
        return Response(serializers.instrument_row(instrument_state(key, as_of=DetailQuery.read(request).get("as_of"))))

    @extend_schema(operation_id="instrument_history", parameters=[KEY], responses=serializers.HistorySerializer)
    @action(detail=True, url_path="history", url_name="history")
    def history(self, request: Request, key: str) -> Response:
        """Every contract that ever held the key, and everything that its instrument has been."""
        NoQuery.read(request)
        found = instrument_history(key)
        return Response(
            {
                "key": found.key,
                "id": found.instrument,
                "holders": [serializers.holding_row(holding) for holding in found.holdings],
                "states": [serializers.instrument_row(state) for state in found.states],
            }
        )

    @extend_schema(operation_id="instruments_search", parameters=[SearchQuery], responses=serializers.SearchResultSerializer)
    @action(detail=False, url_path="search", url_name="search")
    def search(self, request: Request) -> Response:
        """Search as a trader types it: "nifty 25000 ce", "banknifty fut", "reliance"."""
        asked = SearchQuery.read(request)
        narrowed = list_request(asked, market_now)
        only = {**narrowed.wanted, **({} if asked["subscribed"] is None else {"_id": narrowed.ids})}
        found = search(asked["q"], limit=asked["limit"], at=market_now(), only=only)
        return Response({"results": [serializers.instrument_row(document) for document in found]})


def _next_url(request: Request, after: int) -> str:
    query = urlencode({**request.query_params.dict(), "after": after})
    return request.build_absolute_uri(f"{request.path}?{query}")


class ExpiriesView(APIView):
    """The living expiries of an underlying, from the master, never computed from weekdays."""

    @extend_schema(operation_id="underlying_expiries", parameters=[MomentQuery, SYMBOL], responses=serializers.ExpiriesSerializer)
    def get(self, request: Request, symbol: str) -> Response:
        asked = MomentQuery.read(request).get("at")
        at = asked or market_now()
        listed = underlying_expiries(symbol.upper(), at, as_of=at if asked and is_past(asked) else None)
        if not listed:
            raise NotFound(f"The master lists no contract of {symbol.upper()[:40]!r} that is alive then.")
        return Response({"underlying": symbol.upper(), "results": [serializers.expiry_row(each) for each in listed]})
