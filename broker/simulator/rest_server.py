"""REST of market data: each method parses a request, asks the market, and returns the `data` of the envelope. Errors are ApiError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from starlette.requests import Request

from broker.simulator import calendar_rows, candles, quotes
from broker.simulator.calendar import DAY_MS, MINUTE_MS, day_of, midnight_ms
from broker.simulator.errors import ApiError
from broker.simulator.market_port import Market
from broker.simulator.quotes import Quote
from broker.simulator.source import Bar

KEYS_MAX = 500
GREEK_KEYS_MAX = 50
"""Keys in one request. Source: FACTS §5."""
OPTION_TYPES = ("CE", "PE")
Answer = Callable[[Request], Any]
Row = Mapping[str, Any]


class RestServer:
    """Answers for one market."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def paths(self) -> dict[str, Answer]:
        """Path → method."""
        return {
            "/v2/market/status/{exchange}": self.status,
            "/v2/market/holidays": self.holidays,
            "/v2/market/holidays/{date}": self.holidays,
            "/v2/market/timings/{date}": self.timings,
            "/v3/market-quote/ltp": self.ltp,
            "/v3/market-quote/ohlc": self.ohlc,
            "/v2/market-quote/quotes": self.full_quotes,
            "/v3/market-quote/quotes": self.full_quotes_v3,
            "/v3/market-quote/option-greek": self.option_greek,
            "/v2/option/contract": self.option_contracts,
            "/v2/option/chain": self.option_chain,
            "/v3/historical-candle/intraday/{key}/{unit}/{interval}": self.intraday_candles,
            "/v3/historical-candle/{key}/{unit}/{interval}/{to_date}": self.historical_candles,
            "/v3/historical-candle/{key}/{unit}/{interval}/{to_date}/{from_date}": self.historical_candles,
        }

    # --- calendar ---------------------------------------------------------------------------------------------------------

    def status(self, request: Request) -> dict[str, Any]:
        """One exchange's status now."""
        exchange = request.path_params["exchange"]
        segment = calendar_rows.SEGMENT_OF.get(exchange)
        if segment is None:
            raise ApiError("UDAPI1089", field="exchange", value=exchange)
        found = {"exchange": exchange, "status": self._market.segments()[segment], "last_updated": self._market.now_ms()}
        if segment in (auctions := self._market.auctions()):
            status, since_ms = auctions[segment]
            found["cas_eligible_status"] = {"status": status, "last_updated": since_ms}
        return found

    def holidays(self, request: Request) -> list[dict[str, Any]]:
        """This year's holidays, or one date's."""
        if "date" in request.path_params:
            return calendar_rows.holidays_on(_date(request.path_params["date"], "UDAPI1088", "date"), self._market.hours)
        return calendar_rows.holidays_in(day_of(self._market.now_ms()).year, self._market.hours)

    def timings(self, request: Request) -> list[dict[str, Any]]:
        """The session of each exchange on a date."""
        return calendar_rows.timings(_date(request.path_params["date"], "UDAPI1088", "date"), self._market.hours)

    # --- quotes -----------------------------------------------------------------------------------------------------------

    def ltp(self, request: Request) -> dict[str, Any]:
        """Last prices."""
        rows = self._rows(request, KEYS_MAX, "UDAPI100043")
        return {quotes.quote_key(row): quotes.ltp(row, self._quote(row)) for row in rows}

    def option_greek(self, request: Request) -> dict[str, Any]:
        """Greeks of options; another kind of key fails the whole request."""
        rows = self._rows(request, GREEK_KEYS_MAX, "UDAPI100076")
        for row in rows:
            if row["instrument_type"] not in OPTION_TYPES:
                raise ApiError("UDAPI100095", field="instrument_key", value=row["instrument_key"])
        return {quotes.quote_key(row): quotes.option_greek(row, self._quote(row)) for row in rows}

    def full_quotes(self, request: Request) -> dict[str, Any]:
        """Whole quotes with depth."""
        rows = self._rows(request, KEYS_MAX, "UDAPI100042")
        return {quotes.quote_key(row): quotes.full_quote(row, self._quote(row), self._market.now_ms()) for row in rows}

    def full_quotes_v3(self, request: Request) -> dict[str, Any]:
        """Whole quotes as of V3."""
        found = {}
        for row in self._rows(request, KEYS_MAX, "UDAPI100042"):
            previous = self._market.previous_open_interest(row["instrument_key"])
            found[quotes.quote_key(row)] = quotes.full_quote_v3(row, self._quote(row), self._market.now_ms(), previous)
        return found

    def ohlc(self, request: Request) -> dict[str, Any]:
        """The live bar and the one before it."""
        interval = request.query_params.get("interval", "")
        if interval not in ("1d", "I1", "I30"):
            raise ApiError("UDAPI1028", field="interval", value=interval)
        found = {}
        for row in self._rows(request, KEYS_MAX, "UDAPI100043"):
            quote = self._quote(row)
            previous, live = self._two_bars(row["instrument_key"], interval, quote.ltpc.ltp)
            found[quotes.quote_key(row)] = quotes.ohlc(row, quote, previous, live)
        return found

    def _two_bars(self, key: str, interval: str, price: float) -> tuple[Bar | None, Bar]:
        """The last finished bar (None where there is none) and the forming one (flat at `price` where nothing was traded yet)."""
        now = self._market.now_ms()
        if interval == "1d":
            start = midnight_ms(day_of(now))
            bars = self._market.day_bars(key, start - 10 * DAY_MS, start + DAY_MS)
        else:
            width = 1 if interval == "I1" else 30
            minutes = self._market.minute_bars(key, now - 2 * width * MINUTE_MS - MINUTE_MS, now + 1)
            bars = candles.gathered(minutes, "minutes", width)
            start = candles.gathered([Bar(now, 0, 0, 0, 0, 0, 0)], "minutes", width)[0].start_ms
        before = [bar for bar in bars if bar.start_ms < start]
        live = [bar for bar in bars if bar.start_ms >= start]
        return (before[-1] if before else None, live[-1] if live else Bar(start, price, price, price, price, 0, 0))

    def _quote(self, row: Row) -> Quote:
        return Quote(self._market.feed(row["instrument_key"]))

    def _rows(self, request: Request, limit: int, too_many: str) -> list[Row]:
        """The master rows of `instrument_key`; one unknown key fails the request, as the broker does."""
        keys = [key for key in request.query_params.get("instrument_key", "").split(",") if key]
        if not keys:
            raise ApiError("UDAPI1009", field="instrument_key")
        if len(keys) > limit:
            raise ApiError(too_many, field="instrument_key", value=str(len(keys)))
        return [self._row(key, "UDAPI1087") for key in keys]

    def _row(self, key: str, code: str) -> Row:
        row = self._market.rows_by_key.get(key)
        if row is None:
            raise ApiError(code, field="instrument_key", value=key)
        return row

    # --- options ----------------------------------------------------------------------------------------------------------

    def option_contracts(self, request: Request) -> list[dict[str, Any]]:
        """Contracts of an underlying; expiry as a date."""
        expiry = request.query_params.get("expiry_date")
        if expiry is not None:
            _date(expiry, "UDAPI1021", "expiry_date")
        rows = self._options(request)
        return [dict(row) | {"expiry": text} for row in rows if (text := quotes.expiry_text(row)) == (expiry or text)]

    def option_chain(self, request: Request) -> list[dict[str, Any]]:
        """One expiry by strike, lowest first."""
        expiry = _date(request.query_params.get("expiry_date", ""), "UDAPI1021", "expiry_date").isoformat()
        underlying = self._underlying(request)
        strikes: dict[float, dict[str, Row]] = {}
        for row in self._options(request):
            if quotes.expiry_text(row) == expiry:
                strikes.setdefault(row["strike_price"], {})[row["instrument_type"]] = row
        return [self._strike(expiry, underlying, strike, strikes[strike]) for strike in sorted(strikes)]

    def _strike(self, expiry: str, underlying: str, strike: float, sides: dict[str, Row]) -> dict[str, Any]:
        found = {}
        for kind, row in sides.items():
            found[kind] = quotes.chain_side(row, self._quote(row), self._market.previous_open_interest(row["instrument_key"]))
        call_oi, put_oi = (found[kind]["market_data"]["oi"] if kind in found else 0.0 for kind in OPTION_TYPES)
        line: dict[str, Any] = {
            "expiry": expiry,
            "pcr": round(put_oi / call_oi, 4) if call_oi else 0.0,
            "strike_price": strike,
            "underlying_key": underlying,
            "underlying_spot_price": self._spot(underlying),
        }
        names = {"CE": "call_options", "PE": "put_options"}
        return line | {names[kind]: side for kind, side in found.items()}

    def _spot(self, underlying: str) -> float:
        try:
            return self._market.spot(underlying)
        except KeyError:
            return 0.0

    def _underlying(self, request: Request) -> str:
        key = request.query_params.get("instrument_key", "")
        if not key:
            raise ApiError("UDAPI1009", field="instrument_key")
        return key

    def _options(self, request: Request) -> list[Row]:
        underlying = self._underlying(request)
        rows = self._market.rows_by_key
        options = (row for row in rows.values() if row["instrument_type"] in OPTION_TYPES)
        found: list[Row] = [row for row in options if row.get("underlying_key") == underlying]
        if not found and underlying not in rows:
            raise ApiError("UDAPI100011", field="instrument_key", value=underlying)
        return found

    # --- candles ----------------------------------------------------------------------------------------------------------

    def intraday_candles(self, request: Request) -> dict[str, Any]:
        """Today's candles, the forming one included."""
        unit, key = request.path_params["unit"], self._row(request.path_params["key"], "UDAPI100011")["instrument_key"]
        interval = candles.checked_interval(unit, request.path_params["interval"], candles.INTRADAY_UNITS)
        today = day_of(self._market.now_ms())
        return self._candles(key, unit, interval, *candles.span_ms(today, today))

    def historical_candles(self, request: Request) -> dict[str, Any]:
        """Candles of days before today: to_date before from_date in the path, both inclusive."""
        given = request.path_params
        unit, key = given["unit"], self._row(given["key"], "UDAPI100011")["instrument_key"]
        interval = candles.checked_interval(unit, given["interval"])
        first, last = candles.checked_range(unit, interval, given["to_date"], given.get("from_date"))
        from_ms, to_ms = candles.span_ms(first, last)
        return self._candles(key, unit, interval, from_ms, min(to_ms, midnight_ms(day_of(self._market.now_ms()))))

    def _candles(self, key: str, unit: str, interval: int, from_ms: int, to_ms: int) -> dict[str, Any]:
        read = self._market.minute_bars if unit in ("minutes", "hours") else self._market.day_bars
        bars = read(key, from_ms, to_ms) if from_ms < to_ms else []
        return {"candles": candles.candle_rows(candles.gathered(bars, unit, interval))}


def _date(text: str, code: str, field: str) -> date:
    try:
        if len(text) != 10:
            raise ValueError(text)
        return date.fromisoformat(text)
    except ValueError as error:
        raise ApiError(code, field=field, value=text) from error
