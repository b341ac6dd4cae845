"""What the feed shows of the tape at a moment: fair values, greeks, depth, and the broker's messages made of them. Changes nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.simulator import depth, pricing
from broker.simulator.contract import Kind
from broker.simulator.feeds import Bar1, Figures, index_feed, market_feed
from broker.simulator.path import Spots
from broker.simulator.tape import Tape
from broker.upstox import MarketDataFeedV3_pb2 as pb

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Lots that wait in the whole book of one side, about.
_WAITING_LOTS = 2000


class Worth(NamedTuple):
    """Fair values of some slots, with the spot prices (INR) and the years to expiry behind them."""

    fair: pricing.Values
    spot: Floats
    years: Floats


class View:
    """Reads the tape. `volatility_path` is the place of the volatility index among the paths of `spots`."""

    def __init__(self, tape: Tape, spots: Spots, volatility_path: int) -> None:
        self._tape = tape
        self._spots = spots
        self._volatility_path = volatility_path

    def values(self, slots: Integers, ms: int) -> Worth:
        """What the instruments of `slots` are worth at `ms`."""
        tape = self._tape
        spots = self._spots.at(ms)
        spot = spots[tape.path[slots]]
        years = pricing.years_left(tape.expiry_ms[slots], ms)
        level = spots[self._volatility_path] / 100 * tape.level_ratio[slots]
        return Worth(pricing.fair_values(tape.kind[slots], tape.sign[slots], tape.strike[slots], years, spot, level), spot, years)

    def feeds(self, slots: Integers, ms: int, rng: np.random.Generator, partial: Bools) -> list[pb.Feed]:
        """Full-mode feeds in the order of `slots`; those marked `partial` lack depth and greeks."""
        if not len(slots):
            return []
        figures = self._figures(slots, ms, rng)
        indices = (self._tape.kind[slots] == Kind.INDEX).tolist()
        return [
            index_feed(shown.last, shown.traded_ms, shown.previous_close, shown.day, shown.minute)
            if index
            else market_feed(shown, partial=part)
            for shown, index, part in zip(figures, indices, partial.tolist(), strict=True)
        ]

    def _figures(self, slots: Integers, ms: int, rng: np.random.Generator) -> list[Figures]:
        tape = self._tape
        worth = self.values(slots, ms)
        best = depth.touch(tape.kind[slots], worth.fair.price, tape.tick[slots])
        book = depth.book(best, tape.tick[slots], tape.lot[slots], rng)
        waiting = (np.floor((0.6 + 0.8 * rng.random((2, len(slots)))) * _WAITING_LOTS).astype(np.int64) * tape.lot[slots]).tolist()
        average = np.round(tape.value[slots] / np.maximum(tape.volume[slots], 1), 2)
        columns = zip(
            *(column[slots].tolist() for column in (tape.last, tape.traded_ms, tape.quantity, tape.previous_close)),
            self._day_bars(slots),
            self._finished_bars(slots),
            average.tolist(),
            *(column[slots].tolist() for column in (tape.volume, tape.open_interest)),
            # The broker's volatilities are single precision (0.10101318359375).
            worth.fair.volatility.astype(np.float32).tolist(),
            self._greeks(slots, worth),
            zip(book.bid_price.tolist(), book.bid_quantity.tolist(), strict=True),
            zip(book.ask_price.tolist(), book.ask_quantity.tolist(), strict=True),
            *waiting,
            strict=True,
        )
        return [Figures(*values) for values in columns]

    def _greeks(self, slots: Integers, worth: Worth) -> list[tuple[float, ...] | None]:
        """Rounded to four digits as the broker's; None for what is not an option."""
        tape = self._tape
        found: list[tuple[float, ...] | None] = [None] * len(slots)
        option = np.flatnonzero(tape.kind[slots] == Kind.OPTION)
        if len(option):
            chosen = slots[option]
            greeks = pricing.option_greeks(
                tape.sign[chosen], worth.spot[option], tape.strike[chosen], worth.years[option], worth.fair.volatility[option]
            )
            for at, five in zip(option.tolist(), np.round(np.array(greeks), 4).T.tolist(), strict=True):
                found[at] = tuple(five)
        return found

    def _day_bars(self, slots: Integers) -> list[Bar1]:
        tape = self._tape
        return _bars(slots, tape.open, tape.high, tape.low, tape.last, tape.volume, tape.day_ms)

    def _finished_bars(self, slots: Integers) -> list[Bar1]:
        tape = self._tape
        return _bars(slots, tape.done_open, tape.done_high, tape.done_low, tape.done_close, tape.done_volume, tape.done_ms)


def _bars(slots: Integers, *columns: Floats | Integers) -> list[Bar1]:
    return [Bar1(*values) for values in zip(*(column[slots].tolist() for column in columns), strict=True)]
