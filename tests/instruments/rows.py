"""Rows of instrument masters, made by hand, for tests of whatever reads instruments."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from instruments.domain.instrument import InstrumentRow, day_end, ms_of

REAL_MASTER = Path(__file__).resolve().parents[3] / "shared" / "upstox" / "data" / "NSE_2026-07.json.gz"
needs_real_master = pytest.mark.skipif(not REAL_MASTER.exists(), reason=f"the real master is not at {REAL_MASTER}")

WEEKLY = date(2026, 11, 17)
MONTHLY = date(2026, 11, 23)
NEXT_WEEKLY = date(2026, 12, 1)
NEXT_MONTHLY = date(2026, 12, 29)
DAY_1 = datetime(2026, 11, 10, 0, 30, tzinfo=UTC)
DAY_2 = datetime(2026, 11, 11, 0, 30, tzinfo=UTC)
DAY_3 = datetime(2026, 11, 12, 0, 30, tzinfo=UTC)


def patience() -> float:
    """By how much a time limit is to be stretched: 1 on an idle machine, more while others want its processors too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


INDEX_KEYS = {"NIFTY": "NSE_INDEX|Nifty 50", "BANKNIFTY": "NSE_INDEX|Nifty Bank", "INDIA VIX": "NSE_INDEX|India VIX"}


def index(symbol: str = "NIFTY") -> InstrumentRow:
    key = INDEX_KEYS[symbol]
    return InstrumentRow(key, "NSE_INDEX", "NSE", "INDEX", symbol, key.split("|")[1], exchange_token="26000")


def equity(
    symbol: str = "RELIANCE", name: str = "RELIANCE INDUSTRIES LTD", isin: str = "INE002A01018", series: str = "EQ"
) -> InstrumentRow:
    return InstrumentRow(
        f"NSE_EQ|{isin}",
        "NSE_EQ",
        "NSE",
        series,
        symbol,
        name,
        lot_size=1,
        tick_size=0.1,
        freeze_quantity=1e5,
        exchange_token="2885",
        isin=isin,
        cas_eligible=True,
    )


def option(
    token: int,
    strike: float = 25000.0,
    side: str = "CE",
    day: date = WEEKLY,
    symbol: str = "NIFTY",
    *,
    weekly: bool | None = None,
    lot: int = 65,
) -> InstrumentRow:
    return InstrumentRow(
        f"NSE_FO|{token}",
        "NSE_FO",
        "NSE",
        side,
        f"{symbol} {strike:g} {side} {day:%d %b %y}".upper(),
        symbol,
        INDEX_KEYS[symbol],
        symbol,
        ms_of(day_end(day)),
        day not in (MONTHLY, NEXT_MONTHLY) if weekly is None else weekly,
        strike,
        lot,
        0.05,
        1755.0,
        str(token),
    )


def future(token: int, day: date = MONTHLY, symbol: str = "NIFTY") -> InstrumentRow:
    return InstrumentRow(
        f"NSE_FO|{token}",
        "NSE_FO",
        "NSE",
        "FUT",
        f"{symbol} FUT {day:%d %b %y}".upper(),
        symbol,
        INDEX_KEYS[symbol],
        symbol,
        ms_of(day_end(day)),
        False,
        None,
        65,
        0.1,
        1755.0,
        str(token),
    )


def market() -> list[InstrumentRow]:
    """A small whole market: indices, shares, futures, a chain of NIFTY in four expiries, one of BANKNIFTY."""
    rows = [index(symbol) for symbol in INDEX_KEYS]
    rows += [equity(), equity("HDFCBANK", "HDFC BANK LTD", "INE040A01034"), equity("RELINFRA", "RELIANCE INFRASTRUCTU LTD", "INE036A01016")]
    rows += [future(100), future(101, NEXT_MONTHLY), future(102, symbol="BANKNIFTY")]
    token = 1000
    for day in (WEEKLY, MONTHLY, NEXT_WEEKLY, NEXT_MONTHLY):
        for strike in range(24500, 25501, 50):
            for side in ("CE", "PE"):
                rows.append(option(token, float(strike), side, day))
                token += 1
    for strike in (50000, 50100, 50200, 50500, 51000):
        for side in ("CE", "PE"):
            rows.append(option(token, float(strike), side, MONTHLY, "BANKNIFTY"))
            token += 1
    return rows


def broker_json(rows: Iterable[InstrumentRow]) -> bytes:
    """The rows as the broker writes them."""
    return msgspec.json.encode([_broker_row(row) for row in rows])


def master_file(path: Path, rows: Iterable[InstrumentRow]) -> Path:
    """Write rows as the broker's file."""
    path.write_bytes(gzip.compress(broker_json(rows), 1))
    return path


def _broker_row(row: InstrumentRow) -> dict[str, Any]:
    written = {
        "segment": row.segment,
        "name": row.name,
        "exchange": row.exchange,
        "instrument_type": row.instrument_type,
        "instrument_key": row.instrument_key,
        "exchange_token": row.exchange_token,
        "trading_symbol": row.trading_symbol,
        "isin": row.isin,
        "lot_size": row.lot_size,
        "freeze_quantity": row.freeze_quantity,
        "tick_size": None if row.tick_size is None else row.tick_size * 100,
        "weekly": row.weekly,
        "expiry": row.expiry_ms,
        "underlying_key": row.underlying_key,
        "asset_key": row.underlying_key,
        "underlying_symbol": row.underlying_symbol,
        "asset_symbol": row.underlying_symbol,
        "cas_eligible": True if row.cas_eligible else None,
        "strike_price": 0.0 if row.instrument_type == "FUT" else row.strike_price,
    }
    return {name: value for name, value in written.items() if value is not None}
