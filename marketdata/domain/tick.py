"""A tick: what one frame of the broker said of one instrument. Pure; no merged state, no clock.

The tick's id is made from its journal record alone, so that a batch written again changes nothing:

    bits 63..13  received time, microseconds since 2020-01-01, the lowest 3 of them replaced by the feed's shard
    bits 12..0   rank of the instrument's key among the frame's keys in byte order
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

EPOCH_2020_US = 1_577_836_800_000_000
"""Microseconds from 1970-01-01 to 2020-01-01, UTC."""

RANK_BITS = 13
SHARD_BITS = 3
MAX_RANK = (1 << RANK_BITS) - 1
"""Most keys in one frame: 8,191; the broker's largest subscription is 5,000 keys."""


class TickKind(IntEnum):
    """What kind of frame a tick came in."""

    SNAPSHOT = 0
    LIVE = 1


class Level(NamedTuple):
    """One level of depth. Prices INR, quantities units; None where that side is absent."""

    bid_price: float | None
    bid_quantity: int | None
    ask_price: float | None
    ask_quantity: int | None


class Tick(NamedTuple):
    """One update of one instrument. None = the frame did not say.

    Attributes:
        instrument: our instrument id.
        rank: place of the instrument's key among the frame's keys in byte order · 0–8191.
        last_trade_ms: ms UTC · wire `ltt`.
        last_price: INR · wire `ltp`; None for a contract that never traded (wire 0).
        last_quantity: units · wire `ltq`; None for indices.
        previous_close: INR · wire `cp`.
        volume: units since the open · wire `vtt`.
        average_traded_price: INR · wire `atp`.
        open_interest: units · wire `oi`; None for equities and indices.
        implied_volatility: fraction · wire `iv`; None for what is not an option.
        delta, theta, gamma, vega, rho: per share, theta per day · wire `optionGreeks`.
        bid_price, bid_quantity, ask_price, ask_quantity: best level · INR, units.
        total_buy_quantity, total_sell_quantity: units · wire `tbq`, `tsq`.
        day_open, day_high, day_low: INR · the wire's `1d` bar.
        depth: all levels, best first, as `Level`s are made of them on demand; () where the frame had none.
    """

    instrument: int
    rank: int
    last_trade_ms: int | None
    last_price: float | None
    last_quantity: int | None
    previous_close: float | None
    volume: int | None
    average_traded_price: float | None
    open_interest: float | None
    implied_volatility: float | None
    delta: float | None
    theta: float | None
    gamma: float | None
    vega: float | None
    rho: float | None
    bid_price: float | None
    bid_quantity: int | None
    ask_price: float | None
    ask_quantity: int | None
    total_buy_quantity: float | None
    total_sell_quantity: float | None
    day_open: float | None
    day_high: float | None
    day_low: float | None
    depth: Depth


class Depth(tuple[Any, ...]):
    """The levels of one tick; empty where the frame had none. A subclass may hold them in another form and read them when asked."""

    __slots__ = ()

    def levels(self) -> tuple[Level, ...]:
        """Return the levels, best first."""
        return tuple(self)


NO_DEPTH = Depth()


def received_stamp_us(now_us: int, last_us: int, shard: int) -> int:
    """Return the received time of a new record: strictly above `last_us` even when the clock steps back.

    Args:
        now_us: our clock, microseconds since 1970.
        last_us: the stamp of the record before (microseconds since 2020), 0 for none.
        shard: 0–7, kept in the stamp's lowest 3 bits.

    Returns:
        Microseconds since 2020-01-01 with the shard in the lowest 3 bits.
    """
    step = 1 << SHARD_BITS
    stamp = ((now_us - EPOCH_2020_US) & -step) | shard
    return stamp if stamp > last_us else (last_us & -step) + step | shard


def tick_id(received_us: int, rank: int) -> int:
    """Return the int64 id of the tick at `rank` of the record stamped `received_us` (as `received_stamp_us` gives it)."""
    return received_us << RANK_BITS | rank


def tick_id_received_us(identifier: int) -> int:
    """Return the stamp that `tick_id` was made from."""
    return identifier >> RANK_BITS


def stamp_to_ms(received_us: int) -> int:
    """Return a received stamp as epoch milliseconds UTC."""
    return (received_us + EPOCH_2020_US) // 1000
