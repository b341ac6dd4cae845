"""What a market is doing: how many went up and down, who moved the most, what was traded the most, where interest was built up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
        average_price: INR, of everything that was traded since the open; None when the feed does not tell it.
        open_interest: units now; None where there is none.
        base_interest: units at the window's start; None when it is not known.
    """

    key: str
    instrument: int
    last_price: float | None
    base_price: float | None
    volume: int | None
    average_price: float | None = None
    open_interest: float | None = None
    base_interest: float | None = None

    @property
    def change_percent(self) -> float | None:
        """Change over the window; None when a price is missing."""
        if self.last_price is None or not self.base_price:
            return None
        return (self.last_price / self.base_price - 1) * 100

    @property
    def value(self) -> float | None:
        """Turnover since the open · INR; for an option, of its premiums."""
        return None if self.volume is None or self.average_price is None else self.volume * self.average_price

    @property
    def interest_change(self) -> float | None:
        """Open interest built up over the window · units; None when one is missing."""
        return None if self.open_interest is None or self.base_interest is None else self.open_interest - self.base_interest

    @property
    def interest_change_percent(self) -> float | None:
        """The same against what there was at the window's start; None when that was nothing."""
        return None if not self.base_interest or self.open_interest is None else (self.open_interest / self.base_interest - 1) * 100


class Statistics(NamedTuple):
    """The outcome.

    Attributes:
        advances, declines, unchanged: instruments whose price is above, below, at the base.
        unknown: instruments without a price now or then.
        gainers: those that rose, the greatest change first.
        losers: those that fell, the greatest fall first.
        most_active: those that were traded, the greatest volume first.
        most_active_by_value: the same, the greatest turnover first.
        oi_gainers: those whose open interest grew, the most units first.
        oi_losers: those whose open interest shrank, the most units first.
    """

    advances: int
    declines: int
    unchanged: int
    unknown: int
    gainers: list[Standing]
    losers: list[Standing]
    most_active: list[Standing]
    most_active_by_value: list[Standing]
    oi_gainers: list[Standing]
    oi_losers: list[Standing]


def market_statistics(standings: Iterable[Standing], count: int) -> Statistics:
    """Return the statistics, with `count` instruments in each list at the most. Equal ones are in order of key."""
    everyone = list(standings)
    changes = [standing.change_percent for standing in everyone]

    def first(figure: Callable[[Standing], float | None]) -> list[Standing]:
        """Those whose figure is above 0, the greatest first."""
        ranked = [(-value, standing.key, place) for place, standing in enumerate(everyone) if (value := figure(standing) or 0) > 0]
        return [everyone[place] for _, _, place in nsmallest(count, ranked)]

    return Statistics(
        advances=sum(change is not None and change > 0 for change in changes),
        declines=sum(change is not None and change < 0 for change in changes),
        unchanged=sum(change == 0 for change in changes),
        unknown=sum(change is None for change in changes),
        gainers=first(lambda standing: standing.change_percent),
        losers=first(lambda standing: -(standing.change_percent or 0)),
        most_active=first(lambda standing: standing.volume),
        most_active_by_value=first(lambda standing: standing.value),
        oi_gainers=first(lambda standing: standing.interest_change),
        oi_losers=first(lambda standing: -(standing.interest_change or 0)),
    )
