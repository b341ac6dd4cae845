"""The latest quote of an instrument: ticks folded into state. Pure.

Laws: a partial tick never blanks what was known; a tick older than the state (its `volume` is lower in the same session,
or its trade time steps back) changes nothing but is counted; equal ticks do not move `seq`.
"""

from __future__ import annotations

from marketdata.domain.tick import Depth, NO_DEPTH, Tick

FIELDS = Tick._fields[2:-1]
"""The merged fields: all of a tick but instrument, rank and depth."""

DEPTH_CHANGED = 1
CHANGED = 2
UNCHANGED = 0


class Quote:
    """State of one instrument.

    Attributes:
        instrument: our instrument id.
        seq: counts changes at the source within one epoch, from 1.
        broker_ms: broker's clock of the last tick, ms UTC.
        values: the merged fields, in the order of FIELDS.
        depth: the newest levels.
    """

    __slots__ = ("broker_ms", "depth", "instrument", "out_of_order", "repeated", "seq", "values")

    def __init__(self, instrument: int) -> None:
        self.instrument = instrument
        self.seq = 0
        self.broker_ms = 0
        self.values: tuple[float | int | None, ...] = (None,) * len(FIELDS)
        self.depth: Depth = NO_DEPTH
        self.out_of_order = 0
        self.repeated = 0
