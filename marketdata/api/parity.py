"""How the day's candles came to be, and how those made of ticks compared with the broker's bars."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput
from instruments.selectors import UnknownInstrument, instrument_keys, instrument_resolve, market_now
from marketdata.api.parameters import EARLIEST_MS, LATEST_MS, Parameters
from marketdata.api.series import next_url
from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, day_start_ms
from marketdata.parity import COUNTS, ORDERS, Mark, parity_day, parity_rows, parity_total, percents

Row = dict[str, Any]

LIMIT = 100
MOST_ROWS = 5000
EQUAL_HELP = "Of `compared`, those in which ticks and the broker's bar agreed to the cent."


class PercentSerializer(serializers.Serializer[Row]):
    """In how many of the compared minutes each was equal, in percent; null: nothing was compared. `prices`: all four at once."""

    open = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    close = serializers.FloatField(allow_null=True)
    volume = serializers.FloatField(allow_null=True)
    prices = serializers.FloatField(allow_null=True)


class CountsSerializer(serializers.Serializer[Row]):
    """Minutes by how they came to be."""

    confirmed = serializers.IntegerField(help_text="The broker's own bars.")
    closed = serializers.IntegerField(help_text="From ticks alone, so far.")
    backfilled = serializers.IntegerField(help_text="Fetched from the broker after a gap.")
    missing = serializers.IntegerField(help_text="Minutes of the session in a gap that is not healed, without a candle.")
    revised = serializers.IntegerField(help_text="Finished with other values than at last.")
    compared = serializers.IntegerField(help_text="Confirmed ones that had a candle from ticks before.")
    volume_compared = serializers.IntegerField(help_text="Of `compared`, those with volume: indices have none.")
    open_equal = serializers.IntegerField(help_text=EQUAL_HELP)
    high_equal = serializers.IntegerField(help_text=EQUAL_HELP)
    low_equal = serializers.IntegerField(help_text=EQUAL_HELP)
    close_equal = serializers.IntegerField(help_text=EQUAL_HELP)
    volume_equal = serializers.IntegerField(help_text="Of `volume_compared`, those with the same volume.")
    prices_equal = serializers.IntegerField(help_text="Of `compared`, those in which open, high, low and close all agreed.")
    percent = PercentSerializer()


class ParityTotalSerializer(CountsSerializer):
    """All instruments of the day together."""

    instruments = serializers.IntegerField()


class ParityRowSerializer(CountsSerializer):
    """One instrument."""

    key = serializers.CharField(allow_null=True)
    instrument = serializers.IntegerField()
    day = serializers.IntegerField(help_text="00:00 IST, ms UTC")


class ParitySerializer(serializers.Serializer[Row]):
    """A day."""

    day = serializers.IntegerField(help_text="00:00 IST, ms UTC")
    date = serializers.DateField(help_text="In India.")
    total = ParityTotalSerializer(help_text="Of all instruments, also where one is asked for.")
    results = ParityRowSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class ParityView(APIView):
    """How candles made of ticks compared with the broker's bars before they were confirmed, and how many minutes of the day are
    confirmed, closed only, back-filled or missing: all instruments together, and each.

    Without `day`: the newest one, up to the market's today, of which anything is counted. It is counted once a minute.
    """

    @extend_schema(
        operation_id="parity",
        parameters=[
            OpenApiParameter("day", str, description="YYYY-MM-DD, in India. Default: the newest up to the market's today."),
            OpenApiParameter("instrument", str, description="Only this one: key (whoever held it that day), or id:<n>."),
            OpenApiParameter(
                "order",
                str,
                enum=list(ORDERS),
                default="prices",
                description="prices: the smallest share of equal prices first; missing: the most missing first; instrument: by id.",
            ),
            OpenApiParameter("after", str, description="Where the page before ended: take it from `next`."),
            OpenApiParameter("limit", int, default=LIMIT, description=f"1 to {MOST_ROWS}."),
        ],
        responses=ParitySerializer,
    )
    def get(self, request: Request) -> Response:
        parameters = Parameters(request, ("day", "instrument", "order", "after", "limit"))
        limit = parameters.integer("limit", LIMIT, low=1, high=MOST_ROWS)
        order = parameters.choice("order", "prices", ORDERS)
        mark = _mark(parameters.text("after"))
        asked = _day(parameters.text("day"))
        instrument = _instrument(parameters.text("instrument"), asked)
        day = asked
        if day is None:
            market_ms = round(market_now().timestamp() * 1000)
            newest = parity_day(market_ms, instrument)
            day = day_start_ms(market_ms) if newest is None else newest
        found = parity_rows(day, instrument=instrument, order=order, after=mark, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        following = {"day": _date(day), "after": f"{page[-1][1].value!r}:{page[-1][1].instrument}"} if more else None
        return Response(
            {
                "day": day,
                "date": _date(day),
                "total": _counts(parity_total(day)),
                "results": _rows(day, (row for row, _ in page)),
                "next": next_url(request, following) if following else None,
            }
        )


def _day(text: str | None) -> int | None:
    """Return 00:00 IST of a date, ms UTC."""
    if text is None:
        return None
    try:
        day_ms = round(datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp() * 1000) - IST_OFFSET_MS
    except ValueError:
        raise BadInput("day", "Takes a date, YYYY-MM-DD.") from None
    if not EARLIEST_MS <= day_ms <= LATEST_MS:
        raise BadInput("day", "Takes a date from 2000 to 2100.")
    return day_ms


def _date(day_ms: int) -> str:
    return datetime.fromtimestamp((day_ms + IST_OFFSET_MS) / 1000, UTC).date().isoformat()


def _instrument(name: str | None, day_ms: int | None) -> int | None:
    if name is None:
        return None
    try:
        as_of = None if day_ms is None else datetime.fromtimestamp((day_ms + DAY_MS - 1) / 1000, UTC)
        return int(instrument_resolve(name, as_of=as_of).pk)
    except UnknownInstrument as error:
        raise BadInput("instrument", str(error), code="unknown_instrument") from None


def _mark(text: str | None) -> Mark | None:
    if text is None:
        return None
    value, _, instrument = text.partition(":")
    try:
        mark = Mark(float(value), int(instrument))
    except ValueError:
        mark = None
    if mark is None or not 0 <= mark.instrument < 2**63:
        raise BadInput("after", "Takes what `next` of the page before says.")
    return mark


def _counts(row: Row) -> Row:
    return {name: row[name] for name in ("instruments", *COUNTS) if name in row} | {"percent": percents(row)}


def _rows(day_ms: int, rows: Iterable[Row]) -> list[Row]:
    found = list(rows)
    keys = instrument_keys([row["instrument"] for row in found])
    return [{"key": keys.get(row["instrument"]), "instrument": row["instrument"], "day": day_ms, **_counts(row)} for row in found]
