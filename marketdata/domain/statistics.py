"""What a market is doing: how many went up and down, who moved the most, what was traded the most. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from typing import NamedTuple


class Standing(NamedTuple):
    """One instrument in the window.

    Attributes:
        key: the broker's instrument key.
        instrument: our instrument id.
        last_price: INR now; None when it never traded.
        base_price: INR at the window's start; None when it is not known.
        volume: units since the open; None for what is not traded (indices).
    """

    key: str
    instrument: int
    last_price: float | None
    base_price: float | None
    volume: int | None

    @property
    def change_percent(self) -> float | None:
        """Change over the window; None when a price is missing."""
        if self.last_price is None or not self.base_price:
            return None
        return (self.last_price / self.base_price - 1) * 100


class Statistics(NamedTuple):
    """The outcome.

    Attributes:
        advances, declines, unchanged: instruments whose price is above, below, at the base.
        unknown: instruments without a price now or then.
        gainers: those that rose, the greatest change first.
        losers: those that fell, the greatest fall first.
        most_active: those that were traded, the greatest volume first.
    """

    advances: int
    declines: int
    unchanged: int
    unknown: int
    gainers: list[Standing]
    losers: list[Standing]
    most_active: list[Standing]


def market_statistics(standings: Iterable[Standing], count: int) -> Statistics:
    """Return the statistics, with `count` instruments in each list at the most. Equal ones are in order of key."""
    changed: list[tuple[float, Standing]] = []
    active: list[tuple[int, Standing]] = []
    unknown = unchanged = 0
    for standing in standings:
        change = standing.change_percent
        if change is None:
            unknown += 1
        elif change:
            changed.append((change, standing))
        else:
            unchanged += 1
        if standing.volume:
            active.append((standing.volume, standing))
    risen = [pair for pair in changed if pair[0] > 0]
    fallen = [pair for pair in changed if pair[0] < 0]
    return Statistics(
        advances=len(risen),
        declines=len(fallen),
        unchanged=unchanged,
        unknown=unknown,
        gainers=[standing for _, standing in nsmallest(count, risen, key=_greatest_first)],
        losers=[standing for _, standing in nsmallest(count, fallen, key=_smallest_first)],
        most_active=[standing for _, standing in nsmallest(count, active, key=_greatest_first)],
    )


def _greatest_first(pair: tuple[float, Standing]) -> tuple[float, str]:
    return -pair[0], pair[1].key


def _smallest_first(pair: tuple[float, Standing]) -> tuple[float, str]:
    return pair[0], pair[1].key
