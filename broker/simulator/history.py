"""What the market was before anyone watched: bars, day figures, volumes and open interest as pure functions of instrument and time.

Prices follow the underlying's `Path`, so this past runs into the live walk without a step. No state but the tape's fixed columns.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from broker.simulator import calendar, pricing
from broker.simulator.calendar import DAY_MS, MINUTE_MS, Hours
from broker.simulator.contract import Kind
from broker.simulator.path import OHLC, Spots, day_number
from broker.simulator.source import Bar
from broker.simulator.tape import Tape

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A contract has no candles from before it was listed; about three months for the monthly ones.
LISTED_MS = 100 * DAY_MS
#: No candles are made up from before so many days ago.
OLDEST_DAYS = 1100
_OPEN_INTEREST_LOTS = 2000
_HASH = np.array((0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB), dtype=np.uint64)


class Minute(NamedTuple):
    """One past minute of many instruments; `start_ms` 0 where there is none."""

    start_ms: int
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Integers


class Opening(NamedTuple):
    """What a day starts from: the previous session's close (INR) and open interest (units), trades a second."""

    previous_close: Floats
    previous_open_interest: Integers
    pace: Floats


class DayFigures(NamedTuple):
    """The session so far: INR, units; `day_ms` 00:00 IST of it, `end_ms` now or the session's end."""

    day_ms: int
    end_ms: int
    open: Floats
    high: Floats
    low: Floats
    last: Floats
    volume: Integers
    open_interest: Integers


def uniform(identity: Integers, number: Integers | int) -> Floats:
    """Numbers in [0, 1) that depend on the arguments alone (splitmix64)."""
    mixed = identity.astype(np.uint64) + np.asarray(number).astype(np.uint64) * _HASH[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _HASH[1]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _HASH[2]
    return cast(Floats, ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / float(1 << 53))


class History:
    """The past of the tape's instruments.

    Args:
        volatility_path: the place of the volatility index among `spots`' paths.
    """

    def __init__(self, tape: Tape, spots: Spots, volatility_path: int, hours: Hours) -> None:
        self._tape = tape
        self._spots = spots
        self._volatility_path = volatility_path
        self._hours = hours
        # Daily bars of a chain ask for the same days of its underlying again and again.
        self._session = lru_cache(maxsize=20_000)(self._underlying_session)

    def opening(self, slots: Integers, segment: str, day: date) -> Opening:
        """Figures fixed for the whole of `day`, for instruments of one segment."""
        before, _, last = calendar.session_at_or_before(segment, day - timedelta(days=1))
        close_ms = calendar.midnight_ms(before) + last * MINUTE_MS
        spot = self._spot_prices(slots, close_ms)
        close = self._on_tick(slots, spot, self._level(slots, close_ms), close_ms)
        pace = self._pace(slots, spot, close_ms)
        return Opening(close, self._day_open_interest(slots, pace, day_number(calendar.midnight_ms(day)) - 1), pace)

    def day(self, slots: Integers, segment: str, now_ms: int) -> DayFigures:
        """The session of `segment` so far, for instruments of it whose `pace` is set."""
        session = calendar.session_at(segment, now_ms, self._hours)
        first, last = calendar.minute_of_day(session.start_ms), calendar.minute_of_day(session.end_ms)
        start = self._on_tick(slots, self._spot_prices(slots, session.start_ms), self._level(slots, session.start_ms), session.start_ms)
        level = self._level(slots, session.end_ms)
        now = self._on_tick(slots, self._spot_prices(slots, session.end_ms), level, session.end_ms)
        number = day_number(session.start_ms)
        extremes = [start, now]
        if last > first:
            days = self._underlying_days(slots, number)
            for side in (np.array([day.high[first:last].max() for day in days]), np.array([day.low[first:last].min() for day in days])):
                extremes.append(self._on_tick(slots, side[self._places(slots)], level, session.end_ms))
        volume = self._volumes(slots, np.arange(first, last) + number * 1440).sum(axis=1)
        return DayFigures(
            calendar.midnight_ms(session.day), session.end_ms, start, np.max(extremes, axis=0), np.min(extremes, axis=0), now,
            volume.astype(np.int64), self._open_interest(slots, session.end_ms),
        )  # fmt: skip

    def last_minute(self, slots: Integers, segment: str, now_ms: int) -> Minute | None:
        """The last finished minute of the session so far; None in its first minute."""
        session = calendar.session_at(segment, now_ms, self._hours)
        at = calendar.minute_of_day(session.end_ms) - 1
        if at < calendar.minute_of_day(session.start_ms):
            return None
        number, start_ms = day_number(session.start_ms), calendar.midnight_ms(session.day) + at * MINUTE_MS
        days, places = self._underlying_days(slots, number), self._places(slots)
        level = self._level(slots, start_ms)
        sides = [self._on_tick(slots, np.array([side[at] for side in part])[places], level, start_ms) for part in zip(*days, strict=True)]
        volume = self._volumes(slots, np.array([number * 1440 + at]))[:, 0]
        return Minute(start_ms, sides[0], np.max(sides, axis=0), np.min(sides, axis=0), sides[3], volume)

    def minutes(self, slot: int, day: date, from_ms: int, to_ms: int) -> list[Bar]:
        """One-minute bars of one day with from_ms <= start < to_ms, whatever the hours of that day were."""
        midnight = calendar.midnight_ms(day)
        first, last = max(0, -(-(from_ms - midnight) // MINUTE_MS)), min(1440, -(-(to_ms - midnight) // MINUTE_MS))
        expiry = int(self._tape.expiry_ms[slot])
        if last <= first or (expiry and not expiry - LISTED_MS <= midnight <= expiry):
            return []
        number = day_number(midnight)
        at = np.arange(first, last)
        slots = np.full(len(at), slot, np.int64)
        starts = midnight + at * MINUTE_MS
        spot = self._spots.paths[int(self._tape.path[slot])].day(number)
        level = self._spots.paths[self._volatility_path].day(number).open[at] / 100 * self._tape.level_ratio[slot]
        sides = [self._on_tick(slots, side[at], level, starts) for side in spot]
        columns = (
            starts, sides[0], np.max(sides, axis=0), np.min(sides, axis=0), sides[3],
            self._volumes(slots[:1], at + number * 1440)[0], self._open_interest(slots, starts),
        )  # fmt: skip
        return [Bar(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    def day_bar(self, slot: int, day: date) -> Bar | None:
        """The daily bar of a past day; None on one without trading, before the contract was listed or after it ended."""
        midnight = calendar.midnight_ms(day)
        expiry = int(self._tape.expiry_ms[slot])
        minutes = calendar.session_minutes(self._tape.contracts[slot].segment, day)
        if minutes is None or (expiry and not expiry - LISTED_MS <= midnight <= expiry):
            return None
        number = day_number(midnight)
        first, last = minutes
        slots = np.full(4, slot, np.int64)
        end_ms = midnight + last * MINUTE_MS
        level = self._session(self._volatility_path, number, first, last)[3] / 100 * self._tape.level_ratio[slots]
        values = self._on_tick(slots, np.array(self._session(int(self._tape.path[slot]), number, first, last)), level, end_ms)
        volume = int(self._volumes(slots[:1], np.arange(first, last) + number * 1440).sum())
        interest = int(self._open_interest(slots[:1], end_ms)[0])
        return Bar(midnight, float(values[0]), float(values.max()), float(values.min()), float(values[3]), volume, interest)

    def _underlying_session(self, path: int, number: int, first: int, last: int) -> tuple[float, float, float, float]:
        """Open, high, low and close of an underlying between two minutes of a day."""
        day = self._spots.paths[path].day(number)
        return float(day.open[first]), float(day.high[first:last].max()), float(day.low[first:last].min()), float(day.close[last - 1])

    def _places(self, slots: Integers) -> Integers:
        """Where each slot's underlying is in what `_underlying_days` gives."""
        return np.unique(self._tape.path[slots], return_inverse=True)[1].astype(np.int64)

    def _underlying_days(self, slots: Integers, number: int) -> list[OHLC]:
        return [self._spots.paths[path].day(number) for path in np.unique(self._tape.path[slots]).tolist()]

    def _spot_prices(self, slots: Integers, ms: int) -> Floats:
        used = np.unique(self._tape.path[slots]).tolist()
        return np.array([self._spots.paths[path].price(ms) for path in used])[self._places(slots)]

    def _level(self, slots: Integers, ms: int) -> Floats:
        return self._spots.paths[self._volatility_path].price(ms) / 100 * self._tape.level_ratio[slots]

    def _on_tick(self, slots: Integers, spot: Floats, level: Floats, ms: Integers | int) -> Floats:
        tape = self._tape
        years = pricing.years_left(tape.expiry_ms[slots], ms)
        fair = pricing.fair_values(tape.kind[slots], tape.sign[slots], tape.strike[slots], years, spot, level).price
        return pricing.to_tick(fair, tape.tick[slots])

    def _pace(self, slots: Integers, spot: Floats, ms: int) -> Floats:
        """Trades a second: options near the money of near expiries most, wings few; an index trades nothing."""
        tape = self._tape
        years = pricing.years_left(tape.expiry_ms[slots], ms)
        option = tape.kind[slots] == Kind.OPTION
        strike = np.where(option, tape.strike[slots], spot)
        distance = np.log(strike / spot) / (0.13 * np.sqrt(years))
        pace = np.where(option, 0.5 + 3.0 * np.exp(-distance * distance / 4) * np.exp(-years * 4), 3.0)
        return np.where(tape.kind[slots] == Kind.INDEX, 0.0, pace)

    def _volumes(self, slots: Integers, minutes: Integers) -> Integers:
        """Units traded in each minute (number in India since the epoch): instruments by rows, minutes by columns."""
        tape = self._tape
        lots = tape.pace[slots] * 60 * (tape.lots[slots] + 1)
        found = np.floor(lots[:, None] * (0.4 + 1.2 * uniform(tape.identity[slots][:, None], minutes[None, :])))
        return cast(Integers, found.astype(np.int64) * tape.lot[slots][:, None])

    def _day_open_interest(self, slots: Integers, pace: Floats, day: Integers | int) -> Integers:
        tape = self._tape
        future = tape.kind[slots] == Kind.FUTURE
        size = pace * _OPEN_INTEREST_LOTS * np.where(future, 40, 1) * (0.3 + uniform(tape.identity[slots], 1))
        lots = np.floor(size * (0.85 + 0.3 * uniform(tape.identity[slots], day + 10)))
        return np.where(tape.kind[slots] >= Kind.FUTURE, lots.astype(np.int64) * tape.lot[slots], 0)

    def _open_interest(self, slots: Integers, ms: Integers | int) -> Integers:
        """Between the last day's and this day's, in lots."""
        number = (np.asarray(ms) + calendar.IST_OFFSET_MS) // DAY_MS
        share = (np.asarray(ms) + calendar.IST_OFFSET_MS) % DAY_MS / DAY_MS
        pace, lot = self._tape.pace[slots], self._tape.lot[slots]
        before, after = self._day_open_interest(slots, pace, number - 1), self._day_open_interest(slots, pace, number)
        return cast(Integers, (before + (after - before) * share).astype(np.int64) // lot * lot)
