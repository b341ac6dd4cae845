"""Instruments over REST: list, detail, search, expiries, and what is followed. Reads by index, writes nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from instruments.api import serializers
from instruments.api.queries import DetailQuery, ListQuery, MomentQuery, NoQuery, SearchQuery, list_request
from instruments.domain.universe import MODES
from instruments.history import is_past
from instruments.search import search
from instruments.selectors import Followed, followed, instrument_history, instrument_state, market_now, underlying_expiries

CUT_KEYS_SHOWN = 20
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
        found = search(asked["q"], limit=asked["limit"], at=market_now())
        return Response({"results": [serializers.instrument_row(document) for document in found]})


def _next_url(request: Request, after: int) -> str:
    query = urlencode({**request.query_params.dict(), "after": after})
    return request.build_absolute_uri(f"{request.path}?{query}")


class ExpiriesView(APIView):
    """The living expiries of an underlying, from the master, never computed from weekdays."""

    @extend_schema(operation_id="underlying_expiries", parameters=[MomentQuery], responses=serializers.ExpiriesSerializer)
    def get(self, request: Request, symbol: str) -> Response:
        asked = MomentQuery.read(request).get("at")
        at = asked or market_now()
        listed = underlying_expiries(symbol.upper(), at, as_of=at if asked and is_past(asked) else None)
        if not listed:
            raise Http404
        return Response({"underlying": symbol.upper(), "results": [serializers.expiry_row(each) for each in listed]})


class SubscriptionViewSet(viewsets.ViewSet):
    """The rules that decide what is followed, what they mean now, and against which limit. They are edited in the admin."""

    lookup_value_regex = "[0-9a-f]{24}"

    @extend_schema(operation_id="subscriptions_list", responses=serializers.SubscriptionsSerializer)
    def list(self, request: Request) -> Response:
        NoQuery.read(request)
        now = followed(market_now())
        return Response({**_summary(now), "results": [serializers.rule_row(rule) for rule in now.rules]})

    @extend_schema(operation_id="subscription_detail", responses=serializers.SubscriptionDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        NoQuery.read(request)
        rule = next((rule for rule in followed(market_now()).rules if str(rule.row.pk) == pk), None)
        if rule is None:
            raise Http404
        return Response({**serializers.rule_row(rule), "instruments": [] if rule.selection is None else rule.selection.keys})


def _summary(now: Followed) -> dict[str, Any]:
    by_mode, limits = now.universe.by_mode, now.limits
    return {
        "at": round(now.at.timestamp() * 1000),
        "prices_at": now.spots_at_ms,
        "modes": [
            {"mode": mode, "instruments": len(by_mode.get(mode, [])), "limit": limits[mode]}
            for mode in MODES
            if limits.get(mode) or mode in by_mode
        ],
        "cut": [
            {"rule": cut.rule, "mode": cut.mode, "reason": cut.reason, "instruments": len(cut.keys), "keys": cut.keys[:CUT_KEYS_SHOWN]}
            for cut in now.universe.cut
        ],
    }
