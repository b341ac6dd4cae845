"""Rows of `make bench`: what was measured, what it must be at least, and what we aim at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One figure.

    Attributes:
        name: what was measured, as a person reads it.
        value: the figure.
        unit: behind it: "updates/s", "ms", "x", "MB".
        at_least: the bound that fails the run; None for a figure that is only told.
        aim: where we want to be; None for no aim.
        lower_is_better: the bounds are upper ones.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    aim: float | None = None
    lower_is_better: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within its bound."""
        if self.at_least is None:
            return True
        return self.value <= self.at_least if self.lower_is_better else self.value >= self.at_least

    @property
    def verdict(self) -> str:
        """One word: BELOW, ok, or aim; nothing for a figure without bounds."""
        if self.at_least is None and self.aim is None:
            return ""
        if not self.holds:
            return "BELOW"
        reached = self.aim is not None and (self.value <= self.aim if self.lower_is_better else self.value >= self.aim)
        return "aim" if reached else "ok"

    def line(self) -> str:
        """Return the row as one line of the table."""
        bound = "" if self.at_least is None else f"{'≤' if self.lower_is_better else '≥'} {_figure(self.at_least)}"
        aim = "" if self.aim is None else _figure(self.aim)
        return f"  {self.name:<68}{_figure(self.value):>11} {self.unit:<11}{bound:>11}{aim:>11}  {self.verdict}".rstrip()


HEADER = f"  {'':<68}{'measured':>11} {'':<11}{'at least':>11}{'aim':>11}"


def show(rows: Iterable[Row]) -> list[str]:
    """Print the rows; return a line for each that fell short."""
    failures = []
    for row in rows:
        print(row.line(), flush=True)
        if not row.holds:
            failures.append(f"{row.name}: {_figure(row.value)} {row.unit}")
    return failures


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
