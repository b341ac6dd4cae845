"""Rows of a master as the market sees them: what kind of instrument, on which underlying, in which steps. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from enum import IntEnum
from statistics import median
from typing import Any, NamedTuple

from broker.simulator.calendar import CAS
from broker.simulator.master import EQUITIES, INDICES, VIX_KEY, VIX_LEVEL

Row = dict[str, Any]


class Kind(IntEnum):
    """What decides an instrument's price and the form of its feed."""

    INDEX = 0
    SPOT = 1
    FUTURE = 2
    OPTION = 3


class Contract(NamedTuple):
    """One tradable row.

    Attributes:
        key: instrument key.
        kind: index, spot (equity, commodity), future, option.
        underlying: key of the walk that prices it; its own key for indices and spot.
        sign: 1 call, −1 put, 0 otherwise.
        strike: INR; 0 otherwise.
        expiry_ms: ms UTC; 0 where there is none.
        tick: INR (the master has paise).
        lot: units.
        segment: for the hours; with `:CAS` behind it where the instrument takes part in the closing auction.
    """

    key: str
    kind: Kind
    underlying: str
    sign: int
    strike: float
    expiry_ms: int
    tick: float
    lot: int
    segment: str


class Walk(NamedTuple):
    """How an underlying moves: `level` INR · `volatility` a year's, fraction · `correlation` with the whole market."""

    level: float
    volatility: float
    correlation: float


_KINDS = {"INDEX": Kind.INDEX, "FUT": Kind.FUTURE, "CE": Kind.OPTION, "PE": Kind.OPTION}
_SIGNS = {"CE": 1, "PE": -1}

WALKS: dict[str, Walk] = {
    VIX_KEY: Walk(VIX_LEVEL, 0.9, -0.8),
    INDICES[0].key: Walk(INDICES[0].level, 0.12, 0.92),
    INDICES[1].key: Walk(INDICES[1].level, 0.14, 0.88),
    INDICES[2].key: Walk(INDICES[2].level, 0.135, 0.88),
    INDICES[3].key: Walk(INDICES[3].level, 0.17, 0.80),
    INDICES[4].key: Walk(INDICES[4].level, 0.16, 0.82),
    **{f"NSE_EQ|{equity.isin}": Walk(equity.price, 0.18 + zlib.crc32(equity.isin.encode()) % 12 / 100, 0.55) for equity in EQUITIES},
}


def contract_of(row: Row) -> Contract:
    """Read a master's row. Anything without a known type is a spot instrument."""
    kind = _KINDS.get(row.get("instrument_type", ""), Kind.SPOT)
    key: str = row["instrument_key"]
    underlying = key
    if kind >= Kind.FUTURE:
        underlying = row.get("underlying_key") or f"{row['segment']}|{row.get('underlying_symbol', '')}"
    return Contract(
        key=key,
        kind=kind,
        underlying=underlying,
        sign=_SIGNS.get(row.get("instrument_type", ""), 0),
        strike=float(row.get("strike_price") or 0.0) if kind is Kind.OPTION else 0.0,
        expiry_ms=int(row.get("expiry") or 0) if kind >= Kind.FUTURE else 0,
        tick=0.01 if key == VIX_KEY else float(row.get("tick_size") or 5.0) / 100,
        lot=max(1, int(row.get("lot_size") or 1)),
        segment=row["segment"] + (CAS if row.get("cas_eligible") and kind is Kind.SPOT else ""),
    )


def infer_walks(rows: Iterable[Row]) -> dict[str, Walk]:
    """Levels for underlyings that only a given master knows: the middle strike of each one's nearest expiry."""
    nearest: dict[str, tuple[int, list[float]]] = {}
    for row in rows:
        if row.get("instrument_type") != "CE":
            continue
        contract = contract_of(row)
        expiry, strikes = nearest.get(contract.underlying, (contract.expiry_ms, []))
        if contract.expiry_ms < expiry:
            expiry, strikes = contract.expiry_ms, []
        if contract.expiry_ms == expiry:
            strikes.append(contract.strike)
        nearest[contract.underlying] = (expiry, strikes)
    found: dict[str, Walk] = {}
    for key, (_, strikes) in nearest.items():
        known = WALKS.get(key) or unknown_walk(key)
        found[key] = known._replace(level=median(strikes))
    return found


def unknown_walk(key: str) -> Walk:
    """A walk for an underlying of which nothing is known: its price and liveliness follow from its name."""
    digest = zlib.crc32(key.encode())
    level = 1000.0 + digest % 30_000 if key.startswith(("NSE_INDEX|", "BSE_INDEX|")) else 50.0 + digest % 2950
    return Walk(level, 0.15 + digest % 15 / 100, 0.5)
