"""The port of `source`, and the few questions that REST asks beyond it. Both markets answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from broker.simulator.calendar import Hours
from broker.simulator.source import MarketSource
from broker.upstox import MarketDataFeedV3_pb2 as pb


class Market(MarketSource, Protocol):
    """A market that REST can be answered from."""

    @property
    def hours(self) -> Hours:
        """Whether it keeps the real exchange's hours, or none."""

    @property
    def rows_by_key(self) -> Mapping[str, dict[str, Any]]:
        """Instrument key → master row."""

    def feed(self, key: str) -> pb.Feed | None:
        """The present full-mode `Feed` of a key; None when there is none (yet)."""

    def previous_open_interest(self, key: str) -> float:
        """Open interest at the previous close, units; 0 where it is not known."""

    def spot(self, underlying_key: str) -> float:
        """Last price of an underlying, INR. Raises KeyError where it is not known."""
