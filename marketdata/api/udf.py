"""TradingView's UDF: the HTTP protocol by which its charting library, and charts made for it, read symbols and candles.

Times are epoch seconds. A candle of a day, a week or a month has 00:00 UTC of its (first) trading day, as the library wants it.
Parameters that are not known are left alone: the library sends more from version to version. Not in the OpenAPI document.
Source: TradingView, Advanced Charts documentation, "UDF adapter", "Symbology", "Trading sessions", and the adapter's code; read 2026-11-22.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from django.http import HttpResponse
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import BadInput, exception_handler
from accounts.api.rendering import FastJSONRenderer
from instruments.domain.instrument import FUTURE_TYPE, INDEX_TYPE
from instruments.models import Instrument
from instruments.search import search
from instruments.search_index import SERIES_RANK
from instruments.selectors import ID_PREFIX, UnknownInstrument, instrument_resolve, market_now
from instruments.store import Document, instruments_collection
from marketdata.api.ohlc import NewestKnown, newest_known
from marketdata.api.parameters import EARLIEST_MS, LATEST_MS, Parameters
from marketdata.domain.candle import DAY_MS, IST_OFFSET_MS, MINUTE_MS, Candle, interval_end_ms, interval_start_ms
from marketdata.domain.session import Calendar, Hours
from marketdata.selectors import calendar_read, candles_of

Fields = dict[str, Any]

RESOLUTIONS = {
    "1": "1m",
    "3": "3m",
    "5": "5m",
    "10": "10m",
    "15": "15m",
    "30": "30m",
    "60": "1h",
    "120": "2h",
    "240": "4h",
    "1D": "1d",
    "1W": "1w",
    "1M": "1M",
}
"""The library's name of an interval → ours."""
SHORT_RESOLUTIONS = {"D": "1D", "W": "1W", "M": "1M"}
INTRADAY = [name for name in RESOLUTIONS if name.isdigit()]
MOST_BARS = 10_000
MOST_FOUND = 100
CANDIDATES = 300
"""So many are looked through where an exchange or a type is asked for."""
FOUND = 30
"""What the library asks for. Source: the adapter, Constants.SearchItemsLimit."""
SESSION_DAYS = 10
"""The usual hours are those that most of so many newest trading days have."""
MOST_SECONDS = 1e11
"""Larger times are milliseconds by mistake."""
ALL_DAY = "24x7"
EXCHANGES = {"": "All exchanges", "NSE": "NSE", "BSE": "BSE", "MCX": "MCX"}
TYPES = {"": "All", "index": "Indices", "stock": "Shares", "futures": "Futures", "option": "Options"}
CALLS = {
    "config": "config",
    "symbols": "symbols?symbol=NIFTY",
    "search": "search?query=nifty",
    "history": "history?symbol=NIFTY&resolution=5&countback=100",
    "time": "time",
}
_TYPES = {INDEX_TYPE: "index", FUTURE_TYPE: "futures", "CE": "option", "PE": "option"}


# --- symbols ----------------------------------------------------------------------------------------------------------


def symbol_resolve(name: str) -> Instrument:
    """Return the instrument that a chart calls so: `id:<n>` (our ticker), the broker's key, a trading symbol, or EXCHANGE:SYMBOL.

    Of instruments that share a symbol it is the index, then the share; in any case of letters, because the library raises them.

    Raises:
        BadInput: there is none.
    """
    try:
        if "|" in name or name.lower().startswith(ID_PREFIX):
            return instrument_resolve(name if "|" in name else name.lower())
        exchange, _, symbol = name.rpartition(":")
        wanted: Document = {"trading_symbol": {"$in": [symbol, symbol.upper()]}, "active": True}
        if exchange:
            wanted["exchange"] = exchange.upper()
        found = list(instruments_collection().find(wanted, {"instrument_type": 1, "exchange": 1}, hint="instrument_symbol"))
        if not found:
            raise UnknownInstrument(f"no instrument is called {name[:80]!r}")
        return Instrument.objects.get(pk=min(found, key=_symbol_rank)["_id"])
    except UnknownInstrument as error:
        raise BadInput("symbol", str(error), code="unknown_instrument") from None


def _symbol_rank(document: Document) -> tuple[int, bool, int]:
    return SERIES_RANK.get(document["instrument_type"], len(SERIES_RANK)), document["exchange"] != "NSE", document["_id"]


def symbol_fields(instrument: Instrument, calendar: Calendar) -> Fields:
    """Return what the library needs to know of an instrument (its LibrarySymbolInfo)."""
    scale, least = price_scale(instrument.tick_size)
    index = instrument.instrument_type == INDEX_TYPE
    expired: Fields = {}
    if instrument.expiry is not None and not instrument.active:
        expired = {"expired": True, "expiration_date": round(instrument.expiry.timestamp())}
    return {
        "name": instrument.trading_symbol,
        "ticker": f"{ID_PREFIX}{instrument.pk}",
        "full_name": f"{instrument.exchange}:{instrument.trading_symbol}",
        "description": instrument.trading_symbol if instrument.expiry else instrument.name,
        "type": _TYPES.get(instrument.instrument_type, "stock"),
        "exchange": instrument.exchange,
        "listed_exchange": instrument.exchange,
        "currency_code": "INR",
        "format": "price",
        "pricescale": scale,
        "minmov": least,
        "minmove2": 0,
        "timezone": "Asia/Kolkata",
        **session_fields(calendar, instrument.segment),
        "has_intraday": True,
        "intraday_multipliers": INTRADAY,
        "has_daily": True,
        "has_weekly_and_monthly": True,
        "supported_resolutions": list(RESOLUTIONS),
        "visible_plots_set": "ohlc" if index else "ohlcv",
        "volume_precision": 0,
        "data_status": "streaming",
        **expired,
    }


def price_scale(tick_size: float | None) -> tuple[int, int]:
    """Return `pricescale` and `minmov`, whose ratio is the tick: 0.05 is (100, 5). At least two decimals; a paisa where it is not known."""
    tick = Decimal(str(tick_size or 0.01)).normalize()
    scale = 10 ** max(2, -int(tick.as_tuple().exponent))
    return scale, max(1, int(tick * scale))


def session_fields(calendar: Calendar, segment: str) -> Fields:
    """Return a segment's session: its usual hours, the known weekdays without trading, and the known days with other hours.

    All from the broker's calendar. Where it does not know the segment, it trades always: the library hides no candle then.
    """
    days = calendar.days(segment)
    newest = [_session(hours) for hours in reversed(days) if hours.trades][:SESSION_DAYS]
    usual = Counter(newest).most_common(1)[0][0] if newest else ALL_DAY
    if usual == ALL_DAY:
        return {"session": ALL_DAY}
    closed = [_date(hours) for hours in days if not hours.trades and _is_weekday(hours)]
    other: dict[str, list[str]] = {}
    for hours in days:
        if hours.trades and (_session(hours) != usual or not _is_weekday(hours)):
            other.setdefault(_session(hours), []).append(_date(hours))
    corrections = [f"{session}:{','.join(dates)}" for session, dates in other.items()]
    return {"session": usual, "session_holidays": ",".join(closed), "corrections": ";".join(corrections)}


def _session(hours: Hours) -> str:
    if hours.close_ms - hours.open_ms >= DAY_MS:
        return ALL_DAY
    return "-".join(_clock((moment - hours.day_ms) // MINUTE_MS % 1440) for moment in (hours.open_ms, hours.close_ms))


def _clock(minute: int) -> str:
    return f"{minute // 60:02}{minute % 60:02}"


def _indian(hours: Hours) -> datetime:
    return datetime.fromtimestamp((hours.day_ms + IST_OFFSET_MS) / 1000, UTC)


def _date(hours: Hours) -> str:
    return f"{_indian(hours):%Y%m%d}"


def _is_weekday(hours: Hours) -> bool:
    return _indian(hours).weekday() < 5


# --- history ----------------------------------------------------------------------------------------------------------


Read = Callable[[str, int, int, int], list[Candle]]
"""(interval, from_ms, to_ms, limit) → an instrument's newest candles in the span, oldest first."""


def history(instrument: Instrument, interval: str, known: NewestKnown, *, from_s: int, to_s: int, countback: int | None = None) -> Fields:
    """Return a table of bars.

    Args:
        interval: ours.
        known: what is not stored yet: the forming bar is made of it.
        from_s, to_s: from_s <= time < to_s, epoch seconds.
        countback: so many bars before `to_s`, whatever `from_s` says; None or 0: as many as there are.

    Returns:
        The newest MOST_BARS at the most, oldest first. "no_data" when there are none, with the time of the nearest older one if any.
    """

    def read(interval: str, from_ms: int, to_ms: int, limit: int) -> list[Candle]:
        span: Any = {"from_ms": from_ms, "to_ms": to_ms, "limit": limit, "newest_first": True}
        return candles_of(instrument.pk, interval, segment=instrument.segment, **known._asdict(), **span)[::-1]

    count = min(countback or MOST_BARS, MOST_BARS)
    bars = _bars(read, interval, EARLIEST_MS // 1000 if countback else from_s, to_s, count)
    if bars:
        columns = zip(*((at, bar.open, bar.high, bar.low, bar.close, bar.volume) for at, bar in bars), strict=True)
        return {"s": "ok", **dict(zip("tohlcv", map(list, columns), strict=True))}
    older = [] if countback else _bars(read, interval, EARLIEST_MS // 1000, from_s, 1)
    return {"s": "no_data", **({"nextTime": older[-1][0]} if older else {})}


def _bars(read: Read, interval: str, from_s: int, to_s: int, count: int) -> list[tuple[int, Candle]]:
    """Return the newest `count` bars of a span, oldest first, each with the library's time of it."""
    start, end = max(from_s * 1000, EARLIEST_MS), min(to_s * 1000, LATEST_MS)
    if start >= end:
        return []
    if interval not in ("1d", "1w", "1M"):
        return [(candle.start_ms // 1000, candle) for candle in read(interval, start, end, count)]
    found = read(interval, interval_start_ms(start - IST_OFFSET_MS, interval), end - IST_OFFSET_MS, count + 1)
    days = {} if interval == "1d" else _first_days(read, interval, found)
    timed = [((days.get(candle.start_ms, candle.start_ms) + IST_OFFSET_MS) // 1000, candle) for candle in found]
    return [(at, candle) for at, candle in timed if start <= at * 1000 < end][-count:]


def _first_days(read: Read, interval: str, found: list[Candle]) -> dict[int, int]:
    """Return the start of each week or month with that of the first day in it that traded."""
    if not found:
        return {}
    days = read("1d", found[0].start_ms, interval_end_ms(found[-1].start_ms, interval), 31 * len(found))
    return {interval_start_ms(day.start_ms, interval): day.start_ms for day in reversed(days)}


# --- the protocol -----------------------------------------------------------------------------------------------------


def udf_error(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Answer a failure as the library reads it; status, headers and log are those of the API's own errors."""
    answer = exception_handler(exc, context)
    problem = msgspec.json.decode(answer.content)
    named = f"{problem['field']}: " if problem["field"] else ""
    answer.content = msgspec.json.encode({"s": "error", "errmsg": named + problem["detail"], "code": problem["code"]})
    answer["Content-Type"] = "application/json"
    return answer


class UDFView(APIView):
    """One call of the protocol."""

    renderer_classes = [FastJSONRenderer]

    def get_exception_handler(self) -> Any:
        return udf_error


class RootView(UDFView):
    """What there is to call: a person looks here, a chart's library does not."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        base = request.build_absolute_uri("/udf/")
        return Response(
            {"protocol": "TradingView UDF", "datafeed": base.rstrip("/")} | {call: base + example for call, example in CALLS.items()}
        )


class ConfigView(UDFView):
    """What this server can do."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response(
            {
                "supports_search": True,
                "supports_group_request": False,
                "supports_marks": False,
                "supports_timescale_marks": False,
                "supports_time": True,
                "supported_resolutions": list(RESOLUTIONS),
                "exchanges": [{"value": value, "name": name, "desc": name} for value, name in EXCHANGES.items()],
                "symbols_types": [{"value": value, "name": name} for value, name in TYPES.items()],
            }
        )


class SymbolView(UDFView):
    """One symbol."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response(symbol_fields(symbol_resolve(_symbol(_parameters(request))), calendar_read()))


class SearchView(UDFView):
    """Symbols as a trader types them, of an exchange and a type where they are given."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        parameters = _parameters(request)
        limit = parameters.integer("limit", FOUND, low=1, high=MOST_FOUND)
        exchange = (parameters.text("exchange") or "").upper()
        kind = parameters.text("type") or ""
        found = search(parameters.text("query") or "", limit=CANDIDATES if exchange or kind else limit, at=market_now())
        rows = [row for row in map(_found, found) if exchange in ("", row["exchange"]) and kind in ("", row["type"])]
        return Response(rows[:limit])


def _found(document: Document) -> Fields:
    symbol, exchange = document["trading_symbol"], document["exchange"]
    return {
        "symbol": symbol,
        "full_name": f"{exchange}:{symbol}",
        "description": symbol if document["expiry"] else document["name"],
        "exchange": exchange,
        "ticker": f"{ID_PREFIX}{document['_id']}",
        "type": _TYPES.get(document["instrument_type"], "stock"),
    }


class HistoryView(UDFView):
    """Candles of a symbol, the forming one among them. `countback` is obeyed before `from`."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        parameters = _parameters(request)
        name = _symbol(parameters)
        resolution = parameters.required("resolution", f"one of {', '.join(RESOLUTIONS)}")
        interval = RESOLUTIONS.get(SHORT_RESOLUTIONS.get(resolution, resolution))
        if interval is None:
            raise BadInput("resolution", f"Takes one of {', '.join(RESOLUTIONS)}.")
        countback, from_s, to_s = (_number(parameters, word) for word in ("countback", "from", "to"))
        if countback is not None and countback < 0:
            raise BadInput("countback", "Takes a number of bars.")
        from_s = EARLIEST_MS // 1000 if from_s is None else from_s
        to_s = LATEST_MS // 1000 if to_s is None else to_s
        if not countback and from_s > to_s:
            raise BadInput("from", "Must not be later than `to`.")
        instrument = symbol_resolve(name)
        return Response(history(instrument, interval, newest_known(instrument.pk), from_s=from_s, to_s=to_s, countback=countback))


class TimeView(UDFView):
    """The market's clock as text: in a replay the recorded time, else now."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(str(int(market_now().timestamp())), content_type="text/plain")


def _parameters(request: Request) -> Parameters:
    return Parameters(request, request.query_params)


def _symbol(parameters: Parameters) -> str:
    return parameters.required("symbol", "a trading symbol, EXCHANGE:SYMBOL, an instrument key or id:<n>")


def _number(parameters: Parameters, name: str) -> int | None:
    """Return a number of the library's, which may be negative, or a fraction by its own arithmetic: rounded down."""
    text = parameters.text(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < MOST_SECONDS:
        raise BadInput(name, "Takes a number; times are seconds since 1970, not milliseconds.")
    return math.floor(number)


urlpatterns = [
    path("", RootView.as_view(), name="udf"),
    path("config", ConfigView.as_view(), name="udf-config"),
    path("symbols", SymbolView.as_view(), name="udf-symbols"),
    path("search", SearchView.as_view(), name="udf-search"),
    path("history", HistoryView.as_view(), name="udf-history"),
    path("time", TimeView.as_view(), name="udf-time"),
]
