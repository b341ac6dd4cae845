"""The latest quote of an instrument: ticks folded into state. Pure.

Laws: a partial tick never blanks what was known (levels that were sent are whole: a side they lack is gone); a live tick
that steps back (its day's volume is lower within one IST day of trading, or its trade time is earlier) changes nothing and
is told apart; a snapshot is believed, whatever it says; an equal tick does not move `seq`.
"""

from __future__ import annotations

from marketdata.domain.candle import day_start_ms
from marketdata.domain.tick import NO_DEPTH, Depth, Tick

FIELDS = Tick._fields[2:-1]
"""The merged fields, in order: all of a tick but instrument, rank and depth."""

OUT_OF_ORDER = -1
REPEATED = 0
CHANGED = 1
DEPTH_CHANGED = 2

_VOLUME = FIELDS.index("volume")
_BEST = FIELDS.index("bid_price")
_NO_BEST = (None, None, None, None)
"""Bid price and quantity, ask price and quantity."""


class Quote:
    """State of one instrument.

    Attributes:
        instrument: our instrument id.
        seq: counts changes at the source within one epoch, from 1; 0 before the first tick.
        broker_ms: broker's clock of the newest tick that was folded, ms UTC.
        values: the merged fields, in the order of FIELDS.
        depth: the newest levels.
    """

    __slots__ = ("broker_ms", "depth", "instrument", "seq", "values")

    def __init__(self, instrument: int) -> None:
        self.instrument = instrument
        self.seq = 0
        self.broker_ms = 0
        self.values: tuple[float | int | None, ...] = (None,) * len(FIELDS)
        self.depth: Depth = NO_DEPTH

    def apply(self, tick: Tick, broker_ms: int, *, snapshot: bool = False) -> int:
        """Fold one tick.

        Args:
            tick: of this instrument.
            broker_ms: broker's clock of its frame, ms UTC.
            snapshot: the tick came in the first frame of a subscription.

        Returns:
            OUT_OF_ORDER for a tick that steps back, REPEATED for one that says nothing new; else CHANGED, with DEPTH_CHANGED
            added where the levels are others. Only a change is above zero.
        """
        old = self.values
        new: tuple[float | int | None, ...] = tick[2:-1]
        if self.seq and not snapshot and self._steps_back(old, new):
            return OUT_OF_ORDER
        depth = tick.depth
        if not all(new):  # a None, or a zero; `None in new` compares each, and takes eight times as long
            known = old[:_BEST] + _NO_BEST + old[_BEST + 4 :] if depth else old  # a side that the levels lack is not there
            new = tuple([was if value is None else value for was, value in zip(known, new, strict=True)])
        if new == old and (not depth or depth == self.depth):
            self.broker_ms = max(self.broker_ms, broker_ms)
            return REPEATED
        self.values = new
        self.broker_ms = broker_ms
        self.seq += 1
        if depth and depth != self.depth:
            self.depth = depth
            return CHANGED | DEPTH_CHANGED
        return CHANGED

    @staticmethod
    def _steps_back(old: tuple[float | int | None, ...], new: tuple[float | int | None, ...]) -> bool:
        """Whether `new` is older than `old`. A fall of the volume on a later day of trading is a new session."""
        was_ms, is_ms = old[0], new[0]
        if was_ms is None or is_ms is None:
            return False
        if is_ms < was_ms:
            return True
        was, now = old[_VOLUME], new[_VOLUME]
        if was is None or now is None or now >= was:
            return False
        return day_start_ms(int(is_ms)) == day_start_ms(int(was_ms))
