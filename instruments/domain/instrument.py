"""What an instrument is, apart from any broker: its key, segment, kind and identity. Pure; nothing is looked up here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

import msgspec

IST = timezone(timedelta(hours=5, minutes=30), "IST")
"""Indian Standard Time has had no summer time since 1945, so a fixed offset is exact."""
DAY_END = time(23, 59, 59)
"""Expiries are kept as this time of their IST day, as the broker gives them · Source: FACTS §4."""
KEY_LENGTH_MAX = 80
PLACEHOLDER_TYPE = "UNKNOWN"
"""`instrument_type` of what the feed named and no master has named yet."""


class Segment(StrEnum):
    """Segments seen in the broker's masters and feed. A new one is no error: `InstrumentRow.segment` is free text."""

    NSE_EQ = "NSE_EQ"
    NSE_FO = "NSE_FO"
    NSE_INDEX = "NSE_INDEX"
    NSE_COM = "NSE_COM"
    NCD_FO = "NCD_FO"
    BSE_EQ = "BSE_EQ"
    BSE_FO = "BSE_FO"
    BSE_INDEX = "BSE_INDEX"
    BCD_FO = "BCD_FO"
    MCX_FO = "MCX_FO"
    MCX_INDEX = "MCX_INDEX"


class OptionType(StrEnum):
    """The two sides of an option."""

    CALL = "CE"
    PUT = "PE"


FUTURE_TYPE = "FUT"
INDEX_TYPE = "INDEX"
DERIVATIVE_TYPES = frozenset({OptionType.CALL.value, OptionType.PUT.value, FUTURE_TYPE})


class InstrumentRow(msgspec.Struct, frozen=True, gc=False):
    """One row of an instrument master in our own words, whichever broker it came from.

    Attributes:
        instrument_key: the broker's key, `SEGMENT|token`; recycled, so never an identity.
        segment, exchange, instrument_type: as the broker names them; type is INDEX, EQ and other series, FUT, CE, PE, …
        underlying_key, underlying_symbol: of derivatives; None elsewhere.
        expiry_ms: end (23:59:59 IST) of the expiry day · ms UTC; None where there is none.
        weekly: the broker's flag, false in the monthly slot; None where it gives none.
        strike_price: INR; None on anything but options.
        lot_size, freeze_quantity: units · tick_size: INR.
        cas_eligible: it takes part in the closing auction session, so that its continuous trading ends before its segment's.
    """

    instrument_key: str
    segment: str
    exchange: str
    instrument_type: str
    trading_symbol: str
    name: str
    underlying_key: str | None = None
    underlying_symbol: str | None = None
    expiry_ms: int | None = None
    weekly: bool | None = None
    strike_price: float | None = None
    lot_size: int | None = None
    tick_size: float | None = None
    freeze_quantity: float | None = None
    exchange_token: str | None = None
    isin: str | None = None
    cas_eligible: bool = False


class InstrumentKey(NamedTuple):
    """A broker's key in its two parts: `NSE_FO|51420`."""

    segment: str
    token: str

    @property
    def exchange(self) -> str:
        """NSE, BSE or MCX as the segment's name tells; NCD and BCD are the currency segments of the first two."""
        first = self.segment.split("_")[0]
        return {"NCD": "NSE", "BCD": "BSE"}.get(first, first)


_KEY = re.compile(r"[A-Z][A-Z0-9_]{1,11}\|[^|\x00-\x1f\x7f]+")


def split_key(key: str) -> InstrumentKey:
    """Split a broker's key.

    Only the segment and the bar are checked: the documented pattern refuses real keys such as `NSE_INDEX|BHARATBOND-APR30` (FACTS §4).

    Raises:
        ValueError: it is no key; the message says what one looks like.
    """
    if len(key) > KEY_LENGTH_MAX or not _KEY.fullmatch(key):
        raise ValueError(f"{key[:KEY_LENGTH_MAX]!r} is no instrument key; one looks like NSE_FO|51420 or NSE_INDEX|Nifty 50")
    segment, token = key.split("|")
    return InstrumentKey(segment, token)


def identity_of(row: InstrumentRow) -> str:
    """Say what a row is, for ever: independent of its key, lot size, name or the day it was read.

    Derivatives: segment, underlying, expiry day, strike, type. Whatever carries an ISIN: segment and ISIN (a share keeps it when its
    series or symbol changes). The rest: the key. Each is unique within the real masters (tests/instruments/test_master_real.py).
    """
    if row.instrument_type in DERIVATIVE_TYPES and row.expiry_ms is not None and row.underlying_symbol:
        strike = "" if row.strike_price is None else f"{row.strike_price:.10g}"
        return f"{row.segment}:{row.underlying_symbol}:{ist_date(row.expiry_ms).isoformat()}:{strike}:{row.instrument_type}"
    if row.isin:
        return f"{row.segment}:{row.isin}"
    return row.instrument_key


def placeholder_identity(key: str, instrument: int) -> str:
    """Identity of an instrument that only the feed knows: never that of a contract, never that of another placeholder."""
    return f"?{instrument}:{key}"


_encoder = msgspec.msgpack.Encoder()


def fingerprint_of(row: InstrumentRow) -> int:
    """Hash a whole row to a signed 64-bit integer: the same in each process, different when any field differs."""
    return int.from_bytes(blake2b(_encoder.encode(row), digest_size=8).digest(), "big", signed=True)


def ist_date(at_ms: int) -> date:
    """The IST calendar day of a time, ms UTC."""
    return datetime.fromtimestamp(at_ms / 1000, IST).date()


def day_end(day: date) -> datetime:
    """The moment that stands for an expiry day: 23:59:59 IST, as an aware UTC time."""
    return datetime.combine(day, DAY_END, IST).astimezone(UTC)


def ms_of(moment: datetime) -> int:
    """Milliseconds UTC of an aware time."""
    return round(moment.timestamp() * 1000)


def repeated(values: Iterable[str]) -> set[str]:
    """The values that come more than once."""
    seen: set[str] = set()
    again: set[str] = set()
    for value in values:
        (again if value in seen else seen).add(value)
    return again
