"""Option chains over REST: which are followed, one of them now or at a past minute, and a day of its figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput
from instruments.chain_listing import NoSuchChain
from instruments.domain.expiry import check_expiry_word
from instruments.domain.instrument import IST
from instruments.followed_chains import chains_followed
from instruments.past_expiries import expiry_at
from instruments.selectors import market_now
from marketdata.api.chain_memory import chain_memory
from marketdata.api.chain_serializers import ChainHistorySerializer, ChainSerializer, FollowedChainsSerializer
from marketdata.api.parameters import EARLIEST_MS, LATEST_MS, Parameters
from marketdata.api.series import LIMIT, MOST_ROWS, SERIES_RENDERERS, Series, series_response
from marketdata.api.status import feed_now
from marketdata.chain_minutes import chain_view
from marketdata.chain_store import ChainView, history_read, snapshot_read, span_read
from marketdata.domain.candle import DAY_MS, MINUTE_MS, day_start_ms
from marketdata.domain.chain_rows import Aggregate, Row, Side, check_window
from marketdata.hub import followed_entries, latest_entries

WINDOW = "atm10"
NEAREST = "@w0"
COLUMNS = ("minute", *Aggregate._fields)
_encode = msgspec.json.Encoder().encode

EXPIRY = OpenApiParameter(
    "expiry", str, default=NEAREST, description="@w0 (this week's), @w1 …, @m0 (the nearest monthly) …, or YYYY-MM-DD."
)
UNDERLYING = OpenApiParameter("underlying", str, OpenApiParameter.PATH, description="Symbol: NIFTY, BANKNIFTY, RELIANCE.")


class ChainListView(APIView):
    """The option chains of which the subscription rules follow contracts, by underlying and expiry: those that are stored each minute.

    Any other listed chain can be asked for too; clients have its contracts followed by subscribing to them.
    """

    @extend_schema(operation_id="chains", responses=FollowedChainsSerializer)
    def get(self, request: Request) -> Response:
        Parameters(request, ())
        rows = [
            {
                "underlying": chain.underlying,
                "expiry": chain.expiry.isoformat(),
                "kind": chain.kind.value,
                "words": chain.words,
                "ends": chain.ends_ms,
                "options": chain.options,
                "followed": chain.followed,
            }
            for chain in chains_followed(_market_at())
        ]
        return Response({"results": rows})


class ChainDetailView(APIView):
    """One option chain: its strikes with calls and puts, and its figures as a whole.

    Without `at` it is as the feed's newest quotes have it. With `at` it is as stored for that minute of market time, or for the newest
    minute before: chains that the rules follow are stored once a minute while their segment trades, in the minute's first seconds, and
    once at its close.
    An expiry's word means what it meant then.
    """

    @extend_schema(
        operation_id="chain",
        parameters=[
            UNDERLYING,
            EXPIRY,
            OpenApiParameter("strikes", str, default=WINDOW, description="atm10: ten on each side of the money, 1 to 200; or all."),
            OpenApiParameter("at", str, description="A past minute: epoch ms or ISO 8601; IST when without an offset."),
        ],
        responses=ChainSerializer,
    )
    def get(self, request: Request, underlying: str) -> Response:
        parameters = Parameters(request, ("expiry", "strikes", "at"))
        name, expiry = underlying.upper(), _expiry_word(parameters)
        strikes = parameters.text("strikes") or WINDOW
        try:
            check_window(strikes)
        except ValueError as error:
            raise BadInput("strikes", f"{error}.") from None
        if parameters.text("at"):
            view = _stored_view(name, expiry, parameters.instant("at", 0))
            return Response(_chain_json(view, strikes, latest_entries(())[1], stored=True))
        view, state = _live_view(name, expiry)
        return Response(_chain_json(view, strikes, state, stored=False))


class ChainHistoryView(APIView):
    """The figures of one chain as a whole (PCR, straddle, max pain, open interest …), a row for each stored minute, the oldest first.

    Without `from` and `to` it is the newest market day of which there is something. A minute in which nothing changed has no row.
    A page of JSON ends with `next`. CSV and NDJSON have rows only: when there are `limit` of them, ask again with `from` just behind the
    last row's minute.
    """

    renderer_classes = SERIES_RENDERERS

    @extend_schema(
        operation_id="chain_history",
        parameters=[
            UNDERLYING,
            EXPIRY,
            OpenApiParameter("from", str, description="Epoch ms or ISO 8601; IST when without an offset."),
            OpenApiParameter("to", str, description="Not included."),
            OpenApiParameter("limit", int, default=LIMIT, description=f"1 to {MOST_ROWS}."),
        ],
        responses={(200, "application/json"): ChainHistorySerializer, (200, "application/x-ndjson"): str, (200, "text/csv"): str},
    )
    def get(self, request: Request, underlying: str) -> HttpResponse | StreamingHttpResponse | Response:
        parameters = Parameters(request, ("expiry", "from", "to", "limit"))
        name, word = underlying.upper(), _expiry_word(parameters)
        start, end = parameters.span()
        limit = parameters.integer("limit", LIMIT, low=1, high=MOST_ROWS)
        expiry = _known_expiry(name, word)
        if (start, end) == (EARLIEST_MS, LATEST_MS):
            newest = snapshot_read(name, expiry, _market_ms())
            start = day_start_ms(_market_ms() if newest is None else newest.minute_ms)
            end = start + DAY_MS
        return series_response(request, _history_series(name, expiry, start, end), None, limit)


# --- reading ------------------------------------------------------------------------------------------------------------
def _expiry_word(parameters: Parameters) -> str:
    word = parameters.text("expiry") or NEAREST
    try:
        check_expiry_word(word)
    except ValueError as error:
        raise BadInput("expiry", f"{error}.") from None
    return word


def _market_at() -> datetime:
    market_ms = feed_now()[1].market_ms
    return market_now() if market_ms is None else _aware(market_ms)


def _market_ms() -> int:
    return round(_market_at().timestamp() * 1000)


def _live_view(underlying: str, expiry: str) -> tuple[ChainView, str]:
    """Return the chain by the newest quotes, and the feed's state."""
    try:
        listing, bases = chain_memory.read(underlying, expiry, _market_at())
    except NoSuchChain as error:
        raise _unknown(error) from None
    instruments = [option.instrument for option in listing.options]
    entries, state = followed_entries(instruments if listing.underlying_id is None else [listing.underlying_id, *instruments])
    return chain_view(listing, entries, bases), state


def _stored_view(underlying: str, word: str, at_ms: int) -> ChainView:
    """Return the chain as it was stored at or before a minute."""
    try:
        expiry = _expiry_then(underlying, word, at_ms) if word.startswith("@") else word
        found = snapshot_read(underlying, expiry, at_ms)
        if found is not None:
            return found.view
        span = span_read(underlying, expiry)
        if span is None:
            expiry_at(underlying, expiry, min(_aware(at_ms), _market_at()))  # says what is unknown
    except NoSuchChain as error:
        raise _unknown(error) from None
    raise BadInput("at", f"{_missing(underlying, expiry, span)} {_KEPT.format(settings.CHAIN_RETENTION_DAYS)}", code="not_found")


def _expiry_then(underlying: str, word: str, at_ms: int) -> str:
    try:
        return expiry_at(underlying, word, _aware(at_ms)).isoformat()
    except NoSuchChain:
        now = expiry_at(underlying, word, _market_at())  # raises where it is the underlying or the word that means nothing
        what = f"No {word} of {underlying} is known for {_minute(at_ms)}; now it is {now.isoformat()}."
        raise BadInput("at", f"{what} Ask for an earlier time, or name the expiry by its date.", code="not_found") from None


_KEPT = "Chains that the subscription rules follow are stored each minute while their segment trades, and kept for {} days."


def _missing(underlying: str, expiry: str, span: tuple[int, int] | None) -> str:
    if span is None:
        return f"No minute of {underlying} {expiry} is stored."
    first, last = map(_minute, span)
    return f"The stored minutes of {underlying} {expiry} begin at {first} and end at {last}."


def _minute(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, IST).isoformat(timespec="minutes")


def _aware(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _known_expiry(underlying: str, word: str) -> str:
    """Return the date that a word means now; a date may be one of which something is stored."""
    try:
        if word.startswith("@"):
            return chain_memory.read(underlying, word, _market_at()).listing.expiry.isoformat()
        if span_read(underlying, word) is None:
            expiry_at(underlying, word, _market_at())
    except NoSuchChain as error:
        raise _unknown(error) from None
    return word


def _unknown(error: NoSuchChain) -> BadInput:
    way_out = " /api/marketdata/instruments/search/?q= finds what there is." if error.field == "underlying" else ""
    return BadInput(error.field, f"{error}.{way_out}", code="not_found")


# --- writing ------------------------------------------------------------------------------------------------------------
def _chain_json(view: ChainView, strikes: str, state: str, *, stored: bool) -> bytes:
    money = view.aggregate.forward or view.aggregate.spot
    return _encode(
        {
            "underlying": view.underlying,
            "underlying_key": view.underlying_key,
            "segment": view.segment,
            "expiry": view.expiry,
            "kind": view.kind,
            "ends": view.ends_ms,
            "at": view.market_ms or None,
            "state": state,
            "stored": stored,
            "aggregate": view.aggregate._asdict(),
            "strikes": [_strike(row, money) for row in view.window(strikes)],
        }
    )


def _strike(row: Row, money: float | None) -> dict[str, Any]:
    ratio = round(row.strike_price / money, 6) if money else None
    return {"strike": row.strike_price, "strike_to_forward": ratio, "call": _side(row.call), "put": _side(row.put)}


def _side(side: Side | None) -> dict[str, Any] | None:
    return None if side is None else side._asdict()


def _history_series(underlying: str, expiry: str, from_ms: int, to_ms: int) -> Series:
    """The cursor is the last row's minute."""

    def read(last_ms: int | None, count: int) -> list[dict[str, Any]]:
        start = from_ms if last_ms is None else last_ms + MINUTE_MS
        found = history_read(underlying, expiry, from_ms=start, to_ms=to_ms, limit=count)
        return [{"minute": minute_ms, **figures._asdict()} for minute_ms, figures in found]

    return Series(
        head={"underlying": underlying, "expiry": expiry},
        columns=COLUMNS,
        read=read,
        cursor=lambda row: int(row["minute"]),
        address=lambda cursor: {"from": cursor + MINUTE_MS, "to": to_ms},
        item=lambda row: row,
    )
