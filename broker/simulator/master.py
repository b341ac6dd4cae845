"""The simulated exchange's own instrument master: a pure function of a date and of where the indices stand.

Rows have the shape, JSON types and quirks of the broker's file (FACTS §4). A contract has the same key on every day of its life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, NamedTuple

from broker.simulator.calendar import Expiry, expiry_ms, monthly_expiries, weekly_expiries

Row = dict[str, Any]


class Index(NamedTuple):
    """An index with derivatives.

    Attributes:
        symbol, name, token: as in the master.
        level: INR; about where it stood in mid 2026.
        lot, freeze: units; since January 2026 (FACTS §6).
        step: INR between strikes.
        future_tick: paise.
        weeks: Tuesdays ahead for which weekly options exist; 0 = monthly only.
    """

    symbol: str
    name: str
    token: str
    level: float
    lot: int
    freeze: float
    step: int
    future_tick: float
    weeks: int

    @property
    def key(self) -> str:
        return f"NSE_INDEX|{self.name}"


class Equity(NamedTuple):
    """A share. `price` INR, about mid 2026 · `tick` paise. Identity and ticks as in the broker's master of July 2026."""

    symbol: str
    isin: str
    name: str
    token: str
    tick: float
    price: float


INDICES = (
    Index("NIFTY", "Nifty 50", "26000", 23_850.0, 65, 1755.0, 50, 10.0, 6),
    Index("BANKNIFTY", "Nifty Bank", "26009", 55_700.0, 30, 600.0, 100, 20.0, 0),
    Index("FINNIFTY", "Nifty Fin Service", "26037", 26_400.0, 60, 1800.0, 50, 10.0, 0),
    Index("MIDCPNIFTY", "NIFTY MID SELECT", "26074", 14_175.0, 120, 2760.0, 25, 5.0, 0),
    Index("NIFTYNXT50", "Nifty Next 50", "26013", 70_700.0, 25, 600.0, 100, 20.0, 0),
)
#: Indices with an option chain; the others have futures only.
OPTION_SYMBOLS = ("NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY")
VIX_KEY = "NSE_INDEX|India VIX"
VIX_LEVEL = 13.0

EQUITIES = (
    Equity("RELIANCE", "INE002A01018", "RELIANCE INDUSTRIES LTD", "2885", 10.0, 1335.0),
    Equity("HDFCBANK", "INE040A01034", "HDFC BANK LTD", "1333", 5.0, 785.0),
    Equity("ICICIBANK", "INE090A01021", "ICICI BANK LTD.", "4963", 10.0, 1390.0),
    Equity("INFY", "INE009A01021", "INFOSYS LIMITED", "1594", 10.0, 1145.0),
    Equity("TCS", "INE467B01029", "TATA CONSULTANCY SERV LT", "11536", 10.0, 2230.0),
    Equity("BHARTIARTL", "INE397D01024", "BHARTI AIRTEL LIMITED", "10604", 10.0, 1880.0),
    Equity("SBIN", "INE062A01020", "STATE BANK OF INDIA", "3045", 10.0, 1020.0),
    Equity("LT", "INE018A01030", "LARSEN & TOUBRO LTD.", "11483", 10.0, 4110.0),
    Equity("ITC", "INE154A01025", "ITC LTD", "1660", 5.0, 300.0),
    Equity("AXISBANK", "INE238A01034", "AXIS BANK LIMITED", "5900", 10.0, 1365.0),
    Equity("KOTAKBANK", "INE237A01036", "KOTAK MAHINDRA BANK LTD", "1922", 5.0, 398.75),
    Equity("HINDUNILVR", "INE030A01027", "HINDUSTAN UNILEVER LTD.", "1394", 10.0, 2170.0),
    Equity("BAJFINANCE", "INE296A01032", "BAJAJ FINANCE LIMITED", "317", 10.0, 965.0),
    Equity("M&M", "INE101A01026", "MAHINDRA & MAHINDRA LTD", "2031", 10.0, 3160.0),
    Equity("MARUTI", "INE585B01010", "MARUTI SUZUKI INDIA LTD.", "10999", 100.0, 14_150.0),
    Equity("SUNPHARMA", "INE044A01036", "SUN PHARMACEUTICAL IND L", "3351", 10.0, 1880.0),
    Equity("NTPC", "INE733E01010", "NTPC LTD", "11630", 5.0, 372.5),
    Equity("TITAN", "INE280A01028", "TITAN COMPANY LIMITED", "3506", 10.0, 4425.0),
    Equity("ULTRACEMCO", "INE481G01011", "ULTRATECH CEMENT LIMITED", "11532", 100.0, 11_600.0),
    Equity("HCLTECH", "INE860A01027", "HCL TECHNOLOGIES LTD", "7229", 10.0, 1150.0),
    Equity("TATASTEEL", "INE081A01020", "TATA STEEL LIMITED", "3499", 1.0, 200.0),
    Equity("POWERGRID", "INE752E01010", "POWER GRID CORP. LTD.", "14977", 5.0, 292.5),
    Equity("ASIANPAINT", "INE021A01026", "ASIAN PAINTS LIMITED", "236", 10.0, 2720.0),
    Equity("ADANIPORTS", "INE742F01042", "ADANI PORT & SEZ LTD", "15083", 10.0, 1860.0),
    Equity("JSWSTEEL", "INE019A01038", "JSW STEEL LIMITED", "11723", 10.0, 1255.0),
    Equity("WIPRO", "INE075A01022", "WIPRO LTD", "3787", 1.0, 188.75),
    Equity("ONGC", "INE213A01029", "OIL AND NATURAL GAS CORP.", "2475", 1.0, 252.5),
    Equity("COALINDIA", "INE522F01014", "COAL INDIA LTD", "20374", 5.0, 452.5),
    Equity("TECHM", "INE669C01036", "TECH MAHINDRA LIMITED", "13538", 10.0, 1422.0),
    Equity("HINDALCO", "INE038A01020", "HINDALCO  INDUSTRIES  LTD", "1363", 5.0, 1040.0),
)

#: Strikes on each side of the money: near expiries hold the default subscription rules (40 a side) with room for a day's walk.
NEAR_STRIKES = 45
FAR_STRIKES = 15
NEAR_WEEKLIES = 2
MONTHLIES = 3
#: Past this, keys of two strikes could meet (`_token`), and strikes would reach zero.
MOST_STRIKES = 230
MOST_INSTRUMENTS = 5000


def build(day: date, spot: Callable[[str], float], instruments: int | None = None) -> list[Row]:
    """Make the master of `day`.

    Args:
        day: date in India; contracts that end before it are not in.
        spot: index key → INR; the strikes lie around it.
        instruments: widen the strikes until there are at least so many rows, up to `MOST_INSTRUMENTS`. None: the default of about 1,800.

    Returns:
        Rows as in the broker's JSON: indices, equities, futures, then options by underlying, expiry and strike.
    """
    wanted = min(instruments or 0, MOST_INSTRUMENTS)
    width = 1.0
    rows = _build(day, spot, width)
    while len(rows) < wanted and width < MOST_STRIKES / FAR_STRIKES:
        width *= max(1.02, wanted / len(rows))
        rows = _build(day, spot, width)
    return rows


def _build(day: date, spot: Callable[[str], float], width: float) -> list[Row]:
    rows = [_index_row(index.name, index.token, index.symbol) for index in INDICES]
    rows.append(_index_row("India VIX", "26017", "INDIA VIX"))
    rows.extend(_equity_row(equity) for equity in EQUITIES)
    for number in range(len(INDICES)):
        rows.extend(_contract_row(number, expiry, "FUT", 0.0) for expiry in monthly_expiries(day, MONTHLIES))
    for number, index in enumerate(INDICES):
        if index.symbol in OPTION_SYMBOLS:
            rows.extend(_option_rows(number, day, spot(index.key), width))
    return rows


def _option_rows(number: int, day: date, spot: float, width: float) -> Iterator[Row]:
    index = INDICES[number]
    weeklies, monthlies = weekly_expiries(day, index.weeks), monthly_expiries(day, MONTHLIES)
    near = {*weeklies[:NEAR_WEEKLIES], monthlies[0]}
    middle = round(spot / index.step)
    for expiry in sorted([*weeklies, *monthlies]):
        side = min(MOST_STRIKES, round((NEAR_STRIKES if expiry in near else FAR_STRIKES) * width))
        for multiple in range(max(1, middle - side), middle + side + 1):
            for kind in ("CE", "PE"):
                yield _contract_row(number, expiry, kind, float(multiple * index.step))


def _index_row(name: str, token: str, symbol: str) -> Row:
    return {
        "segment": "NSE_INDEX",
        "name": name,
        "exchange": "NSE",
        "instrument_type": "INDEX",
        "instrument_key": f"NSE_INDEX|{name}",
        "exchange_token": token,
        "trading_symbol": symbol,
    }


def _equity_row(equity: Equity) -> Row:
    return {
        "segment": "NSE_EQ",
        "name": equity.name,
        "exchange": "NSE",
        "isin": equity.isin,
        "instrument_type": "EQ",
        "instrument_key": f"NSE_EQ|{equity.isin}",
        "lot_size": 1,
        "freeze_quantity": 100000.0,
        "exchange_token": equity.token,
        "tick_size": equity.tick,
        "trading_symbol": equity.symbol,
        "short_name": equity.symbol.title(),
        "qty_multiplier": 1.0,
        "security_type": "NORMAL",
        "cas_eligible": True,
    }


def _contract_row(number: int, expiry: Expiry, kind: str, strike: float) -> Row:
    index = INDICES[number]
    token = str(_token(number, expiry.day, kind, strike))
    named = f"{index.symbol} FUT" if kind == "FUT" else f"{index.symbol} {strike:g} {kind}"
    return {
        "weekly": expiry.weekly,
        "segment": "NSE_FO",
        "name": index.symbol,
        "exchange": "NSE",
        "expiry": expiry_ms(expiry.day),
        "instrument_type": kind,
        "asset_symbol": index.symbol,
        "underlying_symbol": index.symbol,
        "instrument_key": f"NSE_FO|{token}",
        "lot_size": index.lot,
        "freeze_quantity": index.freeze,
        "exchange_token": token,
        "minimum_lot": index.lot,
        "asset_key": index.key,
        "underlying_key": index.key,
        "tick_size": index.future_tick if kind == "FUT" else 5.0,
        "asset_type": "INDEX",
        "underlying_type": "INDEX",
        "trading_symbol": f"{named} {expiry.day:%d %b %y}".upper(),
        "strike_price": strike,
        "qty_multiplier": 1.0,
    }


_FIRST_TOKEN = 35_000
_FIRST_WEEK = date(2025, 12, 30)
_WEEKS = 64


def _token(number: int, day: date, kind: str, strike: float) -> int:
    """The contract's exchange token: the same on every day, unique among living contracts, used again 64 weeks later (as real ones are)."""
    # An expiry moved to the days before its Tuesday stays in its Tuesday's week.
    week = ((day - _FIRST_WEEK).days + 6) // 7 % _WEEKS
    if kind == "FUT":
        return _FIRST_TOKEN + len(INDICES) * _WEEKS * 1024 + number * _WEEKS + week
    return _FIRST_TOKEN + (number * _WEEKS + week) * 1024 + round(strike / INDICES[number].step) % 512 * 2 + (kind == "PE")
