"""The order book that a fair price and a spread imply: five levels a side, in ticks and lots. Pure, vectorised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.simulator.contract import Kind

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVELS = 5
#: Half the spread as a share of the price, by kind. Measured on the frames of January 2026: 0.1 % for options near the money.
_HALF_SPREAD = np.array([0.0, 0.00004, 0.00006, 0.0008])


class Touch(NamedTuple):
    """Best prices, INR. `bid` is 0 where nobody buys."""

    bid: Floats
    ask: Floats


class Book(NamedTuple):
    """Rows of instruments, columns of levels, best first. Price 0 and quantity 0: the level lacks that side."""

    bid_price: Floats
    bid_quantity: Integers
    ask_price: Floats
    ask_quantity: Integers


def touch(kind: Integers, fair: Floats, tick: Floats) -> Touch:
    """Best bid and ask around a fair price: on the tick, at least one tick apart. An index has no spread."""
    half = np.maximum(fair * _HALF_SPREAD[kind], tick / 2)
    bid = np.maximum(np.floor((fair - half) / tick + 1e-9), 0)
    ask = bid + np.maximum(np.rint(2 * half / tick), 1)
    middle = np.rint(fair / tick)
    index = kind == Kind.INDEX
    return Touch(np.round(np.where(index, middle, bid) * tick, 4), np.round(np.where(index, middle, ask) * tick, 4))


def book(best: Touch, tick: Floats, lot: Integers, rng: np.random.Generator) -> Book:
    """Five levels a side from the best prices outward; deeper levels hold more.

    Args:
        lot: units; quantities are multiples of it. Shares (lot 1) get hundreds.
    """
    count = len(tick)
    stride = np.maximum(np.rint((best.ask - best.bid) / tick / 3), 1)[:, None]
    gaps = np.ceil(rng.random((2, count, LEVELS)) * 2 * stride)
    gaps[:, :, 0] = 0
    away = np.cumsum(gaps, axis=2) * tick[:, None]
    bid_price = np.round(best.bid[:, None] - away[0], 4)
    ask_price = np.round(best.ask[:, None] + away[1], 4)
    size = np.where(lot == 1, 60.0, 5.0)[:, None] * np.linspace(0.6, 2.0, LEVELS)
    lots = 1 + np.floor(rng.exponential(1.0, (2, count, LEVELS)) * size).astype(np.int64)
    quantity = lots * lot[:, None]
    buyers = bid_price > 0
    return Book(np.where(buyers, bid_price, 0.0), np.where(buyers, quantity[0], 0), ask_price, quantity[1])
