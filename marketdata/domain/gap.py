"""A hole in the data, as clients are told of it. Pure."""

from __future__ import annotations

from typing import NamedTuple


class GapNotice(NamedTuple):
    """A gap that is known now, or whose healing has moved.

    Attributes:
        gap: its id in the store.
        shard: of the feed.
        start_ms, end_ms: market time, ms UTC.
        cause: of models.Gap.Cause.
        heal_state: "open", "healed" or "impossible".
        heal_detail: one sentence for a person, or "".
        instruments: ids; empty: all that the shard followed.
        candles_healed: 1-minute candles that were filled or corrected.
    """

    gap: str
    shard: int
    start_ms: int
    end_ms: int
    cause: str
    heal_state: str
    heal_detail: str
    instruments: list[int]
    candles_healed: int
