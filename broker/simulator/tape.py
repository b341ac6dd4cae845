"""The state of every instrument that was ever asked for, as columns, and how trades are folded into it.

Every trade is in the minute's bar and in the day's; a slot (a row's place in the columns) is never given to another instrument.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import numpy as np
from numpy.typing import NDArray

from broker.simulator.bars import Minutes
from broker.simulator.calendar import DAY_MS, IST_OFFSET_MS, MINUTE_MS
from broker.simulator.contract import Contract, Kind
from broker.simulator.source import Bar

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_FLOATS = (
    "strike", "tick", "pace", "lots", "level_ratio", "previous_close", "open", "high", "low", "last", "value",
    "minute_open", "minute_high", "minute_low", "minute_close", "done_open", "done_high", "done_low", "done_close",
)  # fmt: skip
_INTEGERS = (
    "path", "kind", "sign", "identity", "expiry_ms", "lot", "quantity", "traded_ms", "volume", "open_interest", "previous_open_interest",
    "day_ms", "minute_ms", "minute_volume", "done_ms", "done_volume", "due_ms", "pending",
)  # fmt: skip


class Tape:
    """Columns by slot. Prices INR, quantities units, times ms UTC.

    Attributes:
        strike, tick, lot, path, kind, sign, identity, expiry_ms: what the contract says; `path` is the underlying's place in `Spots`.
        pace: trades a second at rate 1; 0 for an index, whose value is folded at each step.
        lots: mean lots of a trade beyond the first.
        level_ratio: the underlying's volatility to the volatility index's.
        previous_close, open, high, low, last, value, volume: the day's; value is the sum of price times quantity.
        day_ms: 00:00 IST of the day that they are of.
        minute_*: the forming minute; `minute_ms` 0 where none forms.
        done_*: the last finished minute; `done_ms` 0 where none is.
        due_ms: when the next update is sent.
        pending: trades since the last one was sent.
    """

    strike: Floats
    tick: Floats
    pace: Floats
    lots: Floats
    level_ratio: Floats
    previous_close: Floats
    open: Floats
    high: Floats
    low: Floats
    last: Floats
    value: Floats
    minute_open: Floats
    minute_high: Floats
    minute_low: Floats
    minute_close: Floats
    done_open: Floats
    done_high: Floats
    done_low: Floats
    done_close: Floats
    path: Integers
    kind: Integers
    sign: Integers
    identity: Integers
    expiry_ms: Integers
    lot: Integers
    quantity: Integers
    traded_ms: Integers
    volume: Integers
    open_interest: Integers
    previous_open_interest: Integers
    day_ms: Integers
    minute_ms: Integers
    minute_volume: Integers
    done_ms: Integers
    done_volume: Integers
    due_ms: Integers
    pending: Integers

    def __init__(self) -> None:
        self.contracts: list[Contract] = []
        self.minutes = Minutes()
        self.days: dict[int, list[Bar]] = defaultdict(list)
        self._capacity = 0
        self._grow(256)

    def _grow(self, capacity: int) -> None:
        for names, kind in ((_FLOATS, np.float64), (_INTEGERS, np.int64)):
            for name in names:
                column = np.zeros(capacity, kind)
                if self._capacity:
                    column[: self._capacity] = getattr(self, name)
                setattr(self, name, column)
        self._capacity = capacity

    def add(self, contract: Contract, path: int, identity: int, level_ratio: float) -> int:
        """Give an instrument its slot; the day's figures are still to be filled."""
        slot = len(self.contracts)
        if slot == self._capacity:
            self._grow(2 * self._capacity)
        self.contracts.append(contract)
        self.path[slot], self.identity[slot], self.level_ratio[slot] = path, identity, level_ratio
        self.kind[slot], self.sign[slot], self.strike[slot] = contract.kind, contract.sign, contract.strike
        self.expiry_ms[slot], self.tick[slot], self.lot[slot] = contract.expiry_ms, contract.tick, contract.lot
        self.lots[slot] = 60.0 if contract.lot == 1 else 2.0
        return slot

    def fold(self, slots: Integers, at_ms: Integers, price: Floats, quantity: Integers) -> None:
        """Fold one trade each into the day and the minute. A slot is at most once in `slots`; its times never step back."""
        self._fold_day(slots, at_ms, price, quantity)
        minute = at_ms - at_ms % MINUTE_MS
        fresh = self.minute_ms[slots] != minute
        if fresh.any():
            opened, opening = slots[fresh], price[fresh]
            self.finish(opened)
            self.minute_ms[opened], self.minute_volume[opened] = minute[fresh], 0
            self.minute_open[opened] = self.minute_high[opened] = self.minute_low[opened] = opening
        self.minute_high[slots] = np.maximum(self.minute_high[slots], price)
        self.minute_low[slots] = np.minimum(self.minute_low[slots], price)
        self.minute_close[slots] = price
        self.minute_volume[slots] += quantity

    def _fold_day(self, slots: Integers, at_ms: Integers, price: Floats, quantity: Integers) -> None:
        day = at_ms - (at_ms + IST_OFFSET_MS) % DAY_MS
        fresh = self.day_ms[slots] != day
        if fresh.any():
            self._open_days(slots[fresh], day[fresh], price[fresh])
        self.high[slots] = np.maximum(self.high[slots], price)
        self.low[slots] = np.minimum(self.low[slots], price)
        self.last[slots], self.quantity[slots], self.traded_ms[slots] = price, quantity, at_ms
        self.volume[slots] += quantity
        self.value[slots] += price * quantity
        self.pending[slots] += 1

    def _open_days(self, slots: Integers, day_ms: Integers, price: Floats) -> None:
        """The first trade of a day: the day before is kept as a bar, the figures of the day begin anew."""
        self.finish(slots)
        for slot in slots.tolist():
            if self.day_ms[slot]:
                self.days[slot].append(self.day_bar(slot))
                del self.days[slot][:-10]
        self.day_ms[slots] = day_ms
        self.open[slots] = self.high[slots] = self.low[slots] = price
        self.volume[slots] = 0
        self.value[slots] = 0.0
        self.done_ms[slots] = 0

    def finish(self, slots: Integers) -> None:
        """Close the forming minutes of `slots`; they become each one's last finished minute and are kept.

        The few trades of a minute that the history had already shown as finished when the instrument was first followed make no bar.
        """
        closing = slots[self.minute_ms[slots] > 0]
        slots = closing[self.minute_ms[closing] > self.done_ms[closing]]
        self.minute_ms[np.setdiff1d(closing, slots)] = 0
        if not len(slots):
            return
        self.done_ms[slots] = self.minute_ms[slots]
        self.done_open[slots], self.done_high[slots] = self.minute_open[slots], self.minute_high[slots]
        self.done_low[slots], self.done_close[slots] = self.minute_low[slots], self.minute_close[slots]
        self.done_volume[slots] = self.minute_volume[slots]
        prices = np.array((self.minute_open[slots], self.minute_high[slots], self.minute_low[slots], self.minute_close[slots]))
        self.minutes.keep(self.minute_ms[slots], slots, prices, self.minute_volume[slots], self.open_interest[slots])
        self.minute_ms[slots] = 0

    def show_finished(
        self, slots: Integers, start_ms: int, open_: Floats, high: Floats, low: Floats, close: Floats, volume: Integers
    ) -> None:
        """Take a minute of the history as the last finished one of each slot that has no later one."""
        older = self.done_ms[slots] < start_ms
        slots = slots[older]
        self.done_ms[slots] = start_ms
        self.done_open[slots], self.done_high[slots] = open_[older], high[older]
        self.done_low[slots], self.done_close[slots] = low[older], close[older]
        self.done_volume[slots] = volume[older]

    def finish_before(self, slots: Integers, minute_ms: int) -> None:
        """Close the minutes of `slots` that began before `minute_ms`: no trade of theirs can come any more."""
        self.finish(slots[self.minute_ms[slots] < minute_ms])

    def forming(self, slot: int) -> Bar | None:
        """The minute that forms, if one does."""
        if not self.minute_ms[slot]:
            return None
        return Bar(
            int(self.minute_ms[slot]), float(self.minute_open[slot]), float(self.minute_high[slot]), float(self.minute_low[slot]),
            float(self.minute_close[slot]), int(self.minute_volume[slot]), int(self.open_interest[slot]),
        )  # fmt: skip

    def day_bar(self, slot: int) -> Bar:
        """The day so far."""
        return Bar(
            int(self.day_ms[slot]), float(self.open[slot]), float(self.high[slot]), float(self.low[slot]),
            float(self.last[slot]), int(self.volume[slot]), int(self.open_interest[slot]),
        )  # fmt: skip

    def is_index(self, slots: Integers) -> Bools:
        return cast(Bools, self.kind[slots] == Kind.INDEX)
