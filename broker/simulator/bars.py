"""Finished one-minute bars of the run, kept compactly and bounded: what REST candles of the live instruments are made of."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.simulator.calendar import DAY_MS
from broker.simulator.source import Bar

Integers = NDArray[np.int64]

KEPT_MS = 2 * DAY_MS
#: About 80 MB: a day and a night of 1,000 instruments. Past it the oldest are dropped; candles then come from the history.
KEPT_BARS = 1_500_000
_SCALE = 10_000


class _Batch(NamedTuple):
    start_ms: int
    slots: NDArray[np.int32]
    prices: NDArray[np.int64]
    volume: Integers
    open_interest: Integers


class Minutes:
    """Bars in batches of one minute. Prices are kept as exact ten-thousandths."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._bars = 0
        self.dropped_total = 0

    def keep(self, start_ms: Integers, slots: Integers, prices: NDArray[np.float64], volume: Integers, open_interest: Integers) -> None:
        """Keep finished bars: `prices` is open, high, low, close by slot. Drops what is too old or too much."""
        exact = np.rint(prices * _SCALE).astype(np.int64)
        for start in np.unique(start_ms).tolist():
            at = start_ms == start
            self._batches.append(_Batch(start, slots[at].astype(np.int32), exact[:, at], volume[at], open_interest[at]))
            self._bars += int(at.sum())
        while self._batches and (self._bars > KEPT_BARS or self._batches[0].start_ms < self._batches[-1].start_ms - KEPT_MS):
            dropped = len(self._batches.popleft().slots)
            self._bars -= dropped
            self.dropped_total += dropped

    def of(self, slot: int, from_ms: int, to_ms: int) -> dict[int, Bar]:
        """The kept bars of a slot by their start."""
        found: dict[int, Bar] = {}
        for batch in self._batches:
            if not from_ms <= batch.start_ms < to_ms:
                continue
            for at in np.flatnonzero(batch.slots == slot).tolist():
                first, high, low, last = (batch.prices[:, at] / _SCALE).tolist()
                found[batch.start_ms] = Bar(batch.start_ms, first, high, low, last, int(batch.volume[at]), int(batch.open_interest[at]))
        return found
