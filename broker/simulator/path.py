"""Where an underlying stands at a time: a random walk that is a pure function of (seed, key, time).

The walk has three scales, each a bridge between two points of the scale above: days (mean-reverting around the level, so that
weeks of running stay credible), minutes of a day, seconds of a minute. Past, present and a restart therefore agree: history
needs no storage. A share of every scale's noise is the whole market's, which correlates the underlyings.
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from broker.simulator.calendar import DAY_MS, IST_OFFSET_MS, MINUTE_MS

Floats = NDArray[np.float64]

MINUTES_A_DAY = 1440
#: A year of sessions of 375 minutes: volatility is that of trading time, spread over every minute that is market time.
_MINUTES_A_YEAR = 252 * 375
_REVERSION = 0.97
_MEMORY_DAYS = 128
_WEIGHTS = _REVERSION ** np.arange(_MEMORY_DAYS - 1, -1, -1)
#: How far, in minute volatilities, a minute's high and low go past its open and close.
_WICK = 0.3
_DAY, _MINUTE, _SECOND = range(3)


class OHLC(NamedTuple):
    """Prices of the minutes of a day: four arrays of 1440, INR."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats


def day_number(ms: int) -> int:
    """Days since 1970-01-01 in India at `ms`."""
    return (ms + IST_OFFSET_MS) // DAY_MS


def draw(seed: int, key: str, scale: int, number: int, rows: int, columns: int) -> Floats:
    """Standard normals that depend on nothing but the arguments: the same in each process."""
    return np.random.default_rng((seed, zlib.crc32(key.encode()), scale, number & 0xFFFFFFFF)).standard_normal((rows, columns))


class MarketNoise:
    """The noise that all underlyings share."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = lru_cache(maxsize=32)(self._draw)

    def _draw(self, scale: int, number: int, columns: int) -> Floats:
        return cast(Floats, draw(self.seed, "market", scale, number, 1, columns)[0])


class Path:
    """One underlying's price at any time.

    Args:
        key: names the walk; two keys walk apart.
        level: INR; what the walk reverts to.
        volatility: a year's, as a fraction.
        correlation: with the whole market, −1 to 1.
        noise: the market's share, the same object for all paths of a market.
    """

    def __init__(self, key: str, level: float, volatility: float, correlation: float, noise: MarketNoise) -> None:
        self.key = key
        self.level = level
        self.volatility = volatility
        self._correlation = correlation
        self._alone = math.sqrt(1 - correlation * correlation)
        self._noise = noise
        self._day_sigma = volatility / math.sqrt(252)
        self._minute_sigma = volatility / math.sqrt(_MINUTES_A_YEAR)
        self._logs: dict[int, Floats] = {}
        self._blocks: dict[int, Floats] = {}

    def price(self, ms: int) -> float:
        """INR at `ms` (ms UTC), to the second and between."""
        seconds = self.seconds(ms // MINUTE_MS)
        second, rest = divmod(ms % MINUTE_MS, 1000)
        return math.exp(seconds[second] + (seconds[second + 1] - seconds[second]) * rest / 1000)

    def seconds(self, minute: int) -> Floats:
        """Logarithms of the price at the 61 seconds that bound and divide a minute (number since the epoch, UTC)."""
        day, at = divmod(minute + IST_OFFSET_MS // MINUTE_MS, MINUTES_A_DAY)
        logs = self._minutes(day)
        own = draw(self._noise.seed, self.key, _SECOND, minute, 1, 60)[0]
        steps = (self._correlation * self._noise.draw(_SECOND, minute, 60) + self._alone * own) * (self._minute_sigma / math.sqrt(60))
        return _bridge(float(logs[at]), float(logs[at + 1]), steps)

    def day(self, day: int) -> OHLC:
        """The minutes of a day (number in India)."""
        logs = self._minutes(day)
        wicks = np.abs(draw(self._noise.seed, self.key, _MINUTE, -day, 2, MINUTES_A_DAY)) * (self._minute_sigma * _WICK)
        first, last = logs[:-1], logs[1:]
        return OHLC(np.exp(first), np.exp(np.maximum(first, last) + wicks[0]), np.exp(np.minimum(first, last) - wicks[1]), np.exp(last))

    def _minutes(self, day: int) -> Floats:
        logs = self._logs.get(day)
        if logs is None:
            own = draw(self._noise.seed, self.key, _MINUTE, day, 1, MINUTES_A_DAY)[0]
            steps = (self._correlation * self._noise.draw(_MINUTE, day, MINUTES_A_DAY) + self._alone * own) * self._minute_sigma
            logs = _bridge(self._start(day), self._start(day + 1), steps)
            if len(self._logs) >= 8:
                self._logs.pop(min(self._logs))
            self._logs[day] = logs
        return logs

    def _start(self, day: int) -> float:
        """Logarithm of the price at 00:00 of a day."""
        block, at = divmod(day, _MEMORY_DAYS)
        shocks = np.concatenate((self._shocks(block - 1), self._shocks(block)))[at + 1 : at + 1 + _MEMORY_DAYS]
        return math.log(self.level) + self._day_sigma * float(np.dot(shocks, _WEIGHTS))

    def _shocks(self, block: int) -> Floats:
        shocks = self._blocks.get(block)
        if shocks is None:
            own = draw(self._noise.seed, self.key, _DAY, block, 1, _MEMORY_DAYS)[0]
            shocks = self._correlation * self._noise.draw(_DAY, block, _MEMORY_DAYS) + self._alone * own
            self._blocks[block] = shocks
        return shocks


def _bridge(start: float, end: float, steps: Floats) -> Floats:
    """A walk of the given steps, tilted to run from `start` to `end`; one point more than steps."""
    walk = np.concatenate(((0.0,), np.cumsum(steps)))
    return start + walk + np.linspace(0.0, 1.0, len(walk)) * (end - start - float(walk[-1]))


class Spots:
    """The present prices of many paths at once: what every step of the market asks for."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._minute = -1
        self._grid: Floats = np.empty((0, 61))

    def add(self, path: Path) -> int:
        """Follow a path; returns its place in the arrays that `at` gives."""
        self.paths.append(path)
        self._minute = -1
        return len(self.paths) - 1

    def at(self, ms: int) -> Floats:
        """INR of every path at `ms`."""
        minute = ms // MINUTE_MS
        if minute != self._minute:
            self._grid = np.array([path.seconds(minute) for path in self.paths])
            self._minute = minute
        second, rest = divmod(ms % MINUTE_MS, 1000)
        left = self._grid[:, second]
        return np.exp(left + (self._grid[:, second + 1] - left) * (rest / 1000))
